"""Pretraining: rows are packed, only completions are predicted, and the loss is the mean over their tokens."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import small_models
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.models import building, pretraining

loss = nnx.jit(pretraining.next_token_loss, static_argnames="pad_id")
forward = nnx.jit(lambda model, tokens: model(tokens, jnp.arange(4)[None], None, jnp.tri(4, dtype=bool)[None])[0])
ARCHITECTURE = small_models.ARCHITECTURE | {"vocabulary_size": 32, "sliding_window_tokens": 16}


def test_rows_are_padded_right_and_only_completions_are_targets():
    batch = pretraining.pack_rows([[2, 5], [2, 6, 7], [2] * 9], [[8, 1], [9], [9]], pad_id=0, max_tokens=6)
    np.testing.assert_array_equal(batch.tokens, [[2, 5, 8, 1], [2, 6, 7, 9]])
    np.testing.assert_array_equal(batch.target_mask, [[0, 0, 1, 1], [0, 0, 0, 1]])
    with pytest.raises(PipelineError, match=r"model.pretraining.max_tokens: no demonstration fits into 2"):
        pretraining.pack_rows([[2, 5]], [[8]], pad_id=0, max_tokens=2)


def test_the_loss_is_the_mean_over_target_tokens_in_float64():
    model = building.initialise(building.tunix_config(ARCHITECTURE), seed=0)
    batch = pretraining.pack_rows([[2, 5], [2, 6, 7]], [[8, 1], [9]], pad_id=0, max_tokens=8)
    total = []
    for tokens, mask in zip(batch.tokens, batch.target_mask, strict=True):
        scores = np.asarray(forward(model, jnp.array(tokens)[None]), np.float64)[0]
        for place in np.flatnonzero(mask):
            total.append(np.log(np.exp(scores[place - 1]).sum()) - scores[place - 1, tokens[place]])
    assert len(total) == 3
    assert float(loss(model, batch, pad_id=0)) == pytest.approx(np.mean(total), abs=1e-5)


def test_training_learns_what_it_is_shown():
    model = building.initialise(building.tunix_config(ARCHITECTURE), seed=0)
    batch = pretraining.pack_rows(
        [[2, n] for n in range(5, 13)], [[n + 8, 1] for n in range(5, 13)], pad_id=0, max_tokens=8
    )
    before = float(loss(model, batch, pad_id=0))
    pretraining.pretrain_model(model, batch, {"steps": 40, "batch_size": 8, "learning_rate": 0.01}, seed=0, pad_id=0)
    assert before > 2.5 and float(loss(model, batch, pad_id=0)) < 0.1
