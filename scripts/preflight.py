r"""Stage `preflight`: would this recipe fit on an accelerator, and how long would it take at least? Without one.

  python scripts/preflight.py --settings results/gemma2-2b-it/settings.yaml \
      --output results/gemma2-2b-it/preflight.json

Compiles the recipe's own programs from its settings alone: no weights, no data, no accelerator. For a TPU it needs
libtpu (envs/tpu.txt).
"""

import argparse
import os
import sys
import time
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import run_stage
from gsm8k_grpo.common.provenance import collect_provenance, package_version
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.config.stage_settings import stage_settings

BLOCKS = ("seed", "mesh", "model", "prompt", "training", "evaluation", "preflight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, help=f"JSON text or a settings.yaml; needs {', '.join(BLOCKS)}")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    chosen = to_plain(stage_settings(arguments.settings, *BLOCKS))
    # Compiling needs no device but the host's; the TPU's compiler looks for none, and holds no lock.
    os.environ.update(
        JAX_PLATFORMS="cpu",
        TPU_SKIP_MDS_QUERY="1",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_WORKER_ID="0",
        TPU_ACCELERATOR_TYPE="v5litepod-8",
    )
    from gsm8k_grpo.config.accelerators import ACCELERATORS
    from gsm8k_grpo.preflight import verdict
    from gsm8k_grpo.preflight.text import table

    accelerator, started = ACCELERATORS[chosen["preflight"]["accelerator"]], time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    answer = verdict.preflight(chosen, accelerator, say)
    libtpu = package_version("libtpu")
    provenance = collect_provenance(seed=chosen["seed"])
    provenance["versions"]["libtpu"] = libtpu
    files.write_json(arguments.output, {**answer, "provenance": provenance})
    print(table(answer), flush=True)


if __name__ == "__main__":
    run_stage(main)
