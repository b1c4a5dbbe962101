r"""lm-evaluation-harness's two readings of GSM8K beside ours, on the same completions, with each disagreement.

  make setup-lm-eval
  .venv-lm-eval/bin/python benchmarks/lm_eval_filters.py --output disagreements.jsonl \
      --completions results/tiny/evaluations/final/completions.jsonl

The harness's filters (strict-match, flexible-extract) and its metric are those of its own task gsm8k. Ours are the
verdicts in completions.jsonl. It prints both rates of each pair, and the disagreements by what is behind them. OUTPUT
gets a row for each: `id`, `sample`, `filter`, `kind`, `gold`, what each side reads (`harness`, `ours`) and whether it
says right (`harness_correct`, `ours_correct`), and the completion.
"""

import argparse
import collections
import importlib.metadata
import json
from fractions import Fraction
from pathlib import Path

import lm_eval.tasks
import yaml
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import exact_match_hf_evaluate
from lm_eval.filters import build_filter_ensemble

# The harness's filter and our reading that means the same.
PAIRS = {"strict-match": "strict", "flexible-extract": "flexible"}
NOTHING = "[invalid]"  # what the harness's filter gives where it finds no number
KINDS = ("only the harness reads a number", "only we read a number", "another number", "the same number, another form")


def read_task() -> dict:
    """The harness's own definition of GSM8K."""
    return yaml.safe_load((Path(lm_eval.tasks.__file__).parent / "gsm8k" / "gsm8k.yaml").read_text(encoding="utf-8"))


def harness_readings(task: dict, name: str, texts: list[str]) -> list[str]:
    """What a filter of the task reads in each completion."""
    steps = next(each["filter"] for each in task["filter_list"] if each["name"] == name)
    components = [(step["function"], {key: step[key] for key in step if key != "function"}) for step in steps]
    instances = [Instance("generate_until", {}, ("", {}), index, resps=[text]) for index, text in enumerate(texts)]
    build_filter_ensemble(name, components).apply(instances)
    return [instance.filtered_resps[name] for instance in instances]


def harness_verdict(task: dict, reading: str, gold: str) -> bool:
    """Whether the task's metric takes a reading for right; GSM8K's gold answers end in `#### N`."""
    (metric,) = task["metric_list"]
    options = {key: metric[key] for key in ("ignore_case", "ignore_punctuation", "regexes_to_ignore")}
    return bool(exact_match_hf_evaluate([reading], [f"#### {gold}"], **options)["exact_match"])


def kind_of(harness: str, ours: str | None) -> str:
    """What is behind a disagreement; one of `KINDS`."""
    if harness == NOTHING or ours is None:
        return KINDS[0] if ours is None else KINDS[1]
    try:
        same = Fraction(harness.replace(",", "").replace("$", "").rstrip(".")) == Fraction(ours)
    except (ValueError, ZeroDivisionError):
        same = False
    return KINDS[3] if same else KINDS[2]


def compare(task: dict, rows: list[dict], name: str) -> tuple[dict, list[dict]]:
    """Rates of one pair and its disagreements.

    Args:
      task: of `read_task`.
      rows: of completions.jsonl.
      name: the harness's filter.
    """
    own, counts, found = PAIRS[name], collections.Counter(), []
    for row, reading in zip(rows, harness_readings(task, name, [row["completion"] for row in rows]), strict=True):
        right, ours = harness_verdict(task, reading, row["answer"]), row[f"{own}_correct"]
        counts += collections.Counter(harness=right, ours=ours)
        if right != ours:
            verdicts = {"harness": reading, "ours": row[own], "harness_correct": right, "ours_correct": ours}
            about = {"filter": name, "kind": kind_of(reading, row[own]), "gold": row["answer"]}
            found.append(
                {"id": row["id"], "sample": row["sample"], **about, **verdicts, "completion": row["completion"]}
            )
    return {side: counts[side] / len(rows) for side in ("harness", "ours")}, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=Path, required=True, help="completions.jsonl of an evaluation")
    parser.add_argument("--output", type=Path, required=True, help="jsonl to write: a row for each disagreement")
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.completions.read_bytes().split(b"\n") if line]
    task, listed = read_task(), []
    print(f"lm_eval {importlib.metadata.version('lm_eval')}, task gsm8k; {len(rows):,} completions")
    for name, own in PAIRS.items():
        rates, found = compare(task, rows, name)
        listed += found
        print(f"{name}: {rates['harness']:.2%} right; our {own}: {rates['ours']:.2%}; {len(found):,} disagreements")
        for kind, count in collections.Counter(each["kind"] for each in found).most_common():
            print(f"  {kind}: {count:,}")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed)
    arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
