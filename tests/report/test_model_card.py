"""Licence, data and base of the model card follow from the artifacts."""

import json

import pytest
import yaml

import synthetic
from gsm8k_grpo.common import files
from gsm8k_grpo.config.merging import merge, read_yaml
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.models import families
from gsm8k_grpo.report import model_card

PUBLISHED = gsm8k.published_hashes()
QWEN = {"source": "huggingface", "handle": "Qwen/Qwen2.5-0.5B-Instruct"}


def model(source="huggingface", architecture="gemma2_2b"):
    return {"origin": {"source": source}, "architecture": architecture}


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        (model(), "gemma"),
        (model("kaggle"), "gemma"),
        ({**model(architecture="qwen2.5_0.5b"), "origin": QWEN}, "apache-2.0"),
        # What someone made of it may be under other terms. (Gemma's hold for all that is made of it.)
        ({**model(architecture="qwen2.5_0.5b"), "origin": {**QWEN, "handle": "someone/tuned"}}, None),
        (model("local", architecture="qwen2.5_0.5b"), None),
        # Qwen2.5 3B's licence is another one: of sizes that are not a preset's, none is claimed.
        (model(architecture={"family": "qwen2", "num_layers": 36}), None),
        (model("pretrained", {"family": "gemma2"}), None),
    ],
)
def test_a_licence_is_named_where_it_is_known(about, expected):
    found = model_card.licence(about)
    assert (found and found[0]) == expected


@pytest.mark.parametrize("about", [model(architecture={"family": "qwen2"}), model("pretrained", {"family": "qwen2"})])
def test_only_a_miniature_holds_no_published_weights(about):
    said = model_card.notice({"licence": None, "model": about, "settings": {"training": {"method": "grpo"}}})
    assert ("no published weights" in said) == (about["origin"]["source"] == "pretrained")


@pytest.mark.parametrize(
    ("origin", "is_gsm8k"),
    [
        ({"source": "huggingface", "sha256": PUBLISHED}, True),
        ({"source": "jsonl", "sha256": PUBLISHED}, True),
        ({"source": "jsonl", "sha256": {**PUBLISHED, "test.jsonl": "another"}}, False),
        ({"source": "generated", "seed": 0}, False),
    ],
)
def test_only_published_rows_are_called_gsm8k(origin, is_gsm8k):
    facts = {
        "recipe": "mine",
        "settings": {"training": {"lora": None, "method": "grpo"}},
        "model": model(),
        "licence": families.FAMILIES["gemma2"].licence("gemma2_2b", ""),
        "base_model": "google/gemma-2-2b-it",
        "dataset": {"name": "rows", "origin": origin},
        "final": {"split": "test", "answer_accuracy": {"value": 0.5}},
    }
    found = yaml.safe_load(model_card.front_matter(facts))
    assert found.get("datasets") == (["openai/gsm8k"] if is_gsm8k else None)
    measured = found["model-index"][0]["results"][0]["dataset"]
    assert measured["type"] == ("openai/gsm8k" if is_gsm8k else "rows")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    synthetic.make(folder, "one", 20, 30)
    return folder


EXPORT = {
    "checkpoint": {"name": "final", "step": 30, "sha256": "c" * 64},
    "training": "f" * 16,
    "dtype": "bfloat16",
    "lora": {"rank": 8, "alpha": 8.0, "base_weights": None},
    "adapted_weights": 100,
    "changed_weights": 90,
    "update_error": 0.01,
    "agreement": {
        **{"rows": 8, "tokens": 200, "largest_logit": 20.0, "largest_difference": 0.1, "mean_difference": 0.01},
        **{"same_next_token": 0.99},
    },
}


@pytest.mark.parametrize(
    ("origin", "architecture", "says", "licence"),
    [
        (
            {"source": "huggingface", "handle": "google/gemma-2-2b-it", "revision": None, "commit": "0" * 40},
            "gemma2_2b",
            ("from google/gemma-2-2b-it;", "google/gemma-2-2b-it, commit 0000"),
            "Gemma Terms of Use",
        ),
        (
            {"source": "kaggle", "handle": "google/gemma-2/flax/gemma2-2b-it", "revision": 2, "version": 2},
            "gemma2_2b",
            ("from google/gemma-2-2b-it;", "Kaggle's version 2"),
            "Gemma Terms of Use",
        ),
        (
            {"source": "kaggle", "handle": "someone/gemma/flax/mine", "revision": None, "version": None},
            "gemma2_2b",
            ("from someone/gemma/flax/mine on Kaggle;",),
            "Gemma Terms of Use",
        ),
        ({"source": "local", "path": "/models/3b"}, {"family": "qwen2"}, ("from /models/3b;",), "see where it was"),
        (
            {"source": "pretrained", "seed": 0, "rows": 3},
            {"family": "gemma3"},
            ("pretrained from nothing by the same pipeline;",),
            "contains no published weights",
        ),
    ],
    ids=["hugging face", "kaggle", "another's on kaggle", "local", "miniature"],
)
def test_the_card_of_a_base_from_anywhere(results, origin, architecture, says, licence):
    (path,) = results.glob("models/*/model.json")
    files.write_json(path, {**files.read_json(path), "origin": origin, "architecture": architecture})
    facts = model_card.facts(results, "one")
    text = model_card.render(facts, EXPORT)
    for words in says:
        assert words in text
    assert licence in text and ("license: gemma" in text) == (architecture == "gemma2_2b")
    rewards = facts["settings"]["training"]["rewards"]
    assert f"by rewards that read its text ({', '.join(rewards)});" in text  # whichever they are
    assert "datasets:" not in text  # those rows have no hashes of GSM8K's
    assert ("no published weights" in model_card.notice(facts)) == (origin["source"] == "pretrained")


def test_the_card_asks_in_the_recipes_layout(results):
    (path,) = results.glob("one/settings.yaml")
    settings = read_yaml(path)
    layout = "{system}\n\nQuestion: {question}\nSolution:"
    for written, says in ((layout, True), (None, False)):
        files.write_text(path, yaml.safe_dump(merge(settings, {"prompt": {"layout": written}})))
        text = model_card.render(model_card.facts(results, "one"), EXPORT)
        assert (f"prompt = {json.dumps(layout)}.format(system=system, question=question)" in text) == says
        assert ("apply_chat_template" in text) != says
