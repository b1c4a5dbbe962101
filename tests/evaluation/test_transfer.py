"""Base against trained on other sets: tests and their correction, and the rule of the one verdict."""

import pytest

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.evaluation import clustered, stats, transfer
from gsm8k_grpo.report.transfer_sentence import transfer_sentence

NOTHING = ([True, False] * 20, [True, False] * 20)
GAIN = ([False] * 40, [True] * 20 + [False] * 20)
LOSS = GAIN[::-1]
IN_FORMAT = ([True] * 40, [True] * 40)  # a set with "format" in its name: the base model lacks the format alone


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished recipe whose gain on its own rows is significant."""
    folder = tmp_path_factory.mktemp("made")
    synthetic.make(folder, "one", 120, 10)
    compared = files.read_json(folder / "one/comparison.json")
    assert max(compared[key]["mcnemar_p"] for key in ("answer", "flexible")) < 1e-4
    return folder


def test_the_tests_of_all_sets_are_corrected_together_and_each_set_has_its_rates(made):
    found = synthetic.add_transfer(made, "one", {"same": NOTHING, "gain": GAIN, "format": IN_FORMAT}, 1)
    compared = {name: each["compared"] for name, each in found["sets"].items()}
    raw = [compared[name][reading]["p"] for name in compared for reading in ("answer", "flexible")]
    assert found["tests"] == 6
    assert [compared[name][key]["holm_p"] for name in compared for key in ("answer", "flexible")] == stats.holm(raw)
    assert compared["gain"]["answer"]["fixed"] == 20 and compared["gain"]["answer"]["p"] == pytest.approx(2 * 0.5**20)
    gain = found["sets"]["gain"]
    assert [gain["rates"][side]["answer_accuracy"]["value"] for side in ("base", "final")] == [0, 0.5]
    assert gain["rows"] == 40 and len(gain["left_out"]) == 1 and gain["compared"]["answer"]["clusters"] is None
    assert {name: each["verdict"] for name, each in found["sets"].items()} == {
        "same": "no significant change",
        "gain": "better",
        "format": "better in format alone",
    }
    assert set(found["overlap"]["sets"]) == {"gsm8k", "same", "gain", "format"}
    assert found["own"]["answer"] == files.read_json(made / "one/comparison.json")["answer"]


def test_rows_of_one_template_are_no_independent_evidence(made):
    found = synthetic.add_transfer(made, "one", {"gain": GAIN}, 10)["sets"]["gain"]
    names = [str(index // 10) for index in range(40)]
    expected = clustered.paired_comparison(*GAIN, names)
    assert expected.items() <= found["compared"]["answer"].items() and expected["clusters"] == 4
    assert expected["p"] == 0.5  # two templates of four changed, both for the better
    assert found["verdict"] == "no significant change"


def test_rows_that_no_number_answers_are_scored_apart(made):
    answers = (["3", "none", "4 or 5", "2"], ["none", "none", "4", "not given"])
    found = synthetic.add_transfer(made, "one", {"plus": GAIN}, 10, {"plus": answers})["sets"]["plus"]
    plain = synthetic.add_transfer(made, "one", {"plus": GAIN}, 10)["sets"]["plus"]
    rates = {name: stats.wilson_rate(abstained, 4) for name, abstained in (("base", 1), ("final", 3), ("best", 3))}
    assert found == plain | {"without_number": 4, "abstained": rates} and plain["rows"] == 40
    assert plain["abstained"] == {}


@pytest.mark.parametrize(
    ("sets", "verdict", "words"),
    [
        ({"a": NOTHING}, "on its own rows alone", "The gain holds on gsm8k alone: with the format ignored, answers "),
        (
            {"a": NOTHING, "b": GAIN, "c": LOSS},
            "carries over",
            "carries over to b (1 of 3 other sets): answers rose there even with the format ignored. No significant "
            "change is seen on a. Answers fell on c.",
        ),
        ({"format": IN_FORMAT}, "on its own rows alone", "On format, only answers in the format rose."),
    ],
)
def test_the_verdict_and_its_sentence(made, sets, verdict, words):
    found = synthetic.add_transfer(made, "one", sets, 1)
    assert found["verdict"] == verdict and words in transfer_sentence(found)


@pytest.mark.parametrize(
    ("answer", "flexible", "sets", "verdict"),
    [
        ((0.1, 0.04), (0.1, 0.9), ["no significant change"], "format"),
        ((0.1, 0.04), (0.1, 0.01), ["better in format alone"], "on its own rows alone"),
        ((0.1, 0.04), (0.1, 0.9), ["better", "worse"], "carries over"),
        ((0.1, 0.06), (0.1, 0.01), ["better"], "no gain"),
        ((-0.1, 0.01), (0.1, 0.01), ["worse"], "no gain"),
    ],
)
def test_the_rule_in_docs_evaluation(answer, flexible, sets, verdict):
    def test(value, p, holm_p):
        return {"difference": {"value": value}, "mcnemar_p": p, "holm_p": holm_p}

    own = {"answer": test(*answer, None), "flexible": test(flexible[0], 0.0, flexible[1])}
    assert transfer.verdict_of_all(own, dict(enumerate(sets))) == verdict


def test_corrected_labels_grade_the_same_completions_again(made):
    synthetic.add_transfer(made, "one", {"a": NOTHING}, 1)
    own = files.read_jsonl(made / "data/gsm8k/test.jsonl")
    corrected = [row | {"answer": "1" if index < 3 else row["answer"]} for index, row in enumerate(own[:100])]
    files.write_jsonl(made / "data/gsm8k_platinum/test.jsonl", [row | {"id": f"x{row['id']}"} for row in corrected])
    settings = read_yaml(made / "one/settings.yaml")
    settings["evaluation"]["transfer"].append({"name": "gsm8k_platinum"})
    found = transfer.compare_transfer(made, "one", settings)
    changed = [row["id"] for row, other in zip(own, corrected, strict=False) if row["answer"] != other["answer"]]
    second = found["second_gold"]
    assert (second["rows"], second["without_label"], second["changed"]) == (100, 20, changed) and len(changed) == 3
    graded = {
        side: files.read_jsonl(made / f"one/evaluations/{side}/completions.jsonl")[:100] for side in ("base", "final")
    }
    right = {
        side: [row["strict"] == label["answer"] for row, label in zip(rows, corrected, strict=True)]
        for side, rows in graded.items()
    }
    assert second["answer"] == stats.paired_comparison(right["base"], right["final"])
    assert set(found["sets"]) == {"a"} and "gsm8k_platinum" not in found["overlap"]["sets"]


def test_evaluations_of_other_rows_are_refused(made):
    synthetic.add_transfer(made, "one", {"a": NOTHING}, 1)
    path = made / "one/transfer/a/final/completions.jsonl"
    files.write_jsonl(path, files.read_jsonl(path)[1:])
    with pytest.raises(PipelineError, match="do not hold the same rows; evaluate both again"):
        transfer.compare_transfer(made, "one", read_yaml(made / "one/settings.yaml"))
