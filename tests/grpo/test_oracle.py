"""The oracle's gradients, which its author derived by hand, against finite differences."""

import dataclasses

import numpy as np
import pytest

import oracle
from gsm8k_grpo.common.estimators import KL_ESTIMATORS, LOSS_AGGREGATIONS


@pytest.mark.parametrize("aggregation", LOSS_AGGREGATIONS)
@pytest.mark.parametrize("kl", KL_ESTIMATORS)
def test_the_losss_gradient_is_that_of_finite_differences(aggregation, kl):
    completions = oracle.random_completions(np.random.default_rng(1), [3, 1, 4])
    objective = oracle.Objective(aggregation, 5, 0.1, 0.3, beta=0.2, kl=kl, temperature=0.7)
    result = oracle.loss(completions, objective)
    assert 0 < np.concatenate(result.clipped).mean() < 1
    step = 1e-6
    for i, completion in enumerate(completions):
        for cell in np.ndindex(completion.logits.shape):
            shift = np.zeros_like(completion.logits)
            shift[cell] = step
            above, below = (
                oracle.loss(
                    [*completions[:i], dataclasses.replace(completion, logits=logits), *completions[i + 1 :]], objective
                ).value
                for logits in (completion.logits + shift, completion.logits - shift)
            )
            assert result.gradients[i][cell] == pytest.approx((above - below) / (2 * step), abs=1e-8)


def test_the_exact_kl_gradients_are_those_of_finite_differences():
    logits, reference = np.random.default_rng(1).normal(size=(2, 5))

    def divergence(one, other):
        log_one, log_other = oracle.log_softmax(one), oracle.log_softmax(other)
        return (np.exp(log_one) * (log_one - log_other)).sum()

    for v in range(5):
        shift = 1e-6 * np.eye(5)[v]
        reverse = divergence(logits + shift, reference) - divergence(logits - shift, reference)
        forward = divergence(reference, logits + shift) - divergence(reference, logits - shift)
        assert oracle.reverse_kl_gradient(logits, reference)[v] == pytest.approx(reverse / 2e-6, abs=1e-8)
        assert oracle.forward_kl_gradient(logits, reference)[v] == pytest.approx(forward / 2e-6, abs=1e-8)
