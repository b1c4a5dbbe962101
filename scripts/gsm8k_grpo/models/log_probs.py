"""Log-probs and entropies of completions, the prompt computed once for its whole group.

Tunix's `compute_per_token_logps` runs each prompt through the model G times and makes logits of every place of every
row. The same numbers come of this at the cost of what is there: the prompt's keys and values are made once and read by
its G completions, as decoding does, and logits are made of completions alone, some places at a time.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from tunix.models.gemma import model as tunix_gemma2

from gsm8k_grpo.models import attention
from gsm8k_grpo.models.hidden_states import compute_hidden_states, output_logits, prefill
from gsm8k_grpo.models.packing import Packed

LOGITS_AT_A_TIME = 2**26  # 256 MiB in float32; Gemma's vocabulary makes 256,000 of them a token


def completion_log_probs(
    model: nnx.Module,
    prompt_ids: jax.Array,
    completion_ids: jax.Array,
    packed_places: jax.Array | None,
    pad_id: int,
    temperature: float,
) -> tuple[jax.Array, jax.Array]:
    """What the model thinks of each token of some completions.

    Args:
      model: policy or reference; not changed.
      prompt_ids: [N, P] left-padded, each of B / N completions that are beside each other.
      completion_ids: [B, T] right-padded.
      packed_places: [M] where the tokens that are no padding are, of `padding.packed_places`: nothing but attention is
        computed of any other then. None computes it of all.
      pad_id: of padding.
      temperature: by which logits are divided.

    Returns:
      (log-probs of the tokens, entropies in nats of the distributions that they are from), each [B, T] float32;
      meaningless at padding. Entropies have no gradient.
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
    """Of completions' last layer, [B, T, D], what knows of each token; of the first it is the prompt's last place."""
    return jnp.concatenate([jnp.repeat(first, repeats, axis=0), hidden[:, :-1]], axis=1)


@jax.jit(static_argnames=("pad_id", "temperature"))
def log_probs_program(
    graph: nnx.GraphDef,
    state: nnx.State,
    prompt_ids: jax.Array,
    completion_ids: jax.Array,
    packed_places: jax.Array | None,
    pad_id: int,
    temperature: float,
) -> jax.Array:
    """The log-probs of `of_completions` as a program of their own."""
    return completion_log_probs(
        nnx.merge(graph, state), prompt_ids, completion_ids, packed_places, pad_id, temperature
    )[0]


def _from_hidden_states(
    model: nnx.Module, hidden: jax.Array, targets: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Log-probs of `targets` and entropies from [B, T, D], so many places at a time that few logits exist at once."""
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

    @jax.checkpoint  # backwards, a part's logits are made again
    def of_part(part: tuple) -> tuple[jax.Array, jax.Array]:
        return _from_part(nnx.merge(graph, state), *part, temperature)

    found = jax.lax.map(of_part, (jnp.moveaxis(hidden, 1, 0), jnp.moveaxis(targets, 1, 0)))
    return tuple(jnp.moveaxis(each, 0, 1).reshape(rows, -1)[:, :tokens] for each in found)


def _with_whole_embedding(state: nnx.State, sharding: object) -> nnx.State:
    """The same weights, the embedding gathered along the mesh's axis `fsdp`: or each part would gather it again."""
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
    """Of next-token distributions, in nats, [..., V] to [...]; `normaliser` is the logits' logsumexp, [...]."""
    return normaliser - jnp.sum(jnp.exp(logits - normaliser[..., None]) * logits, axis=-1)
