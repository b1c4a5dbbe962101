"""Parts of kagglehub that are private or that we patch, each with the reason and the version."""

from pathlib import Path


def parse_handle(kind: str, handle: str):
    """Kaggle's handle object."""
    from kagglehub import handle as handles

    return (handles.parse_model_handle if kind == "model" else handles.parse_dataset_handle)(handle)


def cached_folder(parsed) -> Path | None:
    """The folder of the version asked for, or of the newest, if it was fetched whole before."""
    from kagglehub import cache

    if parsed.is_versioned():
        found = cache.Cache().load_from_cache(parsed)
        return Path(found) if found else None
    around = Path(cache.get_cached_path(parsed.with_version(1))).parent
    for version in sorted((int(path.name) for path in around.glob("*") if path.name.isdecimal()), reverse=True):
        if found := cache.Cache().load_from_cache(parsed.with_version(version)):
            return Path(found)
    return None
