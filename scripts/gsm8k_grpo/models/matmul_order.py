"""Matrix products in the order that XLA's compiler for the CPU is fast at; the numbers are the same but for rounding.

Models write `x @ W` with W as [in, out], and gradients come as JAX's rules write them. The CPU's library (YNNPACK)
minds:

- Of a few rows, as in decoding, `W @ xᵀ` with W as [out, in] takes half the time. Seen on a core of an AMD EPYC,
  float32, 512 × 2,048, weights not in the cache: 1.71 against 0.94 ms for 32 rows, 0.88 against 0.40 for 4.
- A left operand that is not contracted over its last dimensions is turned around first, which for a gradient of as many
  rows as a batch has tokens takes several times as long as the product itself.

A traced function is gone through product by product (JAX's documentation: "Writing custom Jaxpr interpreters in JAX"),
so that neither models nor adapters need to know.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.sharding import Mesh


def on_cpu(mesh: Mesh) -> bool:
    """Whether all this is worth while: other compilers lay out operands as they need them."""
    return mesh.devices.flat[0].platform == "cpu"


class WeightsFirst:
    """A function of weights and of something else whose products have the weights first: `W @ xᵀ`."""

    def __init__(self, function: Callable, weights: Sequence[jax.Array], *rest: object):
        """Traces it.

        Args:
          function: of (a list of weights, …), without side effects.
          weights, rest: arguments like those that it will get, abstract or not.
        """
        self._traced, shape = jax.make_jaxpr(function, return_shape=True)(list(weights), *rest)
        self._output = jax.tree.structure(shape)
        self._contracted: dict[Var, tuple[int, ...]] = {}
        self._weights = self._traced.jaxpr.invars[: len(weights)]
        self._find(self._traced.jaxpr, {var: var for var in self._weights})

    def laid_out(self, weights: Sequence[jax.Array]) -> list[jax.Array]:
        """The weights as a call takes them: those that are multiplied have their contracted dimensions last."""
        return [
            jnp.moveaxis(weight, dims, _trailing(dims)) if (dims := self._contracted.get(var)) else weight
            for var, weight in zip(self._weights, weights, strict=True)
        ]

    def __call__(self, weights: Sequence[jax.Array], *rest: object) -> object:
        """What the function returns for these weights, of `laid_out`, and the rest."""
        arguments = [
            _LaidOut(weight, dims) if (dims := self._contracted.get(var)) else weight
            for var, weight in zip(self._weights, weights, strict=True)
        ]
        return jax.tree.unflatten(
            self._output, _evaluate(self._traced, [*arguments, *jax.tree.leaves(rest)], few_rows=True)
        )

    def _find(self, jaxpr: Jaxpr, weights: dict[Var, Var]) -> None:
        """Notes over which dimensions each weight is multiplied first; `weights` are they by name in here."""
        for equation in jaxpr.eqns:
            known = [weights.get(var) if isinstance(var, Var) else None for var in equation.invars]
            if _is_product(equation) and any(known):
                for weight, contracted in zip(known, equation.params["dimension_numbers"][0], strict=True):
                    if weight:
                        self._contracted.setdefault(weight, tuple(contracted))
            elif inner := _inlined(equation):
                inside = zip(inner.jaxpr.invars, known, strict=True)
                self._find(inner.jaxpr, {var: weight for var, weight in inside if weight})


def with_smaller_operand_first(function: Callable) -> Callable:
    """The same function; of a product whose left operand would be turned around, the smaller one comes first.

    Products within loops and rematerialised parts stay as they are.

    Args:
      function: from arrays to arrays, in any trees, without side effects.
    """

    @functools.wraps(function)
    def reordered(*arguments: object) -> object:
        traced, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        return jax.tree.unflatten(
            jax.tree.structure(shape), _evaluate(traced, jax.tree.leaves(arguments), few_rows=False)
        )

    return reordered


class _LaidOut:
    """A weight whose contracted dimensions were moved to the end."""

    def __init__(self, moved: jax.Array, contracted: tuple[int, ...]):
        self.moved, self.contracted = moved, contracted

    def plain(self) -> jax.Array:
        """As the model has it."""
        return jnp.moveaxis(self.moved, _trailing(self.contracted), self.contracted)


def _trailing(dims: tuple[int, ...]) -> range:
    return range(-len(dims), 0)


def _is_product(equation: JaxprEqn) -> bool:
    """Whether it multiplies two matrices, without dimensions that both share."""
    return equation.primitive.name == "dot_general" and not any(equation.params["dimension_numbers"][1])


def _inlined(equation: JaxprEqn) -> ClosedJaxpr | None:
    """The function that an equation calls, where it is a jitted one."""
    return equation.params["jaxpr"] if equation.primitive.name in ("jit", "pjit") else None


def _evaluate(traced: ClosedJaxpr, arguments: list, few_rows: bool) -> list:
    values = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))
    values |= zip(traced.jaxpr.invars, arguments, strict=True)

    def read(var: object) -> object:
        return var.val if isinstance(var, Literal) else values[var]

    for equation in traced.jaxpr.eqns:
        operands = [read(var) for var in equation.invars]
        if inner := _inlined(equation):
            found = _evaluate(inner, operands, few_rows)
        elif _is_product(equation):
            found = [_product(*operands, equation.params, few_rows)]
        else:
            parameters = equation.primitive.get_bind_params(equation.params)
            found = equation.primitive.bind(*map(_as_stored, operands), **parameters)
            found = found if equation.primitive.multiple_results else [found]
        values |= zip(equation.outvars, found, strict=True)
    return [_as_stored(read(var)) for var in traced.jaxpr.outvars]


def _as_stored(value: object) -> object:
    return value.plain() if isinstance(value, _LaidOut) else value


def _as_laid_out(value: object, over: tuple[int, ...]) -> tuple[jax.Array, tuple[int, ...]]:
    """An operand contracted over `over`, as it lies where it was laid out for that; and its dimensions of `over`."""
    if not isinstance(value, _LaidOut) or set(over) != set(value.contracted):
        return _as_stored(value), over  # else a weight that is multiplied twice, over other dimensions
    kept = value.moved.ndim - len(over)
    return value.moved, tuple(kept + value.contracted.index(dim) for dim in over)


def _product(left: object, right: object, parameters: dict, few_rows: bool) -> jax.Array:
    """A `dot_general` of these parameters, with its operands in the other order where that is faster."""
    over_left, over_right = parameters["dimension_numbers"][0]
    weights_first, weights_last = isinstance(left, _LaidOut), isinstance(right, _LaidOut)
    left, over_left = _as_laid_out(left, over_left)
    right, over_right = _as_laid_out(right, over_right)
    if few_rows:
        swapped = not weights_first and (weights_last or right.size > left.size)
    else:
        trailing = set(over_left) == set(range(left.ndim - len(over_left), left.ndim))
        swapped = right.size < left.size and not trailing
    how = {key: parameters[key] for key in ("precision", "preferred_element_type")}
    if not swapped:
        return jax.lax.dot_general(left, right, ((over_left, over_right), ((), ())), **how)
    product = jax.lax.dot_general(right, left, ((over_right, over_left), ((), ())), **how)
    kept = right.ndim - len(over_right)
    return jnp.moveaxis(product, range(kept), range(-kept, 0))
