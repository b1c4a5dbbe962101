"""What a process sets before it computes: memory behaviour, compilation cache, and what it reports of the machine."""

import ctypes
import importlib.util
import os
import platform
import subprocess
import sys
import time
import types
from importlib import metadata
from pathlib import Path

# fmt: off
PACKAGES = (
    "jax", "jaxlib", "flax", "google-tunix", "qwix", "orbax-checkpoint", "optax", "sentencepiece", "numpy",
)
# fmt: on
_STARTED = time.monotonic()


def configure_jax() -> None:
    """Sets up JAX for this process; call it before the first computation.

    - Compiled programs are kept under `results/cache/jax`, so that the evaluations of a run's checkpoints share
      them, or where JAX's own JAX_COMPILATION_CACHE_DIR says.
    - Tunix's modules are found without all that `import tunix` brings along: see `_spare_tunix_extras`.
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
    _spare_tunix_extras()
    import jax

    kept = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.abspath("results/cache/jax")
    jax.config.update("jax_compilation_cache_dir", kept)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _spare_tunix_extras() -> None:
    """Puts an empty package in the place of `tunix`, from which its modules are imported as ever.

    Its own `__init__` imports agents, distillation and, with these, pandas: a quarter of each stage's imports.
    """
    spec = importlib.util.find_spec("tunix")
    if spec and "tunix" not in sys.modules:
        package = types.ModuleType("tunix")
        package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations)
        sys.modules["tunix"] = package


def join_processes() -> None:
    """Joins the processes of one run, one a host of a TPU slice; call it after `configure_jax`.

    Cloud TPU, SLURM and Kubernetes tell JAX who the others are. Elsewhere the environment does: JAX_COORDINATOR_ADDRESS
    (HOST:PORT of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    import jax

    count, index = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    jax.distributed.initialize(num_processes=int(count) if count else None, process_id=int(index) if index else None)


def leads() -> bool:
    """Whether this process writes what is written once; true where there is only one."""
    import jax

    return jax.process_index() == 0


def provenance(**facts: object) -> dict:
    """Versions, machine, commit and seconds of this process, with the stage's own facts (seed, hashes) in front."""
    git = _git()
    return {
        **facts,
        "seconds": round(time.monotonic() - _STARTED, 2),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device(),
        "versions": {**versions(), "snakemake": version("snakemake")},
        "commit": git[0],
        "dirty": git[1],
    }


def versions() -> dict[str, str | None]:
    """Of the libraries that compute."""
    return {name: version(name) for name in PACKAGES}


def version(package: str) -> str | None:
    """Of an installed package."""
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
