"""The forward pass of all families: the embedding, the layers one by one or in a loop, the logits."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import Primitive

LOOP_FROM_REPEATS = 6  # with fewer repeats of a pattern of layers, the loop's copies cost more than they save
KEEP_FROM_TERMS = 256  # a result that is a sum of fewer products costs less to compute again than to keep


class Layered:
    """A forward pass that can run the layers as a loop; a family mixes it in.

    The family has `layer_period` (after how many layers they are alike again), `layer_inputs` and `run_layer`.

    Attributes:
      remat: what the backward pass computes again instead of keeping it; this changes the numbers by rounding.
        None: nothing. "selective": all but the results of large products with weights, so attention and what is done
        element by element (arXiv 2205.05198). "full": each layer, from its input (arXiv 1604.06174), for a third more
        compute.
      loop_layers: whether many alike layers run in a loop. On a CPU it saves most of the compilation, and no compiler
        can undo rematerialisation in it, because the forward and the backward pass are two loops. It copies the
        weights, and without rematerialisation it keeps more for the backward pass. On a TPU it only costs memory.
    """

    remat: str | None = None
    loop_layers = False

    def __call__(
        self,
        ids: jax.Array,
        positions: jax.Array,
        cache: dict | None,
        attention_mask: jax.Array,
        output_hidden_states: bool = False,
    ) -> tuple[jax.Array, dict | None]:
        """Computes what Tunix's forward pass does; Tunix calls it by these names.

        Args:
          ids, positions: [B, T] tokens and their positions.
          cache: of all layers, with room for S tokens, or None (then S is T).
          attention_mask: [B, T, S] which keys each query may see; a family with local attention narrows it.
          output_hidden_states: whether to keep the last layer's output, as Tunix does.

        Returns:
          (logits [B, T, V], the new cache or None).
        """
        x, inputs = self.layer_inputs(ids, positions, cache, attention_mask)
        x, cache = run_layers(self, x, cache, inputs)
        x = self.final_norm(x)
        if output_hidden_states:
            self.sow(nnx.Intermediate, "all_hidden_states", x)
        return output_logits(self, x), cache

    def get_model_input(self) -> dict:
        """Gives Qwix arguments to call the model with when it adds adapters: of one token, whose layers it can change.

        Two rows are the least that the mesh's axis `fsdp` can share.
        """
        ids = jnp.ones((2, 1), jnp.int32)
        return {"ids": ids, "positions": ids, "cache": None, "attention_mask": jnp.ones((2, 1, 1), bool)}


def output_logits(model: nnx.Module, hidden: jax.Array) -> jax.Array:
    """Computes logits, […, V], from the last layer's output, […, D]."""
    logits = model.embedder.decode(hidden)
    if cap := getattr(model, "final_logits_softcap", None):
        logits = jnp.tanh(logits / cap) * cap
    return logits


def run_layers(
    model: nnx.Module, x: jax.Array, cache: dict | None, inputs: list[tuple]
) -> tuple[jax.Array, dict | None]:
    """Runs all layers on x, [B, T, D].

    Args:
      cache: of `attention.empty_cache`, or None.
      inputs: for each place in the pattern of layers, what `run_layer` gets beside x and the layer's cache.

    Returns:
      (the last layer's output, the new cache or None).
    """
    layers, period = list(model.layers), model.layer_period
    repeats = len(layers) // period
    looped = repeats * period if model.loop_layers and repeats >= LOOP_FROM_REPEATS else 0
    caches = [cache and cache[f"layer_{index}"] for index in range(len(layers))]
    if looped:
        x, caches[:looped] = _looped(model, x, caches[:looped], inputs)
    for index in range(looped, len(layers)):
        given = inputs[index % period]
        if x.shape[1] == 1:  # Qwix writes attributes to the layer when it adds adapters
            caches[index], x = model.run_layer(layers[index], x, caches[index], *given)
        else:
            graph, state = nnx.split(layers[index])
            caches[index], x = _layer_function(model, graph)(state, x, caches[index], given)
    return x, None if cache is None else {f"layer_{index}": each for index, each in enumerate(caches)}


def _looped(
    model: nnx.Module, x: jax.Array, caches: list[dict | None], inputs: list[tuple]
) -> tuple[jax.Array, list[dict | None]]:
    """Runs the first layers, as many as there are caches, as a loop over repeats of the pattern."""
    layers, period = list(model.layers)[: len(caches)], model.layer_period
    runs = [_layer_function(model, nnx.split(layer)[0], in_loop=True) for layer in layers[:period]]
    states = [(nnx.split(layer)[1], layer_cache) for layer, layer_cache in zip(layers, caches, strict=True)]
    stacked = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *states[place::period]) for place in range(period)]

    def repeat(x: jax.Array, of_repeat: list) -> tuple[jax.Array, list]:
        new_caches = []
        for run, (state, layer_cache), given in zip(runs, of_repeat, inputs, strict=True):
            layer_cache, x = run(state, x, layer_cache, given)
            new_caches.append(layer_cache)
        return x, new_caches

    x, found = jax.lax.scan(repeat, x, stacked)

    def of_layer(index: int) -> dict | None:
        return jax.tree.map(lambda leaf: leaf[index // period], found[index % period])

    return x, [of_layer(index) for index in range(len(layers))]


def _layer_function(model: nnx.Module, graph: nnx.GraphDef, in_loop: bool = False) -> Callable:
    """Makes a function of a layer's state that runs the layer. Dropout draws the same at each call."""

    def run(state: nnx.State, x: jax.Array, layer_cache: dict | None, given: tuple) -> tuple:
        # A copy, or the draws of dropout would be counted in the model itself.
        return model.run_layer(nnx.merge(graph, state, copy=True), x, layer_cache, *given)

    if model.remat is None:
        return run
    # The barriers that keep a compiler from undoing rematerialisation are of no use in a loop.
    policy = _keeps if model.remat == "selective" else None
    return jax.checkpoint(run, prevent_cse=not in_loop, policy=policy)


def _keeps(primitive: Primitive, *operands: jax.core.ShapedArray, **parameters: object) -> bool:
    """Whether selective rematerialisation keeps a result: of a product of a token's features and a matrix of weights.

    Attention's output is a product over two dimensions, heads and their features. It is computed again with attention.
    """
    if primitive.name != "dot_general":
        return False
    (over, _), (batch, _) = parameters["dimension_numbers"]
    return not batch and len(over) == 1 and math.prod(operands[0].shape[dim] for dim in over) >= KEEP_FROM_TERMS
