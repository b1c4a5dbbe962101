"""Rejection sampling, throughout or as a warm start: what it keeps, its gradient, and that a model learns from it."""

import jax
import numpy as np
import pytest
from flax import nnx

from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.groups import Group
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.training_method import completion_advantages
from gsm8k_grpo.models.lora import make_policy
from gsm8k_grpo.rewards import answers
from small_reasoner import ROWS, STOP_IDS, SUMS, TAGS, base_model, hinted_model, hinted_prompt

TRAINING = {
    **{"method": "rejection_sampling", "max_steps": 20, "checkpoint_interval_steps": 20, "prompts_per_step": 4},
    **{"num_generations": 4, "max_completion_tokens": 48, "beta": 0, "temperature": 1.0, "learning_rate": 0.01},
    "lora": {"rank": 4, "alpha": 4, "target_modules": ["q_einsum", "down_proj"]},
}


def group(*completions):
    count = len(completions)
    ids = [np.arange(4, 8)] * count
    return Group({"answer": "18"}, np.arange(4), list(completions), ids, np.zeros(count, bool), {}, np.zeros(count))


def test_what_is_kept_has_the_exact_format_and_the_right_answer():
    right, wrong = (f"<reasoning>9 * 2 = 18</reasoning>\n<answer>{answer}</answer>" for answer in ("$18.00", "5"))
    groups = [group(right, wrong), group(right + " Done.", "18"), group(right, right)]
    found = completion_advantages(groups, TRAINING, TAGS)
    assert found.tolist() == [1, 0, 0, 0, 1, 1] and found.dtype == np.float32


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return base_model(tmp_path_factory.mktemp("base"), cheap="")


@pytest.fixture(scope="module")
def hinted(tmp_path_factory):
    return hinted_model(tmp_path_factory.mktemp("hinted"))


@pytest.fixture
def make_learner(mesh, tmp_path):
    """Makes the learner of a base model and its tokenizer."""

    def make(base, tokenizer, rows, max_prompt_tokens=32, **changes):
        settings = effective_settings("tiny", {"training": TRAINING | changes})["training"]
        policy = make_policy(base, settings["lora"], 0, mesh)
        rl_cluster = tunix_setup.make_rl_cluster(
            *(policy, None, tokenizer, mesh, settings, max_prompt_tokens, STOP_IDS, 0, Run(tmp_path / "run", 1)),
            base=base,
        )
        return Learner(rl_cluster, settings, TAGS, rows, 0, STOP_IDS)

    return make


@pytest.fixture
def learner(small, make_learner):
    return make_learner(*small, ROWS)


@pytest.fixture
def warm_learner(hinted, make_learner):
    """Of a model that shows the form after a hint alone, which only the warm start's prompts have."""
    rows = [row | {"warm_start_prompt": hinted_prompt(*numbers)} for row, numbers in zip(ROWS, SUMS, strict=True)]
    changes = {
        "method": "grpo",
        "warm_start_steps": 20,
        "max_steps": 26,
        "rewards": ["format_exact"],
        "advantage_estimator": "drgrpo",
    }
    return make_learner(*hinted, rows, 40, **changes)


def formatted(model, tokenizer, mesh):
    """The share of 64 sampled completions that are right in the exact format."""
    prompts = [row["prompt"] for row in ROWS for _ in range(4)]
    keys = jax.random.split(jax.random.key(7), len(prompts))
    texts = Sampler(model, tokenizer, 96, mesh)(prompts, 48, 32, STOP_IDS, 1.0, 1.0, seed=keys, repeats=4).text
    golds = [answers.gold_of(row) for row in ROWS for _ in range(4)]
    return np.mean(
        [
            answers.has_format(text, TAGS) and answers.strict(text, TAGS) == gold
            for text, gold in zip(texts, golds, strict=True)
        ]
    )


@pytest.mark.slow
def test_a_model_learns_from_its_own_right_completions(small, learner, mesh):
    base, tokenizer = small
    rows = [learner.update(learner.sample()) for _ in range(TRAINING["max_steps"])]
    assert all(row["gradient_norm"] > 0 for row in rows)
    before, after = (formatted(model, tokenizer, mesh) for model in (base, learner.rl_cluster.actor_trainer.model))
    assert 0.4 < before < 0.9 < after


@pytest.mark.slow
def test_after_a_warm_start_a_model_shows_the_form_without_the_prompt_that_called_for_it(warm_learner, mesh):
    learner, tokenizer = warm_learner, warm_learner.rl_cluster.tokenizer
    policy, shares, metrics = learner.rl_cluster.actor_trainer.model, [], []
    shares.append(formatted(policy, tokenizer, mesh))
    for end in (20, 26):
        while learner.steps_done < end:
            metrics.append(learner.update(learner.sample()))
        shares.append(formatted(policy, tokenizer, mesh))
    before, warm, after = shares
    assert before == 0 and warm > 0.25 and after > 0.25
    # The base model is rewarded in the warm start, the policy after it.
    assert metrics[19]["reward"] == 3 and 1 < metrics[20]["reward"] < 3


@pytest.mark.slow
@pytest.mark.parametrize("warm", [False, True])
def test_the_gradient_is_that_of_the_kept_completions_likelihood(warm, request):
    """The loss is the negative log-likelihood of kept tokens, by completion, as a share of the step's completions.

    In a warm start they follow the plain prompt, not the one that they were sampled with.
    """
    learner = request.getfixturevalue("warm_learner" if warm else "learner")
    batch = learner.sample()
    graph, trained, frozen = learner._update._model
    zeros = jax.tree.map(lambda leaf: 0 * leaf, trained)
    found = zeros
    for example in batch.micro_batches:
        found, _ = learner._update._gradient(graph, trained, frozen, found, example)

    def loss(trained):
        model, total = nnx.merge(graph, trained, frozen), 0.0
        for sample in batch.samples:
            if not sample["advantage"]:
                continue
            row = next(row for row in ROWS if row["id"] == sample["id"])
            tokenizer = learner.rl_cluster.tokenizer
            prompt = [tokenizer.bos_id(), *tokenizer.encode(row["prompt"])]
            ids = np.array([*prompt, *tokenizer.encode(sample["completion"]), STOP_IDS[0]])[None]
            assert ids.shape[1] - len(prompt) == sample["tokens"], "encoded as it was sampled"
            logits = model(ids, np.arange(ids.shape[1])[None], None, np.tri(ids.shape[1], dtype=bool)[None])[0]
            logps = jax.nn.log_softmax(logits[0, len(prompt) - 1 : -1])
            total -= logps[np.arange(sample["tokens"]), ids[0, len(prompt) :]].mean()
        return total / len(batch.samples)

    kept = sum(sample["advantage"] for sample in batch.samples)
    assert kept == len(batch.samples) if warm else 0 < kept < len(batch.samples)
    expected = jax.grad(loss)(trained)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)
