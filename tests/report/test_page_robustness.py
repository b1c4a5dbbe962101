"""The page without some artifacts: missing, torn or of another version, they are named, and the rest is rendered."""

import html
import json

import pytest
import yaml

from gsm8k_grpo.common import files
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.report.page import render_page


@pytest.mark.slow
def test_any_artifact_may_be_missing_empty_or_torn(results):
    """The page names the file, or does without it."""
    paths = sorted(path for path in results.rglob("*") if path.is_file() and "two" not in path.parts)
    assert len(paths) > 20
    recipes = ["one", "two"]
    whole = render_page(results, recipes, ["one"])
    for path in paths:
        good, name = path.read_bytes(), path.relative_to(results).as_posix()
        for bad in (None, b"", good[: len(good) // 2 - 7]):
            path.unlink()
            if bad is not None:
                path.write_bytes(bad)
            page = render_page(results, recipes, ["one"])
            named = name in page.replace("/*/", "/") and page != whole
            half_is_valid = bad and name.endswith((".csv", ".yaml"))
            optional = name == "comparison-of-recipes.json" or "evaluations/best/completions" in name
            assert named or half_is_valid or optional, (name, bad and len(bad))
            path.write_bytes(good)
    assert render_page(results, recipes, ["one"]) == whole


def without_each_key(value, path=()):
    """A JSON value without each of its keys in turn, and with NaN instead of each fractional number."""
    found = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, part in found:
        name, others = ".".join(map(str, (*path, key))), {**value} if isinstance(value, dict) else [*value]
        if isinstance(value, dict):
            yield name, {other: kept for other, kept in value.items() if other != key}
        if isinstance(part, float):
            yield name, _with(others, key, float("nan"))
        for below, changed in without_each_key(part, (*path, key)):
            yield below, _with(others, key, changed)


def _with(value, key, part):
    changed = value.copy()
    changed[key] = part
    return changed


@pytest.mark.slow
def test_an_artifact_of_another_version_is_named_and_the_rest_is_rendered(results):
    """Valid JSON that lacks a key, has NaN, or is another type."""
    names = ("comparison.json", "best.json", "evaluations/base/metrics.json", "training/summary.json")
    needed = {"answer.difference.low", "candidates", "flexible_accuracy.value", "warnings", ""}
    for path in (results / "one" / name for name in names):
        good, named = files.read_json(path), path.relative_to(results).as_posix()
        for index, (key, value) in enumerate([*without_each_key(good), ("", []), ("", {}), ("", 3)]):
            if key not in needed and index % 5:
                continue  # a fifth of the other keys is enough
            path.write_text(json.dumps(value))
            page = render_page(results, ["one"], [])
            assert f"{named}: " in page or key not in needed, (named, key)
        files.write_json(path, good)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("training/metrics.csv", "\n2,", "\nx,", "the column 'step' holds text, expected numbers"),
        ("evaluations/final/completions.jsonl", '"tokens"', '"length"', "no key 'tokens'"),
        ("rewards.jsonl", '"base"', '"before"', "no key 'base'"),
        ("settings.yaml", "max_steps: 10", "max_steps: ten", "training.max_steps has an unexpected type or value"),
    ],
)
def test_columns_rows_and_settings_of_another_version_are_named(results, name, old, new, message):
    path = results / "one" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert message in html.unescape(render_page(results, ["one"], []))


def test_unpaired_rows_are_left_out_and_counted(results):
    path = results / "one" / "evaluations" / "final" / "completions.jsonl"
    rows = files.read_jsonl(path)
    rows[0]["answer"] = "123456"
    for changed, said in ((rows[:-2], f"All {12 - 3} rows that"), ([{**rows[1], "id": "other"}], "no row in common")):
        path.write_text("".join(json.dumps(row) + "\n" for row in changed))
        page = render_page(results, ["one"], [])
        assert said in page and "rows that do not match" in page


def test_settings_of_another_version_give_a_page_and_a_caveat(results):
    path = results / "one" / "settings.yaml"
    chosen = read_yaml(path)
    del chosen["miniature"], chosen["evaluation"]["samples"]
    path.write_text(yaml.safe_dump(chosen))
    page = render_page(results, ["one"], [])
    assert "another version of the pipeline, lacks miniature, evaluation.samples" in page
