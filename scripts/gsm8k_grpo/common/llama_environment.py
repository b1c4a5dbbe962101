"""llama.cpp and its converter have an environment of their own (envs/gguf.txt), so they run in another process."""

from importlib import metadata
from pathlib import Path

from gsm8k_grpo.common import layout
from gsm8k_grpo.common.errors import PipelineError

ENVIRONMENT = layout.ROOT / ".venv-gguf"
MAKE_IT = "snakemake --cores 1 results/RECIPE/export-gguf/model.gguf makes one"


def llama_python() -> Path:
    """The Python that has llama.cpp.

    Raises:
      PipelineError: its environment is not set up.
    """
    if not (ENVIRONMENT / ".ready").is_file():
        raise PipelineError(f"{ENVIRONMENT}: llama.cpp has an environment of its own, not set up yet: make setup-gguf")
    return ENVIRONMENT / "bin" / "python"


def require_file(path: Path) -> None:
    """Checks that llama.cpp and the file are there, before anything is loaded.

    Raises:
      PipelineError: llama.cpp's environment is not set up, or there is no such GGUF file.
    """
    llama_python()
    if not path.is_file():
        raise PipelineError(f"{path}: no such file; {MAKE_IT}")


def llama_versions(*names: str) -> dict[str, str]:
    """The versions of packages there."""
    folders = [str(folder) for folder in ENVIRONMENT.glob("lib/python*/site-packages")]
    found = {name: next(iter(metadata.distributions(name=name, path=folders)), None) for name in names}
    return {name: package.version for name, package in found.items() if package}
