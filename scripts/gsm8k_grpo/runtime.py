"""What a process sets before it computes: memory behaviour, compilation cache, and what it reports of the machine."""

import ctypes
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

# fmt: off
PACKAGES = (
    "jax", "jaxlib", "flax", "google-tunix", "qwix", "orbax-checkpoint", "optax", "sentencepiece", "numpy", "snakemake",
)
# fmt: on
_STARTED = time.monotonic()


def configure_jax() -> None:
    """Sets up JAX for this process; call it before the first computation.

    - Compiled programs are kept under `results/cache/jax`, so that the evaluations of one run share them.
    - Freed buffers stay in the process: XLA on the CPU allocates its temporaries anew at each step, and without this
      more than half of a small step went into the kernel's page faults.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        m_trim_threshold, m_top_pad, m_mmap_max, m_arena_max = -1, -2, -4, -8  # <malloc.h>
        for option, value in (
            (m_arena_max, 1),
            (m_mmap_max, 0),
            (m_trim_threshold, 2**31 - 1),
            (m_top_pad, 256 * 2**20),
        ):
            libc.mallopt(option, value)
    import jax

    jax.config.update("jax_compilation_cache_dir", os.path.abspath("results/cache/jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def provenance(**facts: object) -> dict:
    """Versions, machine, commit and seconds of this process, with the stage's own facts (seed, hashes) in front."""
    git = _git()
    return {
        **facts,
        "seconds": round(time.monotonic() - _STARTED, 2),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": git[0],
        "dirty": git[1],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device() -> str:
    if "jax" not in sys.modules:
        return "cpu (JAX not used)"
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
