"""The catalogue of metrics is complete: what evaluations count, and what results/README.md lists.

tests/pipeline/test_artifacts.py compares it with the columns that training writes.
"""

import re

from gsm8k_grpo.evaluation.comparison import verdict_keys
from gsm8k_grpo.evaluation.metrics import summarise_metrics
from gsm8k_grpo.report.metric_catalogue import CURVES, PANELS, RATES


def test_every_rate_of_an_evaluation_is_in_the_catalogue():
    row = {"id": "a", "answer": "18", "tokens": 1, "stop_reason": "limit"}
    row |= dict.fromkeys(("strict", "flexible", "cascade", "published_cascade"), "18")
    row |= dict.fromkeys(verdict_keys("strict").values(), True)
    metrics = summarise_metrics([row, row], "strict")
    assert set(RATES) == {key for key, value in metrics.items() if isinstance(value, dict)}


def test_rates_of_the_headline_are_compared_on_the_same_rows():
    headline = {rate.comparison for rate in RATES.values() if rate.headline}
    assert headline <= verdict_keys("strict").keys()
    assert all(rate.colour for rate in CURVES) and len({rate.colour for rate in CURVES}) == len(CURVES)


def test_the_list_of_artifacts_names_every_column_and_rate(root):
    lines = (root / "results" / "README.md").read_text().splitlines()

    def listed(path):
        (line,) = [line for line in lines if line.startswith(f"| `RECIPE/{path}`")]
        return set(re.findall(r"`(\w+)`", line.split("|", 3)[3]))

    columns = {column.name for panel in PANELS for column in panel.columns}
    assert columns <= listed("training/metrics.csv") and set(RATES) <= listed("evaluations/CHECKPOINT/metrics.json")
