"""Any recipe as a miniature is small and still that recipe. A table holds the settings of the published recipes."""

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import merge
from gsm8k_grpo.config.recipes import effective_settings, load_selected, runs_by_recipe
from gsm8k_grpo.models.families import family_of

# What the five systems' descriptions and code state (docs/published-systems.md), where a recipe's comment says nothing
# else: family, precision, rank, alpha and dropout of LoRA, (G, μ, β, ε), completions of an update, updates,
# (temperature, top-k, top-p), (peak and last learning rate, updates of warm-up), (b2, weight decay, clipping).
DEMO = ((0.9, 50, 1.0), (3.0e-6, 0.0, 374), (0.99, 0.1, 0.1))
TORCH = ((1.0, 50, 1.0), (1.0e-5, 1.0e-5, 0), (0.999, 0.01, None))
PUBLISHED = {
    "gemma2-2b-it": ("gemma2", "float32", (64, 64, 0), (4, 1, 0.08, 0.2), 8, 3738, *DEMO),
    "gemma2-2b-reasoning": (
        *("gemma2", "bfloat16", (64, 64, 0), (16, 3, 0.04, 0.2), 128, 600),
        *((0.9, None, 0.95), (2.0e-6, 2.0e-7, 40), (0.999, 0.01, 1.0)),
    ),
    "gemma2-2b-reasoning-as-published": (
        *("gemma2", "bfloat16", (64, 64, 0), (16, 3, 0.04, 0.2), 128, 168),
        *((0.9, None, 0.95), (2.0e-6, 2.0e-7, 40), (0.999, 0.01, 1.0)),
    ),
    "gemma3-1b-it": ("gemma3", "bfloat16", (64, 64, 0), (4, 1, 0.08, 0.2), 16, 1869, *DEMO),
    "gemma3-1b-working-out": (
        *("gemma3", "bfloat16", (8, 8, 0), (8, 1, 0.001, 0.2), 48, 1162),
        *((1.0, None, 0.95), (5.0e-6, 0.0, 116), (0.99, 0.1, 0.1)),
    ),
    "minigrpo-fast": ("qwen2", "bfloat16", (64, 128, 0.1), (2, 1, 0, 0.28), 16, 100, *TORCH),
    "minigrpo-fast-as-published": ("qwen2", "bfloat16", (64, 128, 0.1), (2, 1, 0, 0.28), 8, 125, *TORCH),
    "minigrpo-slow": (
        *("qwen2", "float32", None, (4, 1, 0.01, 0.2), 16, 100),
        *((0.3, 50, 1.0), (1.0e-4, 1.0e-4, 0), (0.999, 0.01, None)),
    ),
}
# What a miniature may change of training and evaluation, beside its recipe's `at_miniature_size`.
SIZES = {
    "training": {
        "max_steps",
        "max_completion_tokens",
        "remat",
        "learning_rate",
        "final_learning_rate_fraction",
        "schedule_steps",
        "warmup_fraction",
        "adam_b1",
        "adam_b2",
        "weight_decay",
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
    updates = training["max_steps"] * training["num_iterations"]
    scheduled = (training["schedule_steps"] or training["max_steps"]) * training["num_iterations"]
    last = training["final_learning_rate_fraction"] * training["learning_rate"]
    assert PUBLISHED[recipe] == (
        family_of(settings["model"]["architecture"]).name,
        settings["model"]["dtype"],
        lora and (lora["rank"], lora["alpha"], lora["dropout"]),
        tuple(training[name] for name in ("num_generations", "num_iterations", "beta", "epsilon")),
        training["prompts_per_step"] * training["num_generations"],
        updates,
        tuple(training[name] for name in ("temperature", "top_k", "top_p")),
        (training["learning_rate"], pytest.approx(last), round(training["warmup_fraction"] * scheduled)),
        tuple(training[name] for name in ("adam_b2", "weight_decay", "max_gradient_norm")),
    )


def test_what_was_published_is_what_the_origins_show_and_nothing_else():
    """Rows that were right before training and after it, of n; the other recipes' origins measure nothing."""
    found = {
        (recipe, row["metric"]): (row["base"], row["trained"], row["difference"])
        for recipe in PUBLISHED
        for row in (effective_settings(recipe, {})["published"] or {"values": []})["values"]
    }
    assert found == {
        ("gemma3-1b-it", "answer_accuracy"): ({"correct": 58, "n": 400}, None, None),
        ("gemma3-1b-it", "partial_accuracy"): ({"correct": 64, "n": 400}, None, None),
        ("gemma3-1b-it", "format_accuracy"): ({"correct": 185, "n": 400}, None, None),
        ("gemma3-1b-working-out", "answer_accuracy"): (
            {"correct": 696, "n": 1319},
            {"correct": 729, "n": 1319},
            None,
        ),
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
        kept = large[block].keys() - sizes - large["at_miniature_size"].get(block, {}).keys()
        assert {key: small[block][key] for key in kept} == {key: large[block][key] for key in kept}
    assert (small["prompt"]["layout"], small["dataset"]["shuffle_seed"]) == (None, None)
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
