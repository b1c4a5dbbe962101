"""Layers that run as a loop, against the same layers one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gsm8k_grpo.models import building, layered, log_probs, matmul_order
from gsm8k_grpo.models.families import FAMILIES
from gsm8k_grpo.models.lora import with_lora
from gsm8k_grpo.models.mesh import make_mesh

SIZES = {"vocabulary_size": 64, "embed_dim": 16, "hidden_dim": 24, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
# Layers in two repeats of the family's pattern and one more, which runs after the loop.
LAYERS = {"qwen2": 3, "gemma2": 5, "gemma3": 13}
PROMPTS = jnp.array([[0, 7, 20, 31, 12], [8, 41, 3, 9, 55]])  # the first has one place of padding
COMPLETIONS = jnp.arange(1, 25).reshape(4, 6) * 7 % 60 + 1


@pytest.mark.parametrize(
    ("family", "dropout"),
    [
        ("qwen2", 0.0),
        *(
            pytest.param(family, dropout, marks=pytest.mark.slow)
            for family, dropout in (("qwen2", 0.3), ("gemma2", 0.0), ("gemma3", 0.0))
        ),
    ],
)
def test_a_loop_computes_what_layers_one_by_one_do(family, dropout, monkeypatch):
    """Log-probs and the adapters' gradient, rematerialised or not, with and without our operand order."""
    window = {"sliding_window_tokens": None if family == "qwen2" else 4}
    config = building.tunix_config({"family": family, "num_layers": LAYERS[family], **SIZES, **window})
    modules = list(FAMILIES[family].lora_modules)[::5]  # the first and one of the feed-forward part
    lora = {"rank": 4, "alpha": 4, "dropout": dropout, "base_weights": None, "target_modules": modules}
    graph, adapters, rest = nnx.split(
        with_lora(building.initialise(config, 0), lora, 0, make_mesh(1, 1)), nnx.LoRAParam, ...
    )
    adapters = jax.tree.map(lambda leaf: leaf + 0.05, adapters)  # or one half of the gradients would be zero

    monkeypatch.setattr(layered, "LOOP_FROM_REPEATS", 2)
    monkeypatch.setattr(layered, "KEEP_FROM_TERMS", 16)  # more than the adapters' rank

    def differentiated(loop, remat, reorder):
        def total(adapters):
            model = nnx.merge(graph, adapters, rest)
            model.remat, model.loop_layers = remat, loop
            for index, layer in enumerate(model.layers):
                layer.set_attributes(qwix_rngs=nnx.Rngs(dropout=index))
            logps, _ = log_probs.completion_log_probs(model, PROMPTS, COMPLETIONS, None, 0, 1.0)
            return logps.sum()

        function = jax.value_and_grad(total)
        function = jax.jit(matmul_order.with_smaller_operand_first(function) if reorder else function)
        traced = function.trace(adapters)
        return traced.lower().compile()(adapters), "scan" in str(traced.jaxpr)

    (expected, gradient), looped = differentiated(loop=False, remat=None, reorder=False)
    assert not looped
    for remat, reorder in (("selective", False), ("full", True)):
        (found, same), looped = differentiated(True, remat, reorder)
        assert looped
        assert float(found) == pytest.approx(float(expected), rel=1e-5)
        for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(same), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * float(jnp.abs(one).max()))
