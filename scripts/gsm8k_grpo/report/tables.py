"""Tables for a paper: the numbers of the page, as rows to write as CSV and as LaTeX.

CSV has every rate and test at full precision. LaTeX has those of the page's first tables, rounded as there.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from gsm8k_grpo.evaluation.artifact_reading import REPORTED_CHECKPOINTS
from gsm8k_grpo.report import numbers
from gsm8k_grpo.report.metric_catalogue import RATES, headline_rates

LATEX_HEADER = "% For \\input; needs \\usepackage{booktabs}. Rates and differences are in per cent.\n"
# What pandas leaves as it is, and pdfLaTeX does not print as it is.
LATEX_SIGNS = {"−": "$-$", "±": "$\\pm$", "<": "$<$", "–": "--"}


def rate_rows(runs: Iterable[Mapping]) -> list[dict]:
    """Each rate of each run's base, best and final checkpoint, with its 95 % interval.

    Args:
      runs: of `run_summary.summarise_rates`; a checkpoint that is not evaluated yet has no rows.
    """
    return [
        {
            "run": run["name"],
            "model": role,
            "checkpoint": evaluation["checkpoint"],
            "step": evaluation["step"],
            "split": evaluation["split"],
            "rate": key,
            **{end: evaluation[key][end] for end in ("value", "low", "high", "n")},
        }
        for run in runs
        for role in REPORTED_CHECKPOINTS
        if (evaluation := run.get(role))
        for key in RATES
        if key in evaluation
    ]


def comparison_rows(runs: Iterable[Mapping], across: Mapping | None) -> list[dict]:
    """Each paired test: of base against final and best within a run, then of the final checkpoints of two runs.

    Args:
      runs: as in `rate_rows`.
      across: comparison-of-recipes.json, or None.

    Returns:
      rows whose `won` are right only in the second evaluation, and `lost` only in the first. `p` is McNemar's, and
      `holm_p` the same corrected; the primary test has none.
    """
    rows = []
    for run in runs:
        compared = run.get("compared")
        for role, tests in (("final", compared), ("best", compared and compared["best"])):
            rows += _tests((run["name"], "base"), (run["name"], role), tests or {})
    for pair in across["pairs"] if across else []:
        first, second = pair["recipes"]
        rows += _tests((first, "final"), (second, "final"), pair)
    return rows


def _tests(first: tuple[str, str], second: tuple[str, str], tests: Mapping) -> list[dict]:
    return [
        {
            "first_run": first[0],
            "first_model": first[1],
            "second_run": second[0],
            "second_model": second[1],
            "rate": key,
            "n": test["n"],
            "won": test["fixed"],
            "lost": test["broken"],
            "difference": test["difference"]["value"],
            **{end: test["difference"][end] for end in ("low", "high")},
            "p": test["mcnemar_p"],
            "holm_p": test.get("holm_p"),
        }
        for key, rate in RATES.items()
        if isinstance(test := tests.get(rate.comparison), Mapping) and "mcnemar_p" in test
    ]


def seed_rows(seeds: Mapping[str, Mapping]) -> list[dict]:
    """The mean of each rate over the seeds of each recipe, with Student's 95 % interval.

    Args:
      seeds: seeds.json by recipe.
    """
    return [
        {"recipe": recipe, "model": which, "rate": key, **{k: rate[k] for k in ("value", "sd", "low", "high", "n")}}
        for recipe, over in seeds.items()
        for which in ("base", "best", "final", "best - base", "final - base")
        for key, rate in over[which].items()
    ]


def rates_latex(runs: Iterable[Mapping]) -> str:
    """The rates of the page's first table: a line for each run and checkpoint, a column for each rate."""
    runs = [run for run in runs if run.get("base") or run.get("final")]
    shown = {key for run in runs for key in headline_rates((run["base"] or run["final"])["extraction"])}
    lines = []
    for run in runs:
        for role in REPORTED_CHECKPOINTS:
            found = run[role]
            if not found or (role == "best" and run["final"] and found["step"] == run["final"]["step"]):
                continue
            line = {"run": run["name"], "model": role, "step": found["step"], "rows": found["answer_accuracy"]["n"]}
            lines.append(line | {RATES[key].label: _rate(found[key]) for key in RATES if key in shown})
    return _latex(lines)


def comparisons_latex(rows: Iterable[Mapping], shown: Iterable[str]) -> str:
    """The paired tests of final checkpoints.

    Args:
      rows: of `comparison_rows`.
      shown: keys of the rates to show.
    """
    shown = set(shown)
    return _latex(
        [
            {
                "first": f"{row['first_run']}, {row['first_model']}",
                "second": f"{row['second_run']}, {row['second_model']}",
                "rate": RATES[row["rate"]].label,
                "rows": row["n"],
                "won": row["won"],
                "lost": row["lost"],
                "second − first, points": _change(row["difference"], row),
                "p": _p(row["p"]),
                "p, Holm": "primary" if row["holm_p"] is None else _p(row["holm_p"]),
            }
            for row in rows
            if row["second_model"] == "final"
            and row["rate"] in shown
            # Between runs, the recipe's own reading alone is tested.
            and (row["first_model"] == "base" or row["holm_p"] is not None)
        ]
    )


def seeds_latex(rows: Iterable[Mapping], shown: Iterable[str]) -> str:
    """The means over seeds, as `comparisons_latex` takes rows and keys."""
    lines: dict[tuple[str, str], dict] = {}
    shown = set(shown)
    for row in rows:
        if row["rate"] in shown and row["model"] in ("base", "final", "final - base"):
            line = lines.setdefault(
                (row["recipe"], row["model"]),
                {"recipe": row["recipe"], "model": row["model"].replace("-", "−"), "seeds": row["n"]},
            )
            line[RATES[row["rate"]].label] = _change(row["value"], row) if "-" in row["model"] else _rate(row)
    return _latex(list(lines.values()))


def _rate(rate: Mapping) -> str:
    ends = "" if rate["low"] is None else f" ({numbers.tenth(rate['low'])}–{numbers.tenth(rate['high'])})"
    return numbers.tenth(rate["value"]) + ends


def _change(difference: float, interval: Mapping) -> str:
    ends = "" if interval["low"] is None else f" ({numbers.interval_ends(interval)})"
    return numbers.points(difference) + ends


def _p(value: float) -> str:
    return numbers.p_value(value).removeprefix("p ").removeprefix("= ")


def _latex(lines: list[dict]) -> str:
    """A tabular environment with booktabs' rules; texts are escaped."""
    table = pd.DataFrame(lines).to_latex(index=False, escape=True, na_rep="")
    for sign, command in LATEX_SIGNS.items():
        table = table.replace(sign, command)
    return LATEX_HEADER + table


def csv(rows: list[dict]) -> str:
    """Rows as CSV, numbers at full precision; None is empty."""
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
