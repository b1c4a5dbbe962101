r"""Stage `preflight`: does this recipe fit on an accelerator, and how long does it take at least?

  python scripts/preflight.py --settings results/gemma2-2b-it/settings.yaml \
      --output results/gemma2-2b-it/preflight.json

Compiles the recipe's programs from its settings: it needs no weights, no data and no accelerator. For a TPU it needs
libtpu (envs/tpu.txt). With --tokenizer it counts the tokens with which all prompts begin; without, it estimates them.
"""

import os
import sys
import time
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import OutputFile, Settings, run_stage
from gsm8k_grpo.common.provenance import collect_provenance, package_version
from gsm8k_grpo.config.accelerators import ACCELERATORS
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.preflight.environment import COMPILE_ONLY

BLOCKS = ("seed", "mesh", "model", "prompt", "training", "evaluation", "preflight")


def main(*, settings: Settings, tokenizer: Path | None = None, output: OutputFile) -> None:
    """Runs the stage.

    Args:
      tokenizer: of the base model, if it is on this machine
    """
    settings = to_plain(stage_settings(settings, *BLOCKS))
    os.environ |= COMPILE_ONLY
    from gsm8k_grpo.preflight.prompt_beginning import common_tokens
    from gsm8k_grpo.preflight.text import result_text
    from gsm8k_grpo.preflight.verdict import run_preflight

    started = time.monotonic()

    def log(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)

    tokens, found = common_tokens(settings, tokenizer)
    log(f"all prompts begin with the same {tokens} tokens ({found})")
    result = run_preflight(settings, ACCELERATORS[settings["preflight"]["accelerator"]], log, tokens)
    provenance = collect_provenance(seed=settings["seed"])
    provenance["versions"]["libtpu"] = package_version("libtpu")
    files.write_json(output, {**result, "provenance": provenance})
    print(result_text(result), flush=True)


if __name__ == "__main__":
    run_stage(main)
