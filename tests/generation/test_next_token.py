"""Drawing without sorting a vocabulary gives the tokens that Tunix draws with a sort, for the same keys.

What top_k and top_p leave out is compared with a sort in float64.
"""

import re

import jax
import numpy as np
import pytest
from tunix.generate import sampler as tunix_sampler

from gsm8k_grpo.generation import next_token

ROWS, VOCABULARY = 64, 1000


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(3), ROWS)


def sorted_draw(logits, keys, temperature, top_k, top_p):
    def draw(row, key):
        return tunix_sampler.sample_top_p(row[None, None], key, temperature, top_p, top_k)[0][0]

    return jax.vmap(draw)(logits, keys)


def left_out(logits, temperature, top_k, top_p):
    """The probability of the tokens that are never drawn, of [B, V] logits."""
    scaled = np.sort(np.asarray(logits, np.float64), axis=-1)[:, ::-1] / temperature
    weights = np.exp(scaled - scaled[:, :1])
    kept = weights[:, : top_k or VOCABULARY]
    shares = kept / kept.sum(axis=-1, keepdims=True)
    return 1 - np.where(np.cumsum(shares, axis=-1) - shares > top_p, 0, kept).sum(axis=-1) / weights.sum(axis=-1)


# Peaked: few tokens have the mass. Flat: more tokens than the candidates have it, so that all are sorted.
@pytest.mark.parametrize(("name", "scale"), [("peaked", 4.0), ("flat", 0.1)])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [
        (1.0, None, 1.0),
        (0.7, None, 0.9),
        (1.3, None, 0.5),
        (0.9, 50, 1.0),
        (1.0, 64, 0.95),
        (1.0, 5000, 0.9),
        (1.0, 5000, 1.0),
    ],
)
def test_draws_are_tunixs(keys, name, scale, temperature, top_k, top_p):
    logits = scale * jax.random.normal(jax.random.key(7), (ROWS, VOCABULARY))
    logits = logits.at[:, 5].set(-np.inf)  # as the sampler rules out padding
    found, unsampled = jax.jit(next_token.sample_token, static_argnums=(2, 3, 4))(
        logits, keys, temperature, top_k, top_p
    )
    expected = sorted_draw(logits, keys, temperature, None if top_k is None else min(top_k, VOCABULARY), top_p)
    np.testing.assert_array_equal(found, expected)
    assert len(set(np.asarray(found).tolist())) > 10
    if top_k is None and top_p == 1.0:
        assert unsampled is None
    else:
        # A token whose predecessors have top_p almost exactly can go either way; it has little probability itself.
        np.testing.assert_allclose(unsampled, left_out(logits, temperature, top_k, top_p), atol=2e-4)
        assert (np.asarray(unsampled) >= 0).all() and (np.mean(unsampled) > 0.01) == (top_k != 5000 or top_p < 1)
    likeliest = np.sort(np.exp(np.asarray(logits) / temperature), axis=-1)[:, -next_token.CANDIDATES :].sum(axis=-1)
    mass = likeliest / np.exp(np.asarray(logits) / temperature).sum(axis=-1)
    if top_k is None and top_p == 0.9:
        assert (mass > top_p).all() == (name == "peaked")  # both branches run


@pytest.fixture(scope="module")
def large():
    """[V] logits of a vocabulary that is not whole blocks, of which a third, the last among them, is ruled out."""
    size = next_token.LARGE_VOCABULARY + 100
    logits = 3 * jax.random.normal(jax.random.key(5), (size,))
    return logits.at[2::3].set(-np.inf).at[-1].set(-np.inf)


def draw_alike(logits, temperature, count, seed):
    """`count` draws from the same [V] logits."""

    def drawn(key):
        return next_token.sample_token(logits[None], key[None], temperature, None, 1.0)[0][0]

    return np.asarray(jax.jit(lambda keys: jax.lax.map(drawn, keys))(jax.random.split(jax.random.key(seed), count)))


def test_draws_from_a_large_vocabulary_follow_the_softmax(large):
    count, temperature = 20_000, 0.7
    tokens = draw_alike(large, temperature, count, seed=11)
    scaled = np.asarray(large, np.float64) / temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    assert (probabilities[tokens] > 0).all()
    likeliest = np.argsort(probabilities)[-30:]
    expected = count * np.append(probabilities[likeliest], 1 - probabilities[likeliest].sum())
    seen = np.bincount(tokens, minlength=len(probabilities))[likeliest]
    seen = np.append(seen, count - seen.sum())
    assert expected.min() > 5
    assert ((seen - expected) ** 2 / expected).sum() < 50.9  # the 99th percentile of chi-squared with 30 degrees
    half = len(probabilities) // 2
    np.testing.assert_allclose((tokens < half).mean(), probabilities[:half].sum(), atol=0.01)


def test_a_draw_from_a_large_vocabulary_depends_on_its_own_row_only(large, keys):
    several = jax.numpy.stack([large, large[::-1], -large])
    several = jax.numpy.where(jax.numpy.isinf(several), -np.inf, several)
    together = next_token.sample_token(several, keys[:3], 1.0, None, 1.0)[0]
    alone = [next_token.sample_token(several[i : i + 1], keys[i : i + 1], 1.0, None, 1.0)[0][0] for i in range(3)]
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("only", [0, next_token.BLOCK - 1, next_token.BLOCK, next_token.LARGE_VOCABULARY + 99])
def test_the_only_token_of_a_large_vocabulary_is_drawn(large, only):
    certain = jax.numpy.full_like(large, -np.inf).at[only].set(-7.0)
    assert set(draw_alike(certain, 1.0, 20, seed=only).tolist()) == {only}


def test_a_share_of_all_weights_never_finds_a_place_without_weight():
    weights = np.array([[0.0, 0.1, 0.0, 0.2, 0.0], [0.0, 0.0, 1e-30, 0.0, 0.0]], np.float32)
    for number, expected in ((0.0, [1, 2]), (0.3, [1, 2]), (0.4, [3, 2]), (np.nextafter(np.float32(1), 0), [3, 2])):
        found = next_token._first_above(weights, np.full(2, number, np.float32))
        np.testing.assert_array_equal(found, expected)
    without_a_number = np.full((1, 5), np.nan, np.float32)
    np.testing.assert_array_equal(next_token._first_above(without_a_number, np.zeros(1, np.float32)), [4])


def test_a_program_sorts_no_whole_vocabulary_unless_it_must(keys):
    """Each setting compiles a search of the candidates and, behind a condition, of the whole vocabulary."""
    logits = jax.ShapeDtypeStruct((ROWS, VOCABULARY), np.float32)

    def sorts(top_k, top_p):
        text = (
            jax.jit(next_token.sample_token, static_argnums=(2, 3, 4)).lower(logits, keys, 1.0, top_k, top_p).as_text()
        )
        assert "stablehlo.sort" not in text
        return [int(count) for count in re.findall(r"chlo.top_k\(.*k = (\d+)\)", text)]

    assert sorts(None, 1.0) == []  # where nothing is left out, nothing is measured either
    assert set(sorts(50, 0.9)) == {50}
    assert set(sorts(None, 0.9)) == {next_token.CANDIDATES, VOCABULARY}
