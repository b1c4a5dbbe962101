"""The KL penalty: the gradient of each estimator in expectation, over a vocabulary small enough to enumerate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tunix.rl import common
from tunix.rl.grpo import grpo_learner

import oracle
from gsm8k_grpo.grpo.loss import surrogate


@functools.partial(jax.jit, static_argnames="estimator")
def expected_gradient(logits, reference, estimator):
    """The gradient of the KL term as a loss, with each token weighted by its probability, as if the policy drew it."""

    def expected(logits):
        logps, reference_logps = jax.nn.log_softmax(logits), jax.nn.log_softmax(reference)
        if estimator == "stock":
            estimates = common.compute_kl_divergence(logps, reference_logps, grpo_learner.GRPOConfig().kl_loss_mode)
        else:  # the whole loss with β = 1, without advantages
            column, zeros = logps[:, None], jnp.zeros(len(logps))
            losses, _, _ = surrogate(column, column, reference_logps[:, None], zeros, 0.2, 0.2, 1.0, estimator)
            estimates = losses[:, 0]
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(logps)) * estimates)

    return jax.grad(expected)(logits)


@pytest.mark.parametrize("seed", range(5))
def test_the_penaltys_expected_gradient_is_that_of_a_divergence_and_stocks_is_zero(seed):
    """Defect 1: Tunix's default, k1, is an unbiased estimate of the KL, but as a loss it has no gradient."""
    logits, reference = np.random.default_rng(seed).normal(scale=0.7, size=(2, 5)).astype(np.float32)
    k2, k3, stock = (
        np.asarray(expected_gradient(logits, reference, name), np.float64) for name in ("k2", "k3", "stock")
    )
    exact = oracle.reverse_kl_gradient(logits, reference)
    assert np.linalg.norm(exact) > 0.05
    np.testing.assert_allclose(k2, exact, atol=1e-6)
    np.testing.assert_allclose(k3, oracle.forward_kl_gradient(logits, reference), atol=1e-6)
    assert k3 @ exact / np.linalg.norm(k3) / np.linalg.norm(exact) > 0.8
    np.testing.assert_allclose(stock, 0, atol=1e-6)
