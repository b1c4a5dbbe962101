"""Tables for a paper have the page's numbers, and LaTeX and BibTeX that compile."""

import io
import re

import pandas as pd
import pytest

from gsm8k_grpo.common.estimators import ADVANTAGE_ESTIMATORS
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.evaluation.artifact_reading import read_metrics
from gsm8k_grpo.evaluation.seeds import summarise_seeds
from gsm8k_grpo.models.families import FAMILIES
from gsm8k_grpo.report import artifact_schema, references, tables
from gsm8k_grpo.report.page import render_page
from gsm8k_grpo.report.run_summary import summarise_rates

HEADLINE = ("answer_accuracy", "flexible_accuracy", "partial_accuracy", "format_accuracy")


@pytest.fixture(scope="module")
def runs(made, root):
    defaults = read_yaml(root / "config.yaml")
    return [summarise_rates(made, name, defaults) for name in ("one", "two")]


def cells(latex):
    """The cells of a tabular environment, line by line, its head first."""
    lines = [line for line in latex.splitlines() if line.endswith(r" \\")]
    return [line.removesuffix(r" \\").split(" & ") for line in lines]


def test_csv_has_each_rate_as_evaluated_and_latex_as_the_page_prints_it(made, runs):
    found = pd.read_csv(io.StringIO(tables.csv(tables.rate_rows(runs)))).set_index(["run", "model", "rate"])
    page = render_page(made, ["one", "two"], [])
    head, *lines = cells(tables.rates_latex(runs))
    assert head[:4] == ["run", "model", "step", "rows"] and len(head) == 4 + len(HEADLINE)
    for run in ("one", "two"):
        for model, evaluation in read_metrics(made, run).items():
            rates = {key: value for key, value in evaluation.items() if key.endswith("_accuracy")}
            for key, rate in rates.items():
                row = found.loc[run, model, key]
                assert [row[each] for each in ("value", "low", "high", "n")] == list(map(float, rate.values()))
        (line,) = [line for line in lines if line[:2] == [run, "final"]]
        for cell in line[4:]:
            value, low, high = re.fullmatch(r"([\d.]+) \(([\d.]+)--([\d.]+)\)", cell).groups()
            assert f'{value} %<br><span class="soft">{low}–{high}</span>' in page


def test_paired_tests_are_those_of_each_run_and_of_each_two_runs(made, runs):
    across = artifact_schema.read(made / "comparison-of-recipes.json", "across")
    rows = tables.comparison_rows(runs, across)
    for run in runs:
        answer = run["compared"]["answer"]
        (row,) = [
            row
            for row in rows
            if (row["second_run"], row["second_model"], row["rate"]) == (run["name"], "final", "answer_accuracy")
            and row["first_model"] == "base"
        ]
        assert (row["won"], row["lost"], row["p"]) == (answer["fixed"], answer["broken"], answer["mcnemar_p"])
        assert row["holm_p"] is None  # the primary test
    (pair,) = across["pairs"]
    between = [row for row in rows if row["first_run"] != row["second_run"]]
    assert {row["rate"]: row["difference"] for row in between}["answer_accuracy"] == pair["answer"]["difference"][
        "value"
    ]
    head, *lines = cells(tables.comparisons_latex(rows, HEADLINE))
    assert len(lines) == 2 * len(HEADLINE) + 1 and lines[-1][:2] == ["one, final", "two, final"]
    assert [line[-1] for line in lines].count("primary") == 2
    assert all(len(line) == len(head) for line in lines)


def test_means_over_seeds_are_those_of_seeds_json(made):
    over = summarise_seeds({run: read_metrics(made, run) for run in ("one", "two")})
    rows = tables.seed_rows({"plain": over})
    assert {(row["model"], row["rate"]): row["value"] for row in rows}["final - base", "format_accuracy"] == (
        over["final - base"]["format_accuracy"]["value"]
    )
    _, *lines = cells(tables.seeds_latex(rows, HEADLINE))
    assert [line[:3] for line in lines] == [["plain", name, "2"] for name in ("base", "final", "final $-$ base")]


def test_latex_escapes_what_it_would_not_print(runs):
    for latex in (tables.rates_latex(runs), tables.comparisons_latex(tables.comparison_rows(runs, None), HEADLINE)):
        body = latex.split("\n", 1)[1]
        assert body.isascii()
        assert not re.search(r"(?<!\\)[%_#]", body)


def test_each_estimator_and_family_has_a_reference_and_a_run_gets_those_that_it_uses(runs):
    text = references.ENTRIES.read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)
    assert {*ADVANTAGE_ESTIMATORS, *FAMILIES, "gsm8k", "lora", "qlora", "rft", "tunix"} == set(keys)
    assert len(set(keys)) == len(keys) and text.count("{") == text.count("}")
    used = re.findall(r"^@\w+\{(\w+),$", references.bibtex(runs), re.MULTILINE)
    assert used == ["this_project", "grpo", "lora", "gemma2", "tunix"]  # the rows are made up
