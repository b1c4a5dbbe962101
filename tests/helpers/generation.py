"""A small model's sizes, a few questions, and whole evaluations of prompts, for the tests."""

import numpy as np

from gsm8k_grpo.generation.batches import Decoding, complete_batch, plan_batches

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


def completed(sampler, prompts, batch_size, max_prompt_tokens, limit, stop_ids, mesh, decoding=GREEDY, samples=1):
    """{(index of the prompt, number of the sample): its completion}."""
    found = {}
    for batch in plan_batches(prompts, samples, batch_size):
        arguments = (sampler, prompts, batch, batch_size, decoding, max_prompt_tokens, limit, stop_ids, mesh)
        found.update(zip(batch, complete_batch(*arguments), strict=True))
    return found


# One small model of each family: windows shorter than the sequences, Gemma 3 with one KV head as in its 1B, and local
# layers on both sides of the global one.
SMALL = {"embed_dim": 32, "hidden_dim": 48, "num_heads": 4, "head_dim": 8, "vocabulary_size": 64}
FAMILIES = {
    "gemma2": {"family": "gemma2", **SMALL, "num_layers": 2, "num_kv_heads": 2, "sliding_window_tokens": 6},
    "gemma3": {"family": "gemma3", **SMALL, "num_layers": 7, "num_kv_heads": 1, "sliding_window_tokens": 5},
    "qwen2": {"family": "qwen2", **SMALL, "num_layers": 2, "num_kv_heads": 2, "sliding_window_tokens": None},
}


def left_padded(lengths, vocabulary_size, pad_id):
    """[B, T] random tokens, each row as long as it says, padded on the left."""
    rng, longest = np.random.default_rng(1), max(lengths)
    tokens = np.full((len(lengths), longest), pad_id)
    for row, length in zip(tokens, lengths, strict=True):
        row[longest - length :] = rng.integers(4, vocabulary_size, length)
    return tokens
