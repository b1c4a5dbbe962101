"""What training and evaluation hold at most on a CPU, by arithmetic: known before a model is loaded. No JAX here.

XLA decides how many arrays of a kind live at once. The factors below are those of programs that it compiled
(tests/preflight/test_expected_memory.py compiles others and compares).
"""

from collections.abc import Mapping

from gsm8k_grpo.config.batch_sizes import micro_batch, rollout_batch
from gsm8k_grpo.generation.cache_length import REFILLS, cache_capacities, cache_tokens
from gsm8k_grpo.models import families
from gsm8k_grpo.preflight.disk import lora_parameters

FLOAT_BYTES = 4  # a CPU computes activations and keeps the KV cache in float32
DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
LIBRARIES_BYTES = 750 * 10**6  # Python, JAX and small programs
# An evaluation compiles before its peak. A training compiles each length that occurs, and some of them at its peak.
COMPILED_LAYER_BYTES = 75 * 10**6
COMPILER_FROM_LAYERS = 4  # as many layers as a miniature has are among the libraries


def training_parts(architecture: Mapping | str, dtype: str, settings: Mapping) -> dict[str, int]:
    """The bytes of each part of a training's peak.

    Args:
      dtype: of the base model's weights.
      settings: the blocks prompt and training.
    """
    training, prompt_tokens = settings["training"], settings["prompt"]["max_tokens"]
    sizes, lora = families.architecture_sizes(architecture), training["lora"]
    weights = families.approximate_parameters(architecture) * DTYPE_BYTES[dtype]
    # What is trained, its gradient's sum, and Adam's two moments. Without LoRA, the weights themselves are trained.
    trained = lora_parameters(architecture, lora) if lora else families.approximate_parameters(architecture)
    kept = (4 if lora else 3) * trained * FLOAT_BYTES
    second_model = weights if training["beta"] and not lora else 0
    rollouts, limit = rollout_batch(training), training["max_completion_tokens"]
    prompts = -(-rollouts // training["num_generations"])
    return {
        "libraries": LIBRARIES_BYTES,
        "compiler": COMPILED_LAYER_BYTES * max(0, sizes["num_layers"] - COMPILER_FROM_LAYERS),
        "weights": weights + second_model,
        "adapters and optimizer" if lora else "optimizer": kept,
        "rollout or update": max(
            decoding_bytes(sizes, weights, rollouts, prompts, prompt_tokens, limit),
            update_bytes(sizes, weights, micro_batch(training), prompt_tokens, limit, training["remat"]),
        ),
    }


def evaluation_parts(architecture: Mapping | str, dtype: str, settings: Mapping, rows: int) -> dict[str, int]:
    """The bytes of each part of an evaluation's peak.

    Args:
      dtype: of the base model's weights.
      settings: the blocks prompt and evaluation.
      rows: how many prompts there are.
    """
    evaluation, sizes = settings["evaluation"], families.architecture_sizes(architecture)
    weights = families.approximate_parameters(architecture) * DTYPE_BYTES[dtype]
    at_once = min(evaluation["batch_size"], rows * evaluation["samples"])
    limits = settings["prompt"]["max_tokens"], evaluation["max_completion_tokens"]
    return {
        "libraries": LIBRARIES_BYTES,
        "weights": weights,
        "decoding": decoding_bytes(sizes, weights, at_once, min(at_once, rows), *limits),
    }


def decoding_bytes(
    sizes: Mapping, weight_bytes: int, rows: int, prompts: int, prompt_tokens: int, completion_tokens: int
) -> int:
    """What decoding holds beside the weights: a copy of them in the order of its products, KV caches and logits.

    Args:
      sizes: of the model (`families.architecture_sizes`).
      rows, prompts: sequences that are decoded at a time, and how many different prompts they have.
      prompt_tokens, completion_tokens: at most.
    """
    caches = [cache_tokens(prompt_tokens, tokens) for tokens in cache_capacities(completion_tokens)]
    scores = prompts * sizes["num_heads"] * prompt_tokens**2 * FLOAT_BYTES
    prefill = 3 * (scores + prompts * prompt_tokens * sizes["hidden_dim"] * FLOAT_BYTES)
    logits = 3 * rows * sizes["vocabulary_size"] * FLOAT_BYTES
    cached = rows * _cached_token_bytes(sizes)
    at_first = cached * caches[0] + prefill
    # While a longer cache is filled from a shorter one, both are there.
    return max(at_first, weight_bytes + cached * sum(caches) + max(logits, prefill // REFILLS))


def update_bytes(
    sizes: Mapping, weight_bytes: int, rows: int, prompt_tokens: int, completion_tokens: int, remat: str | None
) -> int:
    """What the gradient of a micro-batch holds beside weights and optimizer.

    Args:
      sizes, prompt_tokens, completion_tokens: as in `decoding_bytes`.
      rows: the completions of a micro-batch.
      remat: as `Layered.remat`. With it, the layers run in a loop, over a copy of their weights.
    """
    layers, tokens = sizes["num_layers"], rows * completion_tokens
    # Arrays of one layer: attention's scores, the feed-forward layer's features, the layer's input.
    scores = tokens * (prompt_tokens + completion_tokens) * sizes["num_heads"] * FLOAT_BYTES
    features, inputs = tokens * sizes["hidden_dim"] * FLOAT_BYTES, tokens * sizes["embed_dim"] * FLOAT_BYTES
    cache = rows * (prompt_tokens + completion_tokens) * _cached_token_bytes(sizes)
    if remat is None:  # all layers' arrays are kept
        return int(layers * (3.1 * scores + 8.1 * features + 8 * inputs) + cache)
    embedding = sizes["vocabulary_size"] * sizes["embed_dim"]
    parameters = families.approximate_parameters(sizes)
    copied = weight_bytes * (parameters - embedding) // parameters
    if weight_bytes < FLOAT_BYTES * parameters:  # the products of the logits are in float32
        copied += FLOAT_BYTES * embedding
    kept = 1.5 * inputs if remat == "full" else 2 * features + 2.6 * inputs
    return int(copied + 3.1 * scores + 9.7 * features + 2.15 * cache + layers * kept)


def _cached_token_bytes(sizes: Mapping) -> int:
    """Keys and values of one token in all layers."""
    return 2 * sizes["num_layers"] * sizes["num_kv_heads"] * sizes["head_dim"] * FLOAT_BYTES
