r"""Stage `transfer_rows`: the rows of one set of `evaluation.transfer`, normalised, from its repository or from a file.

  python scripts/transfer_rows.py --chosen svamp --output results/data/svamp
  python scripts/transfer_rows.py --chosen '{name: mine, path: problems.csv, question: problem}' \
      --output results/data/mine

Writes test.jsonl (`id`, `question`, `solution`, `answer`, perhaps `group` and `cluster`) and dataset.json. `answer` is
null where no number is right.
"""

from typing import Annotated

import cyclopts

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import OutputFolder, run_stage
from gsm8k_grpo.common.provenance import collect_provenance
from gsm8k_grpo.config.transfer import read_transfer_set
from gsm8k_grpo.data.transfer_rows import load_transfer_set


def main(
    *,
    chosen: Annotated[str, cyclopts.Parameter(help="an item of evaluation.transfer: a name, or JSON or YAML text")],
    output: OutputFolder,
) -> None:
    """Runs the stage."""
    transfer_set = read_transfer_set(chosen)
    rows, origin = load_transfer_set(transfer_set)
    files.write_jsonl(output / "test.jsonl", rows)
    apart = len(origin["without_number"])
    said = f"; {apart} of them have no number as their answer, and are scored apart" if apart else ""
    print(f"{transfer_set['name']}: {len(rows)} rows{said}")
    if origin["as_published"] is False:
        print(f"WARNING: {transfer_set['name']}: not the file that the project knows by this name")
    manifest = {
        "name": transfer_set["name"],
        "origin": origin,
        "rows": {"test": len(rows)},
        "sha256": {"test": files.sha256_file(output / "test.jsonl")},
        "provenance": collect_provenance(seed=transfer_set["seed"]),
    }
    files.write_json(output / "dataset.json", manifest)


if __name__ == "__main__":
    run_stage(main)
