"""The text of the page: steps, settings, the command, hostile texts, and the policy of its scripts."""

import base64
import hashlib
import re
import shutil
from html import unescape

import pytest
import yaml

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.config.transfer import read_transfer_set
from gsm8k_grpo.evaluation.artifact_reading import read_metrics
from gsm8k_grpo.evaluation.seeds import summarise_seeds
from gsm8k_grpo.evaluation.transfer import compare_transfer
from gsm8k_grpo.report import numbers, page, run_summary, sentences
from gsm8k_grpo.report.page import render_page
from gsm8k_grpo.report.run_summary import summarise_run
from gsm8k_grpo.report.transfer_sentence import transfer_sentence
from report_page import packed


def test_equal_artifacts_give_equal_bytes(made, tmp_path):
    html = render_page(made, ["one", "two"], [])
    shutil.copytree(made, tmp_path / "elsewhere")
    assert render_page(tmp_path / "elsewhere", ["one", "two"], []) == html
    assert str(tmp_path) not in html and str(made) not in html


def test_a_repeated_step_counts_once_and_steps_are_in_order(results):
    path = results / "one" / "training" / "metrics.csv"
    whole, (head, *lines) = render_page(results, ["one"], []), path.read_text().splitlines(keepends=True)
    torn = lines[4].replace(",", ",9", 1)
    path.write_text("".join([head, *lines[:4], torn, *reversed(lines[4:])]))
    assert render_page(results, ["one"], []) == whole


def test_the_cost_of_a_step_is_compared_for_runs_that_measured_it(results):
    html = render_page(results, ["one", "two"], [])
    table = html[html.index('id="steps"') :].split("</table>")[0]
    assert re.findall(r'href="#(\w+)"', table) == ["one", "two"]
    chosen, first = (
        effective_settings("gemma2-2b-it", {})["training"],
        files.read_json(results / "one/training/summary.json"),
    )
    completions = chosen["prompts_per_step"] * chosen["num_generations"]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", table.replace("\n", ""))
    assert cells[:5] == ["1.5 s", str(completions), "3.00 MiB", "–", "1.00 GiB"]
    del first["step_seconds"], first["memory"]  # as before they were counted
    files.write_json(results / "one/training/summary.json", first)
    assert re.findall(
        r'href="#(\w+)"', render_page(results, ["one", "two"], []).split('id="steps"')[1].split("</table>")[0]
    ) == ["two"]


def test_terms_are_explained_and_one_row_that_training_fixed_is_open(made):
    html = render_page(made, ["one"], [])
    for term in ("Dev", "Test", "checkpoint", "format", "reward", "group", "without signal", "KL"):
        assert html.count(f"<dfn>{term}</dfn>") == 1, term
    example = html.split('<div class="example">')[1].split('<p class="soft">Of the rows')[0]
    (identity,) = re.findall(r"\((test-\d+)\)", example)
    shown = [unescape(re.sub("<[^>]+>", "", text)) for text in re.findall("<pre[^>]*>(.*?)</pre>", example, re.DOTALL)]
    for name, text, right in (("base", shown[0], False), ("final", shown[1], True)):
        rows = files.read_jsonl(made / "one" / "evaluations" / name / "completions.jsonl")
        (row,) = [row for row in rows if row["id"] == identity]
        assert (row["completion"], row["strict_correct"]) == (text, right)


def cells(html, label):
    """The text of each row's cells in the table with that label."""
    table = html.split(f'aria-label="{label}"')[1].split("</table>")[0]
    found = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("<tr>")[1:]]
    return [[" ".join(re.sub("<[^>]+>", " ", cell).split()) for cell in row] for row in found]


def test_secondary_changes_have_holms_p_beside_their_own(made):
    compared = files.read_json(made / "one" / "comparison.json")
    html = render_page(made, ["one"], [])
    rates = {row[0].split(" ")[0]: row[4] for row in cells(html, "Before and after: one")[1:]}
    assert rates.keys() == {"answer", "flexible", "within", "format"}
    for label, name in (("answer", "answer"), ("flexible", "flexible"), ("within", "partial"), ("format", "format")):
        test = compared[name]
        beside = f"Holm {numbers.p_value(test['holm_p'])}" if label != "answer" else "primary"
        assert rates[label] == f"{test['fixed']} / {test['broken']} {numbers.p_value(test['mcnemar_p'])} {beside}"
    assert f"The {compared['secondary_tests']} other tests" in html and "none is adjusted" in html


def test_another_checkpoint_with_the_same_completions_is_the_same_test(results):
    metrics = results / "one" / "evaluations" / "best" / "metrics.json"
    files.write_json(metrics, files.read_json(metrics) | {"checkpoint": "step-5"})
    assert "with the same completions as the last checkpoint)" in render_page(results, ["one"], [])


def test_the_spread_over_seeds_stands_beside_the_intervals_of_each_run(results):
    metrics = {run: read_metrics(results, run) for run in ("one", "two")}
    over = summarise_seeds(metrics)
    files.write_json(results / "both" / "seeds.json", over)
    html = render_page(results, ["one", "two"], ["both"])
    _, *runs, spread = cells(html, "Answer accuracy of both, seed by seed")
    assert [row[0] for row in runs] == ["one", "two"]
    for name, base, final, _ in runs:
        for cell, checkpoint in ((base, "base"), (final, "final")):
            rate = metrics[name][checkpoint]["answer_accuracy"]
            ends = f"{numbers.tenth(rate['low'])}–{numbers.tenth(rate['high'])}"
            assert cell == f"{numbers.percent(rate['value'])} {ends}"
    deviations = [over[name]["answer_accuracy"]["sd"] for name in ("base", "final", "final - base")]
    assert spread == ["standard deviation over seeds", *(f"{numbers.tenth(sd)} points" for sd in deviations)]


def test_compared_runs_of_different_machines_are_named(results):
    said = "one on 8 × TPU v5e, jaxlib None; two on 2 × EPYC, jaxlib None"
    assert said not in render_page(results, ["one", "two"], [])
    summary = results / "two" / "training" / "summary.json"
    facts = files.read_json(summary)
    facts["provenance"] |= {"device": "1 × cpu", "processor": "2 × EPYC"}
    files.write_json(summary, facts)
    assert said in render_page(results, ["one", "two"], [])


def test_an_origin_is_shown_without_hashes_warnings_and_empty_values(results):
    (path,) = results.glob("models/*/model.json")
    model = files.read_json(path)
    model["origin"] |= {"revision": None, "files": {"params": "f" * 64}}
    files.write_json(path, model)
    said = "(source kaggle, handle google/gemma-2/flax/gemma2-2b-it), 2,614,341,888 parameters"
    assert said in render_page(results, ["one"], [])


def test_a_recipe_that_reads_by_one_cascade_has_the_other_beside_it():
    usual = ["answer_accuracy", "flexible_accuracy", "partial_accuracy", "format_accuracy"]
    assert page.headline_rates("strict") == usual
    for one, other in (("cascade", "published_cascade"), ("published_cascade", "cascade")):
        shown = page.headline_rates(one)
        assert f"{other}_accuracy" in shown and f"{one}_accuracy" not in shown and "strict_accuracy" in shown


@pytest.mark.parametrize("text", ["", "step,loss\n", "step,loss\n1,0.5\n", "step,reward,kl,tokens\n1,nan,,\n"])
def test_empty_or_short_metrics_give_a_page(results, text):
    (results / "one" / "training" / "metrics.csv").write_text(text)
    html = render_page(results, ["one"], [])
    assert ("No step is logged" in html) == (text.count("\n") < 2 or "nan" in text)


def test_a_recipe_without_artifacts_is_unfinished(results):
    html = render_page(results, ["one", "nothing"], ["nothing"])
    assert "nothing/settings.yaml does not exist yet" in html
    assert "results/nothing/seeds.json does not exist yet" in html


def test_settings_that_differ_from_the_defaults_are_shown(results):
    defaults = read_yaml(ROOT / "config.yaml")
    run = summarise_run(results, "one", defaults)
    steps = {"training.max_steps": (3738, 10), "training.checkpoint_interval_steps": (500, 5)}
    assert {key: (default, here) for key, default, here in run["changed"]} == {
        **steps,
        "training.warmup_fraction": (0.1, 0.0),
    }


def test_groups_of_rows_stand_side_by_side(tmp_path):
    synthetic.make(tmp_path, "one", 40, 10, groups=("in_distribution", "<b>new"))
    html = render_page(tmp_path, ["one"], [])
    table = html.split('aria-label="Before and after by group: one"')[1].split("</table>")[0]
    assert re.findall(r'class="of">([^<]*)<', table) == ["in distribution, 20 rows", "&lt;b&gt;new, 20 rows"]
    base, final = (files.read_json(tmp_path / f"one/evaluations/{name}/metrics.json") for name in ("base", "final"))
    compared = files.read_json(tmp_path / "one/comparison.json")
    (row,) = [row for row in table.split("<tr>") if "last number, format ignored" in row]
    shown = re.findall(r"<td[^>]*>([^<]*)<br>", row)
    assert shown == [
        text
        for group in ("in_distribution", "<b>new")
        for text in (
            numbers.percent(base["groups"][group]["flexible_accuracy"]["value"]),
            numbers.percent(final["groups"][group]["flexible_accuracy"]["value"]),
            numbers.points(compared["groups"][group]["flexible"]["difference"]["value"]),
            "{fixed} / {broken}".format(**compared["groups"][group]["flexible"]),
        )
    ]


def test_a_page_without_groups_says_nothing_of_them(made):
    assert "by group" not in render_page(made, ["one"], [])


def test_groups_that_only_one_evaluation_knows_are_left_out(tmp_path):
    synthetic.make(tmp_path, "one", 40, 10, groups=("a", "b"))
    path = tmp_path / "one/evaluations/final/metrics.json"
    metrics = files.read_json(path)
    del metrics["groups"]["b"]
    files.write_json(path, metrics)
    table = render_page(tmp_path, ["one"], []).split('aria-label="Before and after by group: one"')[1]
    assert re.findall(r'class="of">([^<]*)<', table.split("</table>")[0]) == ["a, 20 rows"]


def test_hostile_text_stays_text(tmp_path):
    hostile = ("</script><script>alert(1)</script>", "a \u2028 b \u2029 c \ud800 d \u202e e \x00 f", "<!-- ]]>")
    turned = "</title><script>alert(1)</script> \u202e"
    settings_too = {"report": {"title": turned}, "prompt": {"system": turned}, "miniature": True}
    settings_too["published"] = dict.fromkeys(("text", "source", "conditions"), turned) | {"values": []}
    synthetic.make(tmp_path, "one", 12, 10, hostile=hostile, **settings_too)
    summary = tmp_path / "one" / "training" / "summary.json"
    files.write_json(summary, files.read_json(summary) | {"warnings": [turned]})
    html = render_page(tmp_path, ["one"], [])
    assert "Not the same conditions:</strong> one is a miniature: another model of 2,614,341,888 parameters" in html
    html.encode("utf-8")
    assert "<script>alert" not in html and "\u2028" not in html and "\u202e" not in html
    # Scripts: the data, the packed parts and the page's own, which is the only one that runs.
    assert re.findall(r"<script([^>]*)>", html) == [
        ' type="application/json" id="page-data"',
        ' type="text/plain" id="data-one-training"',
        ' type="text/plain" id="data-one-completions"',
        "",
    ]
    rows = packed(html, "data-one-completions")["rows"]
    assert [row["s"][0]["c"] for row in rows[:3]] == [numbers.shorten_visible(text) for text in hostile]
    assert rows[1]["s"][0]["c"] == "a ⟨U+2028⟩ b ⟨U+2029⟩ c ⟨U+D800⟩ d ⟨U+202E⟩ e ⟨U+0000⟩ f"


def test_the_policy_allows_only_the_script_and_style_of_the_page(made):
    html = render_page(made, ["one"], [])
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    script, style = (
        re.findall(r"<script>(.*?)</script>", html, re.DOTALL),
        re.findall(r"<style>(.*?)</style>", html, re.DOTALL),
    )
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for (text,) in (script, style)]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; "
        "require-trusted-types-for 'script'; trusted-types 'none'; base-uri 'none'; form-action 'none'"
    )
    body = html.replace(script[0], "").replace(style[0], "")
    assert not re.search(r"<[^>]+ (on\w+|style)=", body) and "javascript:" not in body
    assert "http" not in body.replace("http-equiv", "")


def test_the_libraries_are_the_published_ones():
    vendor = page.TEMPLATES / "vendor"
    listed = re.findall(r"^\| `([^`]+)` \|.*`([0-9a-f]{64})`", (vendor / "README.md").read_text(), re.MULTILINE)
    assert sorted(name for name, _ in listed) == sorted(
        path.name for path in vendor.iterdir() if path.suffix in (".js", ".css")
    )
    for name, sha256 in listed:
        assert files.sha256_file(vendor / name) == sha256, name


def test_the_command_names_recipe_and_seed():
    chosen = {"recipes": "tiny,other", "seeds": [1, 2], "seed": 2, "miniature": False, "training": {"control": None}}
    chosen["name"] = None
    run = {"name": "tiny-seed-2", "settings": chosen, "base": None}
    variant = {"name": "mine-seed-2", "settings": chosen | {"recipes": "tiny", "name": "mine"}}
    assert page.recipe_of(variant) == "tiny"
    small = {"name": "tiny-miniature-seed-2", "settings": chosen | {"miniature": True}}
    control = {"name": "tiny-control-random-seed-2", "settings": chosen | {"training": {"control": "random"}}}
    assert page.recipe_of(run) == page.recipe_of(small) == page.recipe_of(control) == "tiny"
    made = {"provenance": {"commit": "abc", "dirty": False}}
    assert page.command(run | {"training": made}).splitlines() == [
        "git checkout abc",
        "# settings.yaml: all effective settings, as below",
        "snakemake --cores 1 results/report.html --configfile settings.yaml --config recipes=tiny 'seeds=[2]'",
    ]
    alone = {"name": "other", "settings": chosen | {"seeds": None}, "base": None}
    dirty = {"provenance": {"commit": None, "dirty": True}}
    assert page.command(alone | {"training": dirty}).splitlines()[0] == "# (tracked files differed from that commit)"
    assert page.command(alone | {"training": None}).endswith("--config recipes=other")


def test_controls_stand_beside_their_run_with_rates_tests_and_a_sentence(tmp_path):
    names = ["one", "one-control-format_only", "one-control-random"]
    synthetic.make(tmp_path, "one", 60, 10, skill=0.9)
    for name, control, skill in ((names[1], "format_only", 0.6), (names[2], "random", 0.4)):
        synthetic.make(tmp_path, name, 60, 10, skill=skill, recipes=["one"], training={"control": control})
    apart = render_page(tmp_path, names, [])
    assert 'id="one-controls"' in apart and "the control format_only" not in apart  # no test against the run yet
    synthetic.compare_recipes(tmp_path, names)
    html = render_page(tmp_path, names, [])
    table = html[html.index('id="one-controls"') :].split("</table>")[0]
    assert "% of 60 test rows" in table and re.findall(r'href="#([\w-]+)"', table) == names[1:]
    rows = [re.findall(r'<td data-sort="([^"]+)"', row) for row in table.split("<tr>")[2:]]
    assert [len(row) for row in rows] == [3, 4, 5, 5]
    for row, name, checkpoint in zip(rows, ["one", *names], ["base", "final", "final", "final"], strict=True):
        metrics = files.read_json(tmp_path / name / "evaluations" / checkpoint / "metrics.json")
        keys = ("answer_accuracy", "flexible_accuracy", "format_accuracy")
        assert row[:3] == [str(metrics[key]["value"]) for key in keys]
    pairs = files.read_json(tmp_path / "comparison-of-recipes.json")["pairs"]
    assert [row[4] for row in rows[2:]] == [str(pair["answer"]["difference"]["value"]) for pair in pairs[:2]]
    summaries = [summarise_run(tmp_path, name, read_yaml(ROOT / "config.yaml")) for name in names]
    gains = [numbers.points(each["compared"]["answer"]["difference"]["value"]) for each in summaries]
    assert f"gain of {gains[0]} points" in html or f"Of the {gains[0]} points" in html
    # The cards of the controls stand in their own sections, and say what they are.
    result = html[html.index('id="result"') : html.index('id="comparison"')]
    assert result.count("<article") == 1 and "This run is a control: it was trained by the toss of a coin" in html
    assert 'id="one-control-random-controls"' not in html


def test_controls_belong_to_the_run_of_their_seed(tmp_path):
    names = []
    for control in (None, "random"):
        for seed in (0, 1):
            chosen = {"recipes": ["one"], "seeds": [0, 1], "seed": seed, "training": {"control": control}}
            names.append(f"one{'-control-random' if control else ''}-seed-{seed}")
            synthetic.make(tmp_path, names[-1], 12, 10, **chosen)
    html = render_page(tmp_path, names, [])
    for seed in (0, 1):
        table = html[html.index(f'id="one-seed-{seed}-controls"') :].split("</table>")[0]
        assert re.findall(r'href="#([\w-]+)"', table) == [f"one-control-random-seed-{seed}"]


def test_published_counts_are_shown_with_their_intervals(tmp_path):
    """Of gemma3-1b-working-out: a gain of 33 of 1,319 rows, which may be none."""
    recipe = effective_settings("gemma3-1b-working-out", {})
    (row,) = run_summary.published_rows(recipe["published"])
    change = row["difference"]
    assert change["value"] == pytest.approx(33 / 1319) and change["low"] < 0 < change["high"]
    synthetic.make(tmp_path, "one", 12, 10, published=recipe["published"])
    html = render_page(tmp_path, ["one"], [])
    (shown,) = re.findall(r'<div class="published">.*?</div>\s*(<p>.*?</p>)', html, re.DOTALL)
    assert shown == (
        f"<p>The published change of {numbers.points(change['value'])} points ({numbers.interval_ends(change)}) has an "
        "interval that contains 0: it may be no change.</p>"
    )
    for rate in (row["base"], row["trained"]):
        assert f'{numbers.percent(rate["value"])}<br><span class="soft">{numbers.tenth(rate["low"])}–' in html
    clear = {"correct": 900, "n": 1319}
    (row,) = run_summary.published_rows({"values": [recipe["published"]["values"][0] | {"trained": clear}]})
    assert sentences.published_change(row).endswith("has an interval that leaves out 0.")
    (row,) = run_summary.published_rows({"values": [recipe["published"]["values"][0] | {"base": None}]})
    assert row["difference"] is None and sentences.published_change(row) == ""


def test_other_sets_are_a_table_with_the_verdict_in_a_sentence(results):
    right = {"others": ([False] * 40, [True] * 30 + [False] * 10), "few": ([False] * 4, [True] * 4)}
    found = synthetic.add_transfer(results, "one", right, 1, {"few": (["3", "none"], ["none", "none"])})
    html = render_page(results, ["one"], [])
    table = cells(html, "Other sets of problems: one")
    assert [row[0] for row in table[1:]] == ["gsm8k (its own, 12 test)", "others (40)", "few (4)"]
    change = f"+75.0 {numbers.interval_ends(found['sets']['others']['compared']['answer']['difference'])} p &lt; 0.0001"
    assert table[2][1:5] == ["0.0 % 0.0–8.8", "75.0 % 59.8–85.8", change, change] and table[2][6] == "better"
    said = " ".join(html.split())
    assert "<li>few is too small to show any change.</li>" in said
    assert "<li>Left out of others: 1 row, whose prompt is longer than prompt.max_tokens.</li>" in said
    assert (
        "<li>No number answers 2 more questions of few. Answers without a number: base 50.0 % (9.5–90.5), trained "
        "100.0 % (34.2–100.0); n = 2.</li>"
    ) in said
    assert "in 4 of 5 tries, before Holm corrects it." in said and "p is Holm's for 4 tests together" in said
    sentence = transfer_sentence(found)
    assert html.count(sentence) == 2 and 'id="one-transfer"' in html  # in the card, and above the table
    (results / "one/transfer.json").unlink()
    assert "The other sets are not evaluated yet: one/transfer.json is missing" in render_page(results, ["one"], [])
    assert "two-transfer" not in render_page(results, ["two"], [])


def test_a_second_gold_alone_speaks_of_no_other_sets(results):
    """Corrected labels need no other set."""
    synthetic.add_transfer(results, "one", {}, 1)
    settings = read_yaml(results / "one/settings.yaml")
    settings["evaluation"]["transfer"] = [read_transfer_set("{name: gsm8k_platinum, path: gold.jsonl}")]
    files.write_text(results / "one/settings.yaml", yaml.safe_dump(settings))
    own = files.read_jsonl(results / "data/gsm8k/test.jsonl")
    files.write_jsonl(results / "data/gsm8k_platinum/test.jsonl", own[:5])
    found = compare_transfer(results, "one", settings)
    files.write_json(results / "one/transfer.json", {**found, "provenance": synthetic.PROVENANCE})
    said = " ".join(render_page(results, ["one"], []).split())
    assert "No other set of problems was tried." in said and "0 tests" not in said
    assert "the corrected labels of GSM8K-Platinum, which 5 of the evaluated rows have (0 are other ones)" in said
