"""Packs what a next session on another machine needs from results/ into one archive, and restores it there.

  python scripts/carry.py --archive carry.tar
  python scripts/carry.py --archive carry.tar --restore

Adapters, optimizer state, evaluations, settings and records are in it; compiled programs, exports, and weights that a
hub has are not.
"""

import shutil
from pathlib import Path

from gsm8k_grpo.common import carrying
from gsm8k_grpo.common.command_line import ResultsFolder, run_stage
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.units import size_text


def main(*, archive: Path, results: ResultsFolder = Path("results"), restore: bool = False) -> None:
    """Packs or restores.

    Args:
      archive: the archive
      restore: takes the archive's files into the folder of all artifacts
    """
    if restore:
        count = carrying.unpack(archive, results)
        print(f"{results}: {count} files are restored; run the same command as before")
        return
    if not results.is_dir():
        raise PipelineError(f"--results: {results} is no folder; give the folder of all artifacts")
    folder = archive.absolute().parent
    if not folder.is_dir():
        raise PipelineError(f"--archive: {folder} is no folder; name a file in one that is there")
    if folder.resolve().is_relative_to(results.resolve()):
        raise PipelineError(f"--archive: {archive} would lie in {results} and carry itself; name a file elsewhere")
    try:
        carried = list(carrying.files_to_carry(results))
        size, free = sum(path.stat().st_size for path in carried), shutil.disk_usage(folder).free
        print(f"{archive}: packing {len(carried)} files, {size_text(size)}; {size_text(free)} are free", flush=True)
        if size > free:
            raise PipelineError(f"--archive: {archive} needs {size_text(size)}; name a file on another disk")
        carrying.pack(results, archive, carried)
    except FileNotFoundError as error:  # a stage is at work, and removed or renamed it
        raise PipelineError(
            f"{error.filename}: is gone since packing began; wait until no stage runs, then run the same command again"
        ) from None


if __name__ == "__main__":
    run_stage(main)
