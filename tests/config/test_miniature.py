"""Any recipe as a miniature is small and still that recipe. A table holds the settings of the published recipes."""

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import merge
from gsm8k_grpo.config.recipes import effective_settings, load_selected, runs_by_recipe
from gsm8k_grpo.models.families import family_of

# family, precision, LoRA's rank, alpha and dropout, (G, μ, β, ε), learning rate, temperature
PUBLISHED = {
    "gemma2-2b-it": ("gemma2", "float32", (64, 64, 0), (4, 1, 0.08, 0.2), 3.0e-6, 0.9),
    "gemma2-2b-reasoning": ("gemma2", "bfloat16", (64, 64, 0), (16, 3, 0.04, 0.2), 2.0e-6, 0.9),
    "gemma3-1b-it": ("gemma3", "float32", (64, 64, 0), (4, 1, 0.08, 0.2), 3.0e-6, 0.9),
    "gemma3-1b-working-out": ("gemma3", "bfloat16", (8, 8, 0), (8, 1, 0.04, 0.2), 5.0e-6, 1.0),
    "minigrpo-fast": ("qwen2", "bfloat16", (64, 128, 0.1), (2, 1, 0, 0.28), 1.0e-5, 1.0),
    "minigrpo-slow": ("qwen2", "float32", None, (4, 1, 0.04, 0.28), 1.0e-5, 1.0),
}
# What a miniature may change of training and evaluation; all else is the recipe's.
SIZES = {
    "training": {
        "max_steps",
        "max_completion_tokens",
        "remat",
        "learning_rate",
        "max_gradient_norm",
        "lora",
        "checkpoint_interval_steps",
    },
    "evaluation": {"rows", "selection_rows", "batch_size", "max_completion_tokens"},
}


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_published_recipe_has_its_published_settings(recipe):
    settings = effective_settings(recipe, {})
    training, lora = settings["training"], settings["training"]["lora"]
    assert PUBLISHED[recipe] == (
        family_of(settings["model"]["architecture"]).name,
        settings["model"]["dtype"],
        lora and (lora["rank"], lora["alpha"], lora["dropout"]),
        tuple(training[name] for name in ("num_generations", "num_iterations", "beta", "epsilon")),
        training["learning_rate"],
        training["temperature"],
    )


def test_what_was_published_is_what_the_publications_say_and_nothing_else():
    """Base, trained and difference of each rate; the other recipes' origins give none."""
    found = {
        (recipe, row["metric"]): (row["base"], row["trained"], row["difference"])
        for recipe in PUBLISHED
        for row in (effective_settings(recipe, {})["published"] or {"values": []})["values"]
    }
    assert found == {
        ("gemma3-1b-it", "answer_accuracy"): (None, 0.145, None),
        ("gemma3-1b-it", "partial_accuracy"): (None, 0.16, None),
        ("gemma3-1b-it", "format_accuracy"): (None, 0.46, None),
        ("gemma3-1b-working-out", "answer_accuracy"): (None, None, 0.025),
        ("minigrpo-fast", "answer_accuracy"): ([0.10, 0.15], [0.30, 0.35], None),
    }


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_miniature_is_small_and_still_its_recipe(recipe):
    large, small = effective_settings(recipe, {}), effective_settings(recipe, {"miniature": True})
    assert (small["model"]["source"], small["dataset"]["source"], small["mesh"]) == (
        "pretrained",
        "generated",
        {"fsdp": 1, "tp": 1, "decode_weights": "gathered"},
    )
    assert small["model"]["architecture"]["vocabulary_size"] <= 640 and small["training"]["max_steps"] <= 200
    assert family_of(small["model"]["architecture"]) == family_of(large["model"]["architecture"])
    assert small["model"]["dtype"] == large["model"]["dtype"]
    assert small["prompt"]["tags"] == large["prompt"]["tags"] == small["model"]["pretraining"]["tags"]
    for block, sizes in SIZES.items():
        kept = large[block].keys() - sizes
        assert {key: small[block][key] for key in kept} == {key: large[block][key] for key in kept}
    if large["training"]["lora"]:
        lora, published = small["training"]["lora"], large["training"]["lora"]
        assert lora["alpha"] / lora["rank"] == published["alpha"] / published["rank"]
        for key in ("dropout", "base_weights", "target_modules"):
            assert lora[key] == published[key]


def test_miniatures_have_results_of_their_own_and_one_report():
    runs = load_selected(list(PUBLISHED), {"miniature": True})
    assert list(runs) == [f"{recipe}-miniature" for recipe in PUBLISHED]
    assert len({settings["model"]["name"] for settings in runs.values()}) == len(PUBLISHED)
    seeded = load_selected("minigrpo-fast", {"miniature": True, "seeds": [0, 2]})
    assert list(seeded) == ["minigrpo-fast-miniature-seed-0", "minigrpo-fast-miniature-seed-2"]
    assert runs_by_recipe(seeded) == {"minigrpo-fast-miniature": list(seeded)}


def test_the_command_line_goes_over_a_miniature_too():
    settings = effective_settings("gemma2-2b-it", {"miniature": True, "training": {"max_steps": 120, "beta": 0.5}})
    assert (settings["training"]["max_steps"], settings["training"]["beta"]) == (120, 0.5)
    # The command line may also set a part of what only the miniature has; its faults are reported like all others.
    less = {"miniature": True, "model": {"pretraining": {"steps": 400}}}
    whole = effective_settings("gemma2-2b-it", {"miniature": True})
    assert effective_settings("gemma2-2b-it", less) == merge(whole, less)
    for model, sentence in (
        ({"pretraining": {"steps": "x"}}, r"model.pretraining"),
        ("x", r"model: expected keys and values, found 'x'"),
    ):
        with pytest.raises(PipelineError, match=sentence):
            effective_settings("gemma2-2b-it", {"miniature": True, "model": model})


def test_the_command_line_can_change_what_a_recipes_miniature_changes():
    overrides = {"miniature": True, "at_miniature_size": {"training": {"max_steps": 101}}}
    training = effective_settings("gemma2-2b-it", overrides)["training"]
    assert (training["max_steps"], training["checkpoint_interval_steps"]) == (101, 100)


def test_the_miniature_of_a_miniature_is_itself():
    assert effective_settings("tiny", {"miniature": True}) == effective_settings("tiny", {})
    assert list(load_selected("tiny", {"miniature": True})) == ["tiny"]
