"""The two programs of an update: one adds up micro-batches' gradients, the other changes the weights."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from tunix.rl import trainer as rl_trainer

from gsm8k_grpo.grpo.loss import TrainExample, policy_loss
from gsm8k_grpo.grpo.optimizer import GRADIENT_NORM
from gsm8k_grpo.models import matmul_order


class PolicyUpdate:
    """Updates the policy of Tunix's trainer from the micro-batches of a step.

    Tunix compiles gradient, accumulation and optimizer as one program. That program returns all weights of the model,
    also the frozen ones, of which memory then holds a second copy. It compiles the optimizer again for each length of
    completions, and it takes the same number of micro-batches for each update. Here an update leaves out
    micro-batches without a gradient.
    """

    def __init__(
        self, trainer: rl_trainer.Trainer, config: object, pad_id: int, mesh: Mesh, remat: str | None, for_cpu: bool
    ):
        """
        Args:
          trainer: must keep its model and optimizer objects after the first call; their values may change.
          config: of `tunix_setup.grpo_config`.
          pad_id: of padding.
          mesh: where the model lies.
          remat: as `Layered.remat`.
          for_cpu: whether products get the operand order that is fast on a CPU.
        """
        self._trainer, self._config, self._pad_id, self._mesh = trainer, config, pad_id, mesh
        self._remat, self._for_cpu = remat, for_cpu
        gradient = matmul_order.with_smaller_operand_first(self._add_gradient) if for_cpu else self._add_gradient
        # Sums and new weights lie where the weights lie, or each program would be compiled for a second placement.
        _, trained, _ = self._model
        placed = jax.tree.map(lambda leaf: leaf.sharding, trained)
        self._gradient = jax.jit(gradient, donate_argnums=3, out_shardings=(placed, None))
        self._optimizer_step = jax.jit(self._apply, donate_argnums=(2, 3), out_shardings=(placed, None))

    def lower_gradient(self, example: TrainExample) -> jax.stages.Lowered:
        """Traces the gradient of micro-batches of this shape."""
        graph, trained, frozen = self._model
        return self._gradient.lower(graph, trained, frozen, trained, example)

    def lower_optimizer_step(self) -> jax.stages.Lowered:
        """Traces the change of the weights."""
        _, trained, _ = self._model
        graph, optimizer = nnx.split(self._trainer.optimizer)
        return self._optimizer_step.lower(graph, trained, optimizer, trained)

    def __call__(self, micro_batches: Sequence[TrainExample]) -> dict[str, float]:
        """Makes one update by the sum of the micro-batches' gradients.

        Returns:
          the means over the mini-batch: `loss`, `kl`, `entropy`, `pg_clipfrac`, and the norm of the gradient.
        """
        graph, trained, frozen = self._model
        with self._mesh:
            total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), trained)
            found = []
            for example in micro_batches:
                total, figures = self._gradient(graph, trained, frozen, total, example)
                # Waits for the program: devices that are simulated share threads, and two programs at once could wait
                # for each other.
                found.append(jax.device_get(figures))
            optimizer_graph, optimizer = nnx.split(self._trainer.optimizer)
            trained, optimizer = self._optimizer_step(optimizer_graph, trained, optimizer, total)
        nnx.update(self._trainer.model, trained)
        nnx.update(self._trainer.optimizer, optimizer)
        (norm,) = jax.tree.leaves(optax.tree.get(self._trainer.optimizer.opt_state, GRADIENT_NORM))
        # Each micro-batch has its share of the mini-batch's means.
        sums = {name: float(sum(float(figures[name]) for figures in found)) for name in found[0]}
        return sums | {"gradient_norm": float(norm)}

    def skip(self) -> None:
        """Moves the learning rate's schedule on by one update, and leaves weights and moments as they are."""

        def counts_updates(path: tuple, _: object) -> bool:
            return getattr(path[-1], "tuple_name", "") == "ScaleByScheduleState"

        state = nnx.as_pure(self._trainer.optimizer.opt_state)
        ((_, count),) = optax.tree.get_all_with_path(state, "count", counts_updates)
        moved_on = optax.tree.set(state, counts_updates, count=count + 1)
        nnx.update(self._trainer.optimizer.opt_state, nnx.state(moved_on))

    @functools.cached_property
    def _model(self) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
        """The model in parts: structure, what is trained, what is frozen. They share its variables."""
        return nnx.split(self._trainer.model, self._trainer.optimizer.wrt, ...)

    def _add_gradient(
        self, graph: nnx.GraphDef, trained: nnx.State, frozen: nnx.State, total: nnx.State, example: TrainExample
    ) -> tuple[nnx.State, dict[str, jax.Array]]:
        """Adds a micro-batch's gradient to `total`; returns the sum and the micro-batch's share of the metrics."""

        def loss(trained: nnx.State) -> tuple[jax.Array, dict]:
            model = nnx.merge(graph, trained, frozen)
            model.remat, model.loop_layers = self._remat, bool(self._remat) and self._for_cpu
            return policy_loss(model, example, self._config, self._pad_id)

        (value, figures), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
        return jax.tree.map(jnp.add, total, gradient), figures | {"loss": value}

    @staticmethod
    def _apply(
        graph: nnx.GraphDef, trained: nnx.State, state: nnx.State, gradient: nnx.State
    ) -> tuple[nnx.State, nnx.State]:
        """Changes the weights by a gradient; `graph` and `state` are the optimizer's. Returns weights and state."""
        optimizer = nnx.merge(graph, state)
        optimizer.update(trained, gradient)
        return trained, nnx.state(optimizer)
