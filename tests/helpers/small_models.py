"""Sizes of small models, a few prompts, a tokenizer of numbers, and whole evaluations of prompts, for the tests."""

import numpy as np
import pytest

from gsm8k_grpo.generation.queue import Decoding, complete_queue, plan_queue

ARCHITECTURE = {
    "family": "gemma2",
    "num_layers": 2,
    "embed_dim": 32,
    "hidden_dim": 32,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "vocabulary_size": 400,
    "sliding_window_tokens": 128,
}
QUESTIONS = ["Ana has 3 pens, buys 4 more.", "Ben has 12 cups.", "Cleo has 5 coins, finds 2 more, loses 3.", "Dan?"]
GREEDY = Decoding(temperature=0.0, top_k=None, top_p=1.0, seed=0)

# A small model of each family. Windows are shorter than the sequences. Gemma 3 has one KV head as in its 1B, and local
# layers on both sides of the global one.
SMALL = {"embed_dim": 32, "hidden_dim": 48, "num_heads": 4, "head_dim": 8, "vocabulary_size": 64}
FAMILIES = {
    "gemma2": {"family": "gemma2", **SMALL, "num_layers": 2, "num_kv_heads": 2, "sliding_window_tokens": 6},
    "gemma3": {"family": "gemma3", **SMALL, "num_layers": 7, "num_kv_heads": 1, "sliding_window_tokens": 5},
    "qwen2": {"family": "qwen2", **SMALL, "num_layers": 2, "num_kv_heads": 2, "sliding_window_tokens": None},
}
# Parameters of long tests: one family is quick enough for every run.
ONE_FAMILY_QUICK = ["gemma2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gemma3", "qwen2"))]


def completed(sampler, prompts, batch_size, max_prompt_tokens, limit, stop_ids, mesh, decoding=GREEDY, samples=1):
    """Completes all prompts; returns {(index of the prompt, number of the sample): its completion}."""
    completions, queue = {}, plan_queue(prompts, samples)
    arguments = (sampler, prompts, queue, batch_size, decoding, max_prompt_tokens, limit, stop_ids, mesh, samples)
    for ended in complete_queue(*arguments):
        assert not completions.keys() & ended.keys()
        completions |= ended
    return completions


def left_padded(lengths, vocabulary_size, pad_id):
    """Draws [B, T] tokens, each row as long as `lengths` says and padded on the left."""
    rng, longest = np.random.default_rng(1), max(lengths)
    tokens = np.full((len(lengths), longest), pad_id)
    for row, length in zip(tokens, lengths, strict=True):
        row[longest - length :] = rng.integers(4, vocabulary_size, length)
    return tokens


class Numbers:
    """A tokenizer whose texts are the tokens' numbers."""

    pad_id, eos_id, bos_id = (lambda self: 0), (lambda self: 1), (lambda self: 2)

    def encode(self, text):
        return [int(number) for number in text.split()]

    def decode(self, ids):
        return " ".join(map(str, ids))


NUMBER_PROMPTS = [" ".join(str(4 + (5 * row + 3 * place) % 60) for place in range(3 + 4 * row)) for row in range(3)]
NUMBER_STOPS = [7, 21, 34]
