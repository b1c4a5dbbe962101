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


def newest_version(parsed) -> int | None:
    """The newest version of a model's variation; None where Kaggle has none, or none that this account may see.

    The public functions do not tell: an upload adds a version to what is there without asking.
    """
    from kagglehub import clients, exceptions, http_resolver

    try:
        with clients.build_kaggle_client() as client:
            return http_resolver._get_current_version(client, parsed)
    except exceptions.KaggleApiHTTPError as error:
        if error.response is not None and error.response.status_code in (403, 404):
            return None
        raise
