"""Slots that are refilled: each row's tokens are those it has alone, whatever runs beside it."""

import jax
import numpy as np
import pytest

from gsm8k_grpo.generation import cache_length, shared_prefix, slots
from gsm8k_grpo.generation.decoding_state import DrawingOptions
from gsm8k_grpo.generation.queue import Decoding, complete_queue, plan_queue
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.models import building
from gsm8k_grpo.models.mesh import make_mesh
from plain_sampling import plain_tokens, with_noted_shapes
from small_models import FAMILIES, NUMBER_STOPS, ONE_FAMILY_QUICK, Numbers

MESH = make_mesh(1, 1)
LIMIT = 14
PROMPTS = [" ".join(str(4 + (5 * row + 3 * place) % 60) for place in range(3 + row % 9)) for row in range(21)]
SAMPLED = Decoding(temperature=1.1, top_k=None, top_p=1.0, seed=5)
GREEDY = Decoding(temperature=0.0, top_k=None, top_p=1.0, seed=5)


@pytest.fixture(autouse=True)
def worth(monkeypatch):
    monkeypatch.setattr(cache_length, "WORTH_A_PROGRAM_TOKENS", 1)


def completed(sampler, queue, in_slots, decoding, samples=1, prompts=PROMPTS, stops=NUMBER_STOPS):
    """Completes a queue; returns {row: completion} and the rows that ended together."""
    found, groups = {}, []
    for ended in complete_queue(sampler, prompts, queue, in_slots, decoding, 12, LIMIT, tuple(stops), MESH, samples):
        assert not found.keys() & ended.keys()
        found |= ended
        groups.append(set(ended))
    return found, groups


def assert_plain(model, prompts, found, decoding):
    """Each completion has the tokens of its row alone, from whole passes."""
    key = jax.random.key(decoding.seed)
    for (index, sample), completion in found.items():
        row_key = jax.random.fold_in(jax.random.fold_in(key, index), sample)
        expected = plain_tokens(model, prompts[index], row_key, LIMIT, decoding.temperature)
        stopped = expected[-1] in NUMBER_STOPS
        assert completion.text == " ".join(map(str, expected[:-1] if stopped else expected))
        assert (completion.tokens, completion.truncated) == (len(expected), not stopped)


@pytest.mark.parametrize("family", ONE_FAMILY_QUICK)
def test_rows_of_refilled_slots_are_those_of_the_plain_path(family, monkeypatch):
    monkeypatch.setattr(cache_length, "REFILLS", 4)
    model = building.initialise(building.tunix_config(FAMILIES[family]), seed=3)
    sampler, shapes, sizes = Sampler(model, Numbers(), 32, MESH), [], []
    for name in ("prefill", "decode"):
        monkeypatch.setattr(sampler, name, with_noted_shapes(getattr(sampler, name), shapes))
    decode = sampler.decode

    def noting(weights, state, *arguments, **options):
        sizes.append((len(state.done), int(state.cache["layer_0"]["end_index"][0]), state.places))
        return decode(weights, state, *arguments, **options)

    monkeypatch.setattr(sampler, "decode", noting)
    queue = plan_queue(PROMPTS, 1)
    for decoding in (GREEDY, SAMPLED):
        shapes.clear(), sizes.clear()
        found, _ = completed(sampler, queue, 8, decoding)
        assert sorted(found) == sorted(queue)
        assert_plain(model, PROMPTS, found, decoding)
    # The longest prompts fill all slots. Two at a time follow, at two padded lengths; then fewer slots go on.
    lengths = [length for _, length in shapes]
    assert shapes[0] == (8, 12) and {each for each in shapes if each[1] in (6, 12)} == {(8, 12), (2, 12), (2, 6)}
    assert lengths.count(12) > 2 and sizes[-1][0] < 8
    # The ring went round, and the cache has two sizes.
    assert any(end > places for _, end, places in sizes) and {places for *_, places in sizes} <= {24, 32}


@pytest.mark.parametrize("family", ONE_FAMILY_QUICK)
def test_rows_of_prompts_that_begin_alike_are_those_of_the_plain_path(family, monkeypatch):
    """The beginning is computed once; what follows it is longer and shorter than the window of local attention."""
    monkeypatch.setattr(cache_length, "REFILLS", 4)
    monkeypatch.setattr(shared_prefix, "WORTH_TOKENS", 3)
    monkeypatch.setattr(shared_prefix, "STEP_TOKENS", 2)
    prompts = [f"9 8 7 {prompt}" for prompt in PROMPTS if len(prompt.split()) < 9]
    model = building.initialise(building.tunix_config(FAMILIES[family]), seed=3)
    sampler, shapes, prefixes = Sampler(model, Numbers(), 32, MESH), [], []
    monkeypatch.setattr(sampler, "prefill", with_noted_shapes(sampler.prefill, shapes))
    monkeypatch.setattr(sampler, "prefill_prefix", with_noted_shapes(sampler.prefill_prefix, prefixes))
    queue = plan_queue(prompts, 1)
    for decoding in (GREEDY, SAMPLED):
        found, _ = completed(sampler, queue, 8, decoding, prompts=prompts)
        assert sorted(found) == sorted(queue)
        assert_plain(model, prompts, found, decoding)
    assert prefixes == [(1, 4)] * 2  # with the token that begins each text
    assert set(shapes) == {(8, 8), (2, 8), (2, 4)}  # what follows, of at most 12 - 4 tokens


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        ([[2, 5, 6, 7, 1], [2, 5, 6, 7, 9], [2, 5, 6, 7]], [2, 5]),  # each keeps a token
        ([[2, 5, 6, 7, 1], [2, 5, 6, 7, 9], [2, 5, 6, 7, 3]], [2, 5, 6, 7]),
        ([[2, 5, 6, 1], [2, 5, 6, 9], [2, 5, 6, 3]], [2, 5]),  # of a multiple's length
        ([[2, 5, 1], [2, 5, 9]], []),  # too little is saved
        ([[2, 5, 6, 7, 1]] * 3, []),  # one prompt, which is computed once anyway
    ],
)
def test_the_shared_beginning_of_prompts(monkeypatch, prompts, expected):
    monkeypatch.setattr(shared_prefix, "WORTH_TOKENS", 4)
    monkeypatch.setattr(shared_prefix, "STEP_TOKENS", 2)
    assert shared_prefix.shared_prefix(prompts) == expected


@pytest.mark.slow
def test_samples_of_a_prompt_share_its_computation_and_parts_of_a_queue_have_the_same_rows(monkeypatch):
    monkeypatch.setattr(cache_length, "REFILLS", 2)
    model = building.initialise(building.tunix_config(FAMILIES["gemma2"]), seed=3)
    sampler, shapes = Sampler(model, Numbers(), 32, MESH, for_cpu=False), []  # decodes with the weights themselves
    monkeypatch.setattr(sampler, "prefill", with_noted_shapes(sampler.prefill, shapes))
    prompts, queue, often = PROMPTS[:9], plan_queue(PROMPTS[:9], 2), range(7, 64, 6)
    whole, groups = completed(sampler, queue, 4, SAMPLED, samples=2, prompts=prompts, stops=often)
    assert {rows for rows, _ in shapes} == {2, 1}  # 4 and 2 rows of a prompt each for 2
    assert len(set(whole.values())) > 9 and len(groups) > 4
    keys = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 8), 1)
    tokens = plain_tokens(model, prompts[8], keys, LIMIT, SAMPLED.temperature, often)
    assert whole[8, 1].text.split() == [str(token) for token in tokens if token not in often]
    # What a stopped evaluation has left: rows in any number, a prompt's samples apart.
    left = [row for row in queue if row not in groups[0] | groups[1]][1:]
    rest, _ = completed(sampler, left, 4, SAMPLED, samples=2, prompts=prompts, stops=often)
    assert rest == {row: whole[row] for row in left}


def test_short_completions_are_refilled_all_at_once(monkeypatch):
    monkeypatch.undo()
    assert [slots.refill_rows(100, 16, limit, 1) for limit in (32, 63, 64, 256)] == [16, 16, 2, 2]
    assert slots.refill_rows(16, 16, 64, 1) == 16  # no row waits
    assert [slots.refill_rows(100, size, 64, 1) for size in (1, 4, 9)] == [1, 1, 2]
    assert [slots.refill_rows(100, size, 64, 4) for size in (16, 18)] == [4, 3]  # shared by four devices, or not


def test_rows_that_all_reach_the_limit_are_all_replaced(monkeypatch):
    model = building.initialise(building.tunix_config(FAMILIES["gemma2"]), seed=3)
    sampler, shapes = Sampler(model, Numbers(), 32, MESH), []
    monkeypatch.setattr(sampler, "prefill", with_noted_shapes(sampler.prefill, shapes))
    keys = jax.random.split(jax.random.key(0), 10)
    prompts = [[2, 5, 6]] * 10
    with MESH:
        options = DrawingOptions(6, (64,), 1.0, None, 1.0)  # a stop token outside of the vocabulary
        ended = list(sampler.complete(prompts, keys, options, 12, 4))
    assert [len(each.rows) for each in ended] == [4, 4, 2] and [rows for rows, _ in shapes] == [4, 4, 4]
    assert {len(tokens) for each in ended for tokens in each.tokens} == {6}
    assert sorted(np.concatenate([each.rows for each in ended])) == list(range(10))
