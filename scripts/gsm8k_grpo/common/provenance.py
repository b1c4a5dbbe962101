"""Where a result comes from: versions of the libraries, machine, commit and seconds."""

import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

# fmt: off
PACKAGES = (
    "jax", "jaxlib", "flax", "google-tunix", "qwix", "orbax-checkpoint", "optax", "sentencepiece", "numpy",
)
# fmt: on
WITHOUT_JAX = "cpu (JAX not used)"  # the device of a stage that computes nothing with JAX
_STARTED = time.monotonic()


def collect_provenance(**facts: object) -> dict:
    """Versions, machine, commit and seconds of this process, with the stage's own facts (seed, hashes) in front."""
    git = _git()
    return {
        **facts,
        "seconds": round(time.monotonic() - _STARTED, 2),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "device": _device(),
        "versions": {**library_versions(), "snakemake": package_version("snakemake")},
        "commit": git[0],
        "dirty": git[1],
    }


def library_versions() -> dict[str, str | None]:
    """Of the libraries that compute."""
    return {name: package_version(name) for name in PACKAGES}


def package_version(package: str) -> str | None:
    """Of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's model and how many cores this process may use. Both decide the order of sums on a CPU."""
    listed = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*: *(.+)$", listed.read_text() if listed.is_file() else "", re.MULTILINE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} × {named[1].strip() if named else platform.processor() or platform.machine()}"


def _device() -> str:
    if "jax" not in sys.modules:
        return WITHOUT_JAX
    import jax

    devices = jax.devices()
    return f"{len(devices)} × {devices[0].device_kind}"


def _git() -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it); (None, None) outside a git checkout."""
    root = Path(__file__).parent

    def ask(*words: str) -> str:
        return subprocess.run(("git", *words), cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return ask("rev-parse", "HEAD"), bool(ask("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None
