"""The papers' equations in float64, one completion and one token at a time, with gradients derived by hand.

This module is written from the papers alone, and the tests in tests/grpo compare the library with it. It has no
padding, no masks and no automatic differentiation. A completion that does not count is left out of the list.

- GRPO: Shao et al., DeepSeekMath, arXiv 2402.03300, eq. 3 and 4 and section 4.1.2.
- Dr. GRPO: Liu et al., Understanding R1-Zero-Like Training, arXiv 2503.20783, section 3.2.
- DAPO: Yu et al., arXiv 2503.14476, eq. 8 and 13.
- RLOO: Ahmadian et al., Back to Basics, arXiv 2402.14740: the baseline of each sample is the mean of the others.
- k2, k3: Schulman, Approximating KL Divergence, 2020.
"""

import dataclasses
import statistics

import numpy as np


@dataclasses.dataclass(frozen=True)
class Completion:
    """One completion o_i of n tokens.

    Attributes:
      logits: [n, V] of the policy, before its temperature, where each token was drawn.
      tokens: [n].
      advantage: Â_i.
      old: [n] log-probs under the policy that sampled, or None if that is the policy itself.
      reference: [n] log-probs under the reference, or None without KL penalty.
    """

    logits: np.ndarray
    tokens: np.ndarray
    advantage: float
    old: np.ndarray | None = None
    reference: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """The objective to maximise.

    Attributes:
      aggregation: sequence (DeepSeekMath), token (DAPO) or constant (Dr. GRPO).
      max_tokens: L, the divisor of `constant`.
      epsilon_low, epsilon_high: ratios are clipped to 1 − ε_low … 1 + ε_high.
      beta: β.
      kl: k2 or k3.
      temperature: T; the policy is softmax(logits / T).
    """

    aggregation: str
    max_tokens: int
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2
    beta: float = 0.0
    kl: str = "k3"
    temperature: float = 1.0


@dataclasses.dataclass(frozen=True)
class Loss:
    """The negated objective; lists have one entry for each completion.

    Attributes:
      value: scalar.
      gradients: [n, V] with respect to the logits before temperature.
      kl: [n] estimates.
      clipped: [n] whether the token's surrogate is the clipped constant, which has no gradient.
      entropy: [n] in nats.
    """

    value: float
    gradients: list[np.ndarray]
    kl: list[np.ndarray]
    clipped: list[np.ndarray]
    entropy: list[np.ndarray]


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """[..., V] log-probs."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))


def log_probs(logits: np.ndarray, tokens: np.ndarray, temperature: float) -> np.ndarray:
    """[n] log-probs of the tokens."""
    return np.array([row[token] for row, token in zip(log_softmax(logits, temperature), tokens, strict=True)])


def clipped_surrogate(ratio: float, advantage: float, low: float, high: float) -> tuple[float, float, bool]:
    """min[ρÂ, clip(ρ, 1 − ε_low, 1 + ε_high) Â], its derivative by log π, and whether it is the clipped constant."""
    if advantage > 0 and ratio > 1 + high:
        return (1 + high) * advantage, 0.0, True
    if advantage < 0 and ratio < 1 - low:
        return (1 - low) * advantage, 0.0, True
    return ratio * advantage, ratio * advantage, False


def kl_estimate(log_prob: float, reference: float, estimator: str) -> tuple[float, float]:
    """One token's estimate of KL(π ‖ π_ref), and its derivative by log π."""
    if estimator == "k3":  # eq. 4: π_ref/π − log(π_ref/π) − 1
        quotient = np.exp(reference) / np.exp(log_prob)
        return quotient - np.log(quotient) - 1, 1 - quotient
    if estimator == "k2":
        return (log_prob - reference) ** 2 / 2, log_prob - reference
    raise ValueError(estimator)


def weight(completion: Completion, completions: list[Completion], objective: Objective) -> float:
    """The factor of one token of a completion in the objective."""
    if objective.aggregation == "sequence":  # DeepSeekMath, eq. 3: 1/G Σ_i 1/|o_i| Σ_t
        return 1 / len(completions) / len(completion.tokens)
    if objective.aggregation == "token":  # DAPO, eq. 8: 1/Σ_i|o_i| Σ_i Σ_t
        return 1 / sum(len(each.tokens) for each in completions)
    if objective.aggregation == "constant":  # Dr. GRPO: 1/G Σ_i 1/L Σ_t, L the same for all
        return 1 / len(completions) / objective.max_tokens
    raise ValueError(objective.aggregation)


def loss(completions: list[Completion], objective: Objective) -> Loss:
    """−J and −∂J/∂logits of a mini-batch's completions."""
    result = Loss(0.0, [], [], [], [])
    total = 0.0
    for each in completions:
        before = weight(each, completions, objective)
        log_policy = log_softmax(each.logits, objective.temperature)
        n, vocabulary = log_policy.shape
        gradient, kls, clippings = np.zeros((n, vocabulary)), np.zeros(n), np.zeros(n, bool)
        for t, token in enumerate(each.tokens):
            log_prob = log_policy[t, token]
            ratio = 1.0 if each.old is None else np.exp(log_prob) / np.exp(each.old[t])
            gain, slope, clippings[t] = clipped_surrogate(
                ratio, each.advantage, objective.epsilon_low, objective.epsilon_high
            )
            if each.reference is not None:
                kls[t], kl_slope = kl_estimate(log_prob, each.reference[t], objective.kl)
                gain, slope = gain - objective.beta * kls[t], slope - objective.beta * kl_slope
            total += before * gain
            # ∂ log π(token) / ∂ logit_v = (1[v = token] − π(v)) / T
            chosen = np.arange(vocabulary) == token
            gradient[t] = -before * slope * (chosen - np.exp(log_policy[t])) / objective.temperature
        result.gradients.append(gradient)
        result.kl.append(kls)
        result.clipped.append(clippings)
        result.entropy.append(-(np.exp(log_policy) * log_policy).sum(axis=1))
    return dataclasses.replace(result, value=-total)


def random_completions(rng: np.random.Generator, lengths: list[int]) -> list[Completion]:
    """Completions with random logits, tokens and advantages; old policy and reference differ from the policy."""
    completions = []
    for n in lengths:
        logits, tokens = rng.normal(size=(n, 4)), rng.integers(4, size=n)
        policy = log_probs(logits, tokens, 0.7)
        old, reference = (policy + rng.normal(size=n) for _ in range(2))
        completions.append(Completion(logits, tokens, rng.normal(), old, reference))
    return completions


def policy_gradient(completions: list[Completion], objective: Objective) -> list[np.ndarray]:
    """−weight · Â ∂ log π / ∂ logits of each token: REINFORCE, without ratio, clipping and penalty."""
    gradients = []
    for each in completions:
        probabilities = np.exp(log_softmax(each.logits, objective.temperature))
        chosen = np.eye(probabilities.shape[1])[each.tokens]
        scale = weight(each, completions, objective) * each.advantage / objective.temperature
        gradients.append(-scale * (chosen - probabilities))
    return gradients


def advantages(rewards: list[float], estimator: str) -> list[float]:
    """The advantages of one group, with exact sums. The papers do not say which deviation; we take the sample's."""
    if estimator == "grpo":
        mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)
        return [(reward - mean) / deviation if deviation else 0.0 for reward in rewards]
    if estimator == "rloo":
        others = [rewards[:i] + rewards[i + 1 :] for i in range(len(rewards))]
        return [reward - statistics.mean(rest) for reward, rest in zip(rewards, others, strict=True)]
    if estimator == "drgrpo":
        return [reward - statistics.mean(rewards) for reward in rewards]
    raise ValueError(estimator)


def overlong_punishment(length: int, maximum: int, cache: int) -> float:
    """DAPO, eq. 13."""
    if length <= maximum - cache:
        return 0.0
    if length <= maximum:
        return ((maximum - cache) - length) / cache
    return -1.0


def reverse_kl_gradient(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """∂ KL(π ‖ π_ref) / ∂ logits, over the whole vocabulary."""
    log_policy, log_reference = log_softmax(logits), log_softmax(reference)
    policy, gap = np.exp(log_policy), log_policy - log_reference
    return policy * (gap - (policy * gap).sum())


def forward_kl_gradient(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """∂ KL(π_ref ‖ π) / ∂ logits."""
    return np.exp(log_softmax(logits)) - np.exp(log_softmax(reference))
