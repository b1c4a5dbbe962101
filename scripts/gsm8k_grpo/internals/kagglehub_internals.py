"""Parts of kagglehub 1.0.2 that are private, each with the reason."""

from pathlib import Path


def parse_handle(kind: str, handle: str):
    """Kaggle's handle object, with the version that the cache is asked for. The public functions take text only."""
    from kagglehub import handle as handles

    return (handles.parse_model_handle if kind == "model" else handles.parse_dataset_handle)(handle)


def cached_folder(parsed) -> Path | None:
    """The cached folder of the version asked for, or of the newest one, if it was fetched completely.

    kagglehub has no offline mode: its public functions ask Kaggle for the newest version first.
    """
    from kagglehub import cache

    if parsed.is_versioned():
        found = cache.Cache().load_from_cache(parsed)
        return Path(found) if found else None
    around = Path(cache.get_cached_path(parsed.with_version(1))).parent
    for version in sorted((int(path.name) for path in around.glob("*") if path.name.isdecimal()), reverse=True):
        if found := cache.Cache().load_from_cache(parsed.with_version(version)):
            return Path(found)
    return None


def cache_root() -> str:
    """The folder of all that kagglehub has fetched."""
    from kagglehub import config

    return config.get_cache_folder()


def has_credentials() -> bool:
    """Whether kagglehub finds credentials, in the environment or in its own files."""
    from kagglehub import config

    return config.get_kaggle_credentials() is not None
