r"""Stage `reward_audit`: what the rewards of the recipe pay for, before any training.

  python scripts/reward_audit.py --settings results/tiny/settings.yaml --rows results/tiny/prompts/dev.jsonl \
      --solutions results/data/word-problems/train.jsonl \
      --base results/tiny/evaluations-dev/base/completions.jsonl --output results/tiny/reward_audit.json

The rewards score honest completions of dev rows (the gold solutions, and what the base model got right) and systematic
edits of them, such as the answer without its reasoning. Warns if completions without reasoning pay as much.
"""

from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.command_line import Completions, OutputFile, Settings, run_stage
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.evaluation.artifact_reading import first_completions
from gsm8k_grpo.evaluation.reward_audit import audit_rewards, base_completions, gold_completions
from gsm8k_grpo.rewards.answers import Tags

ROWS = 200  # dev rows: enough for an interval of ± 7 points, in a second


def main(*, settings: Settings, rows: Path, solutions: Path, base: Completions, output: OutputFile) -> None:
    """Runs the stage.

    Args:
      rows: prompts of dev rows
      solutions: the data set's rows that dev is from
    """
    settings = stage_settings(settings, "seed", "prompt", "training")
    tags = Tags.of(settings["prompt"])
    prompts = files.read_jsonl(rows, ("id", "prompt", "answer"))[:ROWS]
    texts = {row["id"]: row["solution"] for row in files.read_jsonl(solutions, ("id", "solution"))}
    graded = first_completions(base, "completion", "strict_correct", "format_correct")
    sources = {"gold": gold_completions(prompts, texts, tags), "base": base_completions(prompts, graded, tags)}
    audit = audit_rewards(sources, texts, settings["training"], tags, settings["seed"])
    # The file has no provenance, so equal results are equal files and the report does not run again.
    files.write_json(output, audit)
    for source, found in audit["sources"].items():
        as_honest = [name for name, each in found["edits"].items() if each["pays_as_honest"]]
        print(f"{source}, {found['n']} completions; as much as honest work earn: {', '.join(as_honest) or 'no edits'}")
    if audit["limit"]:
        print(f"Known limit: {audit['limit']}.")
    if audit["warning"]:
        print(f"WARNING: {audit['warning']}", flush=True)


if __name__ == "__main__":
    run_stage(main)
