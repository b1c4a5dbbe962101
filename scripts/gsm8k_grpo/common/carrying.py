"""Which results a next session on another machine needs, and one archive of them."""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError

HUBS = ("huggingface", "kaggle")
# What the next session makes anew in seconds, or never reads: compiled programs, damaged checkpoints, exports.
LEFT_OUT = ("cache", "set-aside", "export", "export-tunix", "export-gguf")
PAGE = "README.md"  # the one file of results/ that belongs to the project
OWN = ("data", "logs", "models", "records")  # folders of which each results/ has one at least


def files_to_carry(results: Path) -> Iterator[Path]:
    """Yields the files below results/ that a next session goes on from, in a fixed order.

    The weights of a model from a hub are left out: its stage fetches them again, and as they are the same, what follows
    is taken over. So are hidden files, which are parts of what was not finished.
    """
    fetched = {path.parent for path in results.glob("models/*/model.json") if _is_from_hub(path)}
    # Through links: a folder of results may lie on a larger disk.
    found = (Path(folder, name) for folder, _, names in os.walk(results, followlinks=True) for name in names)
    for path in sorted(found):
        parts = path.relative_to(results).parts
        weights = any(path.is_relative_to(folder / name) for folder in fetched for name in ("weights", "published"))
        hidden = any(part.startswith(".") and ".making." in part for part in parts)
        if path.is_file() and not (weights or hidden or {*LEFT_OUT} & {*parts[:-1]} or parts == (PAGE,)):
            yield path


def _is_from_hub(manifest: Path) -> bool:
    return files.read_json_object(manifest).get("origin", {}).get("source") in HUBS


def pack(results: Path, archive: Path, carried: list[Path]) -> None:
    """Writes files of results/ into one archive (tar), whole or not at all.

    Raises:
      OSError: names the archive, where the disk has too little room for it.
    """
    descriptor, temporary = tempfile.mkstemp(dir=archive.absolute().parent, prefix=f".{archive.name}.")
    try:
        with os.fdopen(descriptor, "wb") as handle, tarfile.open(fileobj=handle, mode="w", dereference=True) as packed:
            for path in carried:
                packed.add(path, arcname=path.relative_to(results).as_posix())
        os.replace(temporary, archive)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(archive)
        raise


def unpack(archive: Path, results: Path) -> int:
    """Puts the files of an archive into results/, which must have none; returns how many.

    Raises:
      PipelineError: no such archive, it is cut short or another program's, or results/ has files.
      OSError: names results/, where its disk has too little room.
    """
    there = next((path for path in results.rglob("*") if path.is_file() and path != results / PAGE), None)
    if there:
        raise PipelineError(f"{results}: has files already ({there}); restore into a fresh clone, or move them away")
    results.mkdir(parents=True, exist_ok=True)
    try:
        # Beside their places first: a torn archive leaves nothing behind.
        with tarfile.open(archive) as packed, tempfile.TemporaryDirectory(dir=results, prefix=".making.") as making:
            count = _extract(packed, Path(making))
            for path in Path(making).iterdir():
                path.rename(results / path.name)
            return count
    except (FileNotFoundError, IsADirectoryError):
        raise PipelineError(f"{archive}: no such file; name the archive that carry.py wrote") from None
    except (tarfile.TarError, EOFError) as error:
        reason = str(error).partition(":\n")[0]  # without a line for each way of compression
        raise PipelineError(f"{archive}: is no whole archive of carry.py ({reason}); copy it again") from None
    except OSError as error:
        error.filename = error.filename or str(results)
        raise


def _extract(packed: tarfile.TarFile, folder: Path) -> int:
    """Writes an archive's files with their times below a folder; returns how many.

    `extractall` knows how to refuse what leads out of the folder since Python 3.11.4 only.
    """
    members = packed.getmembers()
    # Where the rest of an archive is missing or damaged, tarfile takes the beginning for all.
    packed.fileobj.seek(packed.offset)
    if packed.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.TarError(f"it ends or is damaged after {len(members)} files")
    for member in members:
        path = PurePosixPath(member.name)
        if not member.isfile() or path.is_absolute() or ".." in path.parts:
            raise tarfile.TarError(f"{member.name} is no plain file of results/")
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with packed.extractfile(member) as source, open(target, "wb") as copy:
            shutil.copyfileobj(source, copy)
        os.utime(target, (member.mtime, member.mtime))
    if not any((folder / name).is_dir() for name in OWN):
        raise tarfile.TarError(f"it has none of the folders {', '.join(OWN)}")
    return len(members)
