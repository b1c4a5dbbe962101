"""What the model card says of licence, data and base follows from the artifacts."""

import pytest
import yaml

from gsm8k_grpo import gsm8k, model_card

PUBLISHED = {f"{split}.jsonl": sha256 for split, (_, sha256) in gsm8k.PUBLISHED.items()}


def model(source="huggingface", architecture="gemma2_2b"):
    return {"origin": {"source": source}, "architecture": architecture}


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        (model(), "gemma"),
        (model("kaggle"), "gemma"),
        (model(architecture="qwen2.5_0.5b"), "apache-2.0"),
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
    said = model_card.notice({"licence": None, "model": about})
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
        "model": model(),
        "licence": model_card.GEMMA,
        "base_model": "google/gemma-2-2b-it",
        "dataset": {"name": "rows", "origin": origin},
        "final": {"split": "test", "answer_accuracy": {"value": 0.5}},
    }
    found = yaml.safe_load(model_card.front_matter(facts))
    assert found.get("datasets") == (["openai/gsm8k"] if is_gsm8k else None)
    measured = found["model-index"][0]["results"][0]["dataset"]
    assert measured["type"] == ("openai/gsm8k" if is_gsm8k else "rows")
