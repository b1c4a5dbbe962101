"""The page from artifacts alone: what is missing is said, what is hostile stays text, equal inputs give equal bytes."""

import base64
import gzip
import hashlib
import html
import json
import re
import shutil

import pytest
import yaml

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.report import completion_browser, numbers
from gsm8k_grpo.report import page as page_module
from gsm8k_grpo.report.page import render_page
from gsm8k_grpo.report.run_summary import summarise_run

ROWS, STEPS = 12, 10


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A recipe's artifacts and those of another on the same rows. Not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    for recipe in ("one", "two"):
        synthetic.make(folder, recipe, ROWS, STEPS, recipes=["one", "two"])
    synthetic.compare_recipes(folder, ["one", "two"])
    return folder


@pytest.fixture
def results(made, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(made, tmp_path / "results")


def packed(page, identity):
    """What the page's script finds in one of its packed parts."""
    (text,) = re.findall(rf'<script type="text/plain" id="{identity}">([A-Za-z0-9+/=]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_the_same_artifacts_give_the_same_bytes(made, tmp_path):
    page = render_page(made, ["one", "two"], [])
    shutil.copytree(made, tmp_path / "elsewhere")
    assert render_page(tmp_path / "elsewhere", ["one", "two"], []) == page
    assert str(tmp_path) not in page and str(made) not in page


def test_any_artifact_may_be_missing_empty_or_torn(made, results):
    """Each of them in turn: a page comes of it, and it names the file, or does without."""
    whole = render_page(results, ["one", "two"], ["one"])
    silent = {"comparison-of-recipes.json"}
    paths = sorted(path for path in results.rglob("*") if path.is_file() and "two" not in path.parts)
    assert len(paths) > 20
    for path in paths:
        good, name = path.read_bytes(), path.relative_to(results).as_posix()
        for bad in (None, b"", good[: len(good) // 2 - 7]):
            path.unlink()
            if bad is not None:
                path.write_bytes(bad)
            page = render_page(results, ["one", "two"], ["one"])
            said = name in page.replace("/*/", "/") and page != whole
            torn_csv = bad and name.endswith((".csv", ".yaml"))  # what is left is whole
            assert said or torn_csv or name in silent or "evaluations/best/completions" in name, (
                name,
                bad and len(bad),
            )
            path.write_bytes(good)
    assert render_page(results, ["one", "two"], ["one"]) == whole


def without_each_key(value, path=()):
    """A JSON value without each of its keys in turn, and with NaN in the place of each number with a fraction."""
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


def test_an_artifact_of_another_version_is_named_and_the_rest_is_a_page(results):
    """Valid JSON that lacks any one key, or has NaN, or is something else altogether."""
    names = ("comparison.json", "best.json", "evaluations/base/metrics.json", "training/summary.json")
    needed = {"answer.difference.low", "candidates", "flexible_accuracy.value", "warnings", ""}
    for path in (results / "one" / name for name in names):
        good, named = files.read_json(path), path.relative_to(results).as_posix()
        for index, (key, value) in enumerate([*without_each_key(good), ("", []), ("", {}), ("", 3)]):
            if key not in needed and index % 5:
                continue  # a fifth of the many keys is enough
            path.write_text(json.dumps(value))
            page = render_page(results, ["one"], [])
            assert f"{named}: " in page or key not in needed, (named, key)
        files.write_json(path, good)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("training/metrics.csv", "\n2,", "\nx,", "column 'step' holds what is no number"),
        ("evaluations/final/completions.jsonl", '"tokens"', '"length"', "no key 'tokens'"),
        ("rewards.jsonl", '"base"', '"before"', "no key 'base'"),
        ("settings.yaml", "max_steps: 10", "max_steps: ten", "training.max_steps is not what was expected"),
    ],
)
def test_figures_and_rows_of_another_version_are_named_too(results, name, old, new, said):
    path = results / "one" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert said in html.unescape(render_page(results, ["one"], []))


def test_rows_that_do_not_match_are_left_out_and_said(results):
    path = results / "one" / "evaluations" / "final" / "completions.jsonl"
    rows = files.read_jsonl(path)
    rows[0]["answer"] = "not that of base"
    for changed, said in ((rows[:-2], f"All {ROWS - 3} rows that"), ([{**rows[1], "id": "other"}], "no row in common")):
        path.write_text("".join(json.dumps(row) + "\n" for row in changed))
        page = render_page(results, ["one"], [])
        assert said in page and "rows that do not match" in page


def test_a_step_that_a_restart_did_again_counts_once_and_steps_are_in_order(results):
    path = results / "one" / "training" / "metrics.csv"
    whole, (head, *lines) = render_page(results, ["one"], []), path.read_text().splitlines(keepends=True)
    torn = lines[4].replace(",", ",9", 1)
    path.write_text("".join([head, *lines[:4], torn, *reversed(lines[4:])]))
    assert render_page(results, ["one"], []) == whole


def test_what_a_step_costs_stands_side_by_side_where_a_run_has_counted_it(results):
    page = render_page(results, ["one", "two"], [])
    table = page[page.index('id="steps"') :].split("</table>")[0]
    assert re.findall(r'href="#(\w+)"', table) == ["one", "two"]
    chosen, first = (
        effective_settings("gemma2-2b-it", {})["training"],
        files.read_json(results / "one/training/summary.json"),
    )
    completions = chosen["prompts_per_step"] * chosen["num_generations"]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", table.replace("\n", ""))
    assert cells[:5] == ["1.5 s", str(completions), "3.0 MiB", "–", "1.00 GiB"]
    del first["step_seconds"], first["memory"]  # as before they were counted
    files.write_json(results / "one/training/summary.json", first)
    assert re.findall(
        r'href="#(\w+)"', render_page(results, ["one", "two"], []).split('id="steps"')[1].split("</table>")[0]
    ) == ["two"]


@pytest.mark.parametrize("text", ["", "step,loss\n", "step,loss\n1,0.5\n", "step,reward,kl,tokens\n1,nan,,\n"])
def test_metrics_that_are_empty_or_few_are_a_page_too(results, text):
    (results / "one" / "training" / "metrics.csv").write_text(text)
    page = render_page(results, ["one"], [])
    assert ("No step is logged" in page) == (text.count("\n") < 2 or "nan" in text)


def test_a_recipe_of_which_nothing_is_there_is_said_to_be_unfinished(results):
    page = render_page(results, ["one", "nothing"], ["nothing"])
    assert "nothing/settings.yaml is not there yet" in page
    assert "results/nothing/seeds.json is not there yet" in page


def test_what_differs_from_the_defaults_is_shown_and_nothing_else(results):
    defaults = read_yaml(ROOT / "config.yaml")
    told = summarise_run(results, "one", defaults)
    steps = {"training.max_steps": (3738, STEPS), "training.checkpoint_interval_steps": (500, STEPS // 2)}
    assert {key: (default, here) for key, default, here in told["changed"]} == {
        **steps,
        "training.warmup_fraction": (0.1, 0.0),
    }


def test_settings_of_another_version_are_a_page_and_a_doubt(results):
    path = results / "one" / "settings.yaml"
    chosen = read_yaml(path)
    del chosen["miniature"], chosen["evaluation"]["samples"]
    path.write_text(yaml.safe_dump(chosen))
    page = render_page(results, ["one"], [])
    assert "settings.yaml lacks miniature, evaluation.samples: another version of the pipeline" in page


def test_hostile_text_cannot_leave_its_place(tmp_path):
    hostile = ("</script><script>alert(1)</script>", "a \u2028 b \u2029 c \ud800 d \u202e e \x00 f", "<!-- ]]>")
    turned = "</title><script>alert(1)</script> \u202e"
    settings_too = {"report": {"title": turned}, "prompt": {"system": turned}, "miniature": True}
    settings_too["published"] = dict.fromkeys(("text", "source", "conditions"), turned) | {"values": []}
    synthetic.make(tmp_path, "one", ROWS, STEPS, hostile=hostile, **settings_too)
    summary = tmp_path / "one" / "training" / "summary.json"
    files.write_json(summary, files.read_json(summary) | {"warnings": [turned]})
    page = render_page(tmp_path, ["one"], [])
    assert "Not the same conditions:</strong> one is a miniature: another model of 2,614,341,888 parameters" in page
    page.encode("utf-8")
    assert "<script>alert" not in page and "\u2028" not in page and "\u202e" not in page
    # Scripts: the data, the packed parts and the page's own, which is the only one that runs.
    assert re.findall(r"<script([^>]*)>", page) == [
        ' type="application/json" id="page-data"',
        ' type="text/plain" id="data-one-training"',
        ' type="text/plain" id="data-one-completions"',
        "",
    ]
    rows = packed(page, "data-one-completions")["rows"]
    assert [row["s"][0]["c"] for row in rows[:3]] == [numbers.shorten_visible(text) for text in hostile]
    assert rows[1]["s"][0]["c"] == "a ⟨U+2028⟩ b ⟨U+2029⟩ c ⟨U+D800⟩ d ⟨U+202E⟩ e ⟨U+0000⟩ f"


def test_the_policy_names_the_page_s_own_script_and_style_and_allows_nothing_else(made):
    page = render_page(made, ["one"], [])
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    script, style = (
        re.findall(r"<script>(.*?)</script>", page, re.DOTALL),
        re.findall(r"<style>(.*?)</style>", page, re.DOTALL),
    )
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for (text,) in (script, style)]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; "
        "require-trusted-types-for 'script'; trusted-types 'none'; base-uri 'none'; form-action 'none'"
    )
    body = page.replace(script[0], "").replace(style[0], "")
    assert not re.search(r"<[^>]+ (on\w+|style)=", body) and "javascript:" not in body
    assert "http" not in body.replace("http-equiv", "")


def test_the_libraries_are_those_that_were_published():
    vendor = page.TEMPLATES / "vendor"
    listed = re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})`", (vendor / "README.md").read_text(), re.MULTILINE)
    assert sorted(name for name, _ in listed) == sorted(
        path.name for path in vendor.iterdir() if path.suffix in (".js", ".css")
    )
    for name, sha256 in listed:
        assert files.sha256_file(vendor / name) == sha256, name


def test_three_recipes_of_1319_rows_are_less_than_5_mb_and_whole(large_results):
    page = (large_results / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < page_module.LARGEST_PAGE_BYTES
    for recipe in ("alpha", "beta", "gamma"):
        assert len(packed(page, f"data-{recipe}-completions")["rows"]) == synthetic.ROWS
        assert len(packed(page, f"data-{recipe}-training")["columns"]["loss"]) == synthetic.STEPS


def test_rows_that_would_make_the_page_too_large_are_left_out_and_counted(large_results, monkeypatch):
    monkeypatch.setattr(page_module, "LARGEST_PAGE_BYTES", 1_000_000)
    page = render_page(large_results, ["alpha"], [])
    assert len(page.encode()) < 1_000_000
    rows = packed(page, "data-alpha-completions")["rows"]
    assert 0 < len(rows) < synthetic.ROWS
    assert f"{len(rows)} of 1,319 rows, a fair share of each outcome" in page


def paired(before, after):
    """Pairs of rows that were right or wrong."""
    base, final = (
        [{"id": str(index), "judged": correct} for index, correct in enumerate(each)] for each in (before, after)
    )
    return completion_browser.pair_rows({"base": base, "final": final}, "judged")


def became(pairs):
    """What became of each row after all training."""
    return [pair["outcomes"]["final"] for pair in pairs]


def test_many_runs_stay_within_the_limit_and_say_what_is_left_out(large_results, monkeypatch):
    recipes = ["alpha", "beta", "gamma"]
    monkeypatch.setattr(page_module, "LARGEST_PAGE_BYTES", 1_200_000)
    monkeypatch.setattr(page_module, "FRAME_BYTES_OF_A_RUN", 30_000)
    page = render_page(large_results, recipes, [])
    assert len(page.encode()) < 1_200_000
    every = {int(number) for number in re.findall(r"One step in (\d+) is drawn", page)}
    assert every and min(every) > 1
    for recipe in recipes:
        columns = packed(page, f"data-{recipe}-training")["columns"]
        assert columns["step"][-1] == synthetic.STEPS and 100 < len(columns["step"]) < synthetic.STEPS / 2
        assert {len(values) for values in columns.values()} == {len(columns["step"])}
    # Where nothing of the limit is left, no completion is there, and that is said.
    monkeypatch.setattr(page_module, "LARGEST_PAGE_BYTES", 300_000)
    assert render_page(large_results, recipes, []).count("0 of 1,319 rows") == len(recipes)


def test_rows_are_paired_by_id_and_named_by_what_became_of_them():
    pairs = paired([True, True, False, False], [True, False, True, False])
    assert became(pairs) == ["right both times", "broken", "fixed", "wrong both times"]
    base, final = [{"id": "a", "judged": True}, {"id": "b", "judged": True}], [{"id": "b", "judged": False}]
    best = [{"id": "b", "judged": True}, {"id": "c", "judged": True}]
    (pair,) = completion_browser.pair_rows({"base": base, "final": final, "best": best}, "judged")
    assert pair["id"] == "b" and pair["outcomes"] == {"final": "broken", "best": "right both times"}
    assert pair["sides"] == {"base": base[1], "final": final[0], "best": best[0]}


def test_a_fair_share_takes_as_many_of_each_outcome_and_keeps_their_order():
    pairs = paired([True] * 6 + [False] * 6, [True] * 5 + [False] + [True] * 4 + [False] * 2)
    counted = [became(pairs).count(name) for name in completion_browser.OUTCOMES]
    assert counted == [4, 1, 2, 5]

    def shares(count):
        shown = completion_browser.balanced_sample(pairs, count)
        assert [pair["id"] for pair in shown] == sorted((pair["id"] for pair in shown), key=int)
        return [became(shown).count(name) for name in completion_browser.OUTCOMES]

    assert shares(0) == [0, 0, 0, 0]
    assert shares(4) == [1, 1, 1, 1]
    assert shares(9) == [3, 1, 2, 3]
    assert shares(12) == shares(100) == counted


def test_a_run_s_command_names_its_recipe_and_seed():
    chosen = {"recipes": "tiny,other", "seeds": [1, 2], "seed": 2, "miniature": False}
    told = {"name": "tiny-seed-2", "settings": chosen, "base": None}
    small = {"name": "tiny-miniature-seed-2", "settings": chosen | {"miniature": True}}
    assert page.recipe_of(told) == page.recipe_of(small) == "tiny"
    made = {"provenance": {"commit": "abc", "dirty": False}}
    assert page.command(told | {"training": made}).splitlines() == [
        "git checkout abc",
        "# settings.yaml: all effective settings, as below",
        "snakemake --cores 1 results/report.html --configfile settings.yaml --config recipes=tiny 'seeds=[2]'",
    ]
    alone = {"name": "other", "settings": chosen | {"seeds": None}, "base": None}
    dirty = {"provenance": {"commit": None, "dirty": True}}
    assert page.command(alone | {"training": dirty}).splitlines()[0] == "# (tracked files differed from that commit)"
    assert page.command(alone | {"training": None}).endswith("--config recipes=other")
