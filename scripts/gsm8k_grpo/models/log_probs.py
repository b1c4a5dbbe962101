"""Log-probs and entropies of completions; a prompt is computed once for its whole group.

Tunix's `compute_per_token_logps` runs each prompt through the model G times and makes logits of all places. We compute
the same numbers with less work: G completions read one prompt's keys and values, as in decoding, and only completions
get logits, some places at a time.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.gemma import model as tunix_gemma2

from gsm8k_grpo.models import attention, matmul_order
from gsm8k_grpo.models.hidden_states import compute_hidden_states, prefill
from gsm8k_grpo.models.layered import output_logits
from gsm8k_grpo.models.packing import Packed

LOGITS_AT_A_TIME = 2**26  # 256 MiB in float32; with Gemma's vocabulary a token has 256,000 logits


def completion_log_probs(
    model: nnx.Module,
    prompt_ids: jax.Array,
    completion_ids: jax.Array,
    packed_places: jax.Array | None,
    pad_id: int,
    temperature: float,
) -> tuple[jax.Array, jax.Array]:
    """Computes the log-prob of each completion token and the entropy of the distribution it comes from.

    Args:
      model: policy or reference; it is not changed.
      prompt_ids: [N, P] left-padded; each belongs to B / N consecutive completions.
      completion_ids: [B, T] right-padded.
      packed_places: [M] the places of tokens that are not padding, from `padding.packed_places`. Other places are
        computed in attention only. None computes all places.
      pad_id: of padding.
      temperature: divides the logits.

    Returns:
      (log-probs, entropies in nats), each [B, T] float32 and meaningless at padding. Entropies have no gradient.
    """
    rows, tokens = completion_ids.shape
    repeats = rows // prompt_ids.shape[0]
    first, real, cache = prefill(model, prompt_ids, pad_id)
    real = jnp.repeat(real, repeats, axis=0)
    seen = jnp.broadcast_to(jnp.tri(tokens, dtype=bool), (rows, tokens, tokens))
    before = jnp.broadcast_to(real[:, None], (rows, tokens, real.shape[1]))
    mask = jnp.concatenate([before, seen], axis=2)
    places = real.sum(axis=1, keepdims=True) + jnp.arange(tokens)
    cache = attention.repeat_and_extend(cache, repeats, tokens)
    if packed_places is None:
        hidden, _ = compute_hidden_states(model, completion_ids, places, cache, mask)
        return _from_hidden_states(model, _predecessors(hidden, first, repeats), completion_ids, temperature)
    packed = Packed.of(packed_places, rows, tokens)
    ids, places = packed.pack(completion_ids), packed.pack(places)
    hidden, _ = compute_hidden_states(model, ids, places, attention.with_packed_tokens(cache, packed), mask)
    hidden = packed.pack(_predecessors(packed.unpack(hidden, rows), first, repeats))
    return tuple(packed.unpack(each, rows) for each in _from_hidden_states(model, hidden, ids, temperature))


def _predecessors(hidden: jax.Array, first: jax.Array, repeats: int) -> jax.Array:
    """Shifts completions' last layer, [B, T, D], to the place before each token; the first follows the prompt."""
    return jnp.concatenate([jnp.repeat(first, repeats, axis=0), hidden[:, :-1]], axis=1)


@jax.jit(static_argnames=("pad_id", "temperature", "for_cpu"))
def log_probs_program(
    graph: nnx.GraphDef,
    state: nnx.State,
    prompt_ids: jax.Array,
    completion_ids: jax.Array,
    packed_places: jax.Array | None,
    pad_id: int,
    temperature: float,
    for_cpu: bool,
) -> jax.Array:
    """Compiles the log-probs of `completion_log_probs`; on a CPU, with `matmul_order` and layers in a loop."""

    def log_probs(state: nnx.State, *arrays: jax.Array | None) -> jax.Array:
        model = nnx.merge(graph, state)
        model.loop_layers = for_cpu
        return completion_log_probs(model, *arrays, pad_id, temperature)[0]

    compute = matmul_order.with_smaller_operand_first(log_probs) if for_cpu else log_probs
    return compute(state, prompt_ids, completion_ids, packed_places)


def _from_hidden_states(
    model: nnx.Module, hidden: jax.Array, targets: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Computes log-probs of `targets` and entropies from [B, T, D] in parts of at most `LOGITS_AT_A_TIME` logits."""
    rows, tokens, width = hidden.shape
    vocabulary = model.embedder.input_embedding.shape[0]
    parts = -(-rows * tokens * vocabulary // LOGITS_AT_A_TIME)
    if parts == 1:
        return _from_part(model, hidden, targets, temperature)
    size = -(-tokens // parts)
    parts = -(-tokens // size)
    missing = parts * size - tokens
    hidden = jnp.pad(hidden, ((0, 0), (0, missing), (0, 0))).reshape(rows, parts, size, width)
    targets = jnp.pad(targets, ((0, 0), (0, missing))).reshape(rows, parts, size)
    graph, state = nnx.split(model)
    state = _with_whole_embedding(state, model.config.shd_config)

    @jax.checkpoint  # the backward pass recomputes a part's logits
    def of_part(part: tuple) -> tuple[jax.Array, jax.Array]:
        return _from_part(nnx.merge(graph, state), *part, temperature)

    found = jax.lax.map(of_part, (jnp.moveaxis(hidden, 1, 0), jnp.moveaxis(targets, 1, 0)))
    return tuple(jnp.moveaxis(each, 0, 1).reshape(rows, -1)[:, :tokens] for each in found)


def _with_whole_embedding(state: nnx.State, sharding: object) -> nnx.State:
    """Gathers the embedding along the mesh's axis `fsdp` once, so that not every part gathers it."""
    by_vocabulary, _ = sharding.emb_vd
    embedding = state["embedder"]["input_embedding"]
    whole = embedding.replace(tunix_gemma2.shard(embedding.value, (by_vocabulary, None)))
    return nnx.merge_state(state, nnx.State({"embedder": {"input_embedding": whole}}))


def _from_part(
    model: nnx.Module, hidden: jax.Array, targets: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    logits = output_logits(model, hidden).astype(jnp.float32) / temperature
    normaliser = jax.nn.logsumexp(logits, axis=-1)
    logps = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] - normaliser
    return logps, entropies(*jax.lax.stop_gradient((logits, normaliser)))


def entropies(logits: jax.Array, normaliser: jax.Array) -> jax.Array:
    """Computes the entropy of next-token distributions in nats.

    Args:
      logits: [..., V].
      normaliser: [...] the logits' logsumexp.
    """
    probabilities = jnp.exp(logits - normaliser[..., None])
    # As a sum of products, XLA's CPU compiler takes three times as long.
    return normaliser - jnp.einsum("...v,...v->...", probabilities, logits, precision=jax.lax.Precision.HIGHEST)
