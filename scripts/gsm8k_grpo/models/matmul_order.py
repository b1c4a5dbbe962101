"""Rewrites matrix products into the order and precision that are fast on a CPU; the numbers change by rounding only.

Models write `x @ W` with W as [in, out], and JAX's rules write the gradients. The CPU's library (YNNPACK) is sensitive
to the order and the precision:

- For a few rows of x, as in decoding, `W @ xᵀ` with W as [out, in] is about twice as fast. In float32 it is so only
  where the rows lie as columns in memory.
- It first transposes a left operand that is not contracted over its last dimensions. For a gradient with one row per
  token of a batch this takes longer than the product itself.
- A bfloat16 product with a bfloat16 result runs in a slow loop. With a float32 result, which we round afterwards, it is
  twice as fast as a float32 product for many rows. Accelerators add up in float32 too.

We interpret the traced function product by product (JAX's documentation: "Writing custom Jaxpr interpreters in JAX"),
so neither models nor adapters need to know.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.sharding import Mesh

BODIES = ("scan", "remat2")  # JAX's names of what has a body: loops of fixed length, rematerialised parts


def on_cpu(mesh: Mesh) -> bool:
    """Whether a mesh is of CPUs. Only there the order matters: other compilers choose layouts themselves."""
    return mesh.devices.flat[0].platform == "cpu"


class WeightsFirst:
    """A function of weights and other arguments, rewritten so that products have the weight first: `W @ xᵀ`."""

    def __init__(self, function: Callable, weights: Sequence[jax.Array], *rest: object):
        """Traces the function.

        Args:
          function: of (a list of weights, …), without side effects.
          weights, rest: arguments of the shapes that it will get, abstract or not.
        """
        self._traced, shape = jax.make_jaxpr(function, return_shape=True)(list(weights), *rest)
        self._output = jax.tree.structure(shape)
        self._contracted: dict[Var, tuple[int, ...]] = {}
        self._weights = self._traced.jaxpr.invars[: len(weights)]
        self._find(self._traced.jaxpr, {var: var for var in self._weights})

    def laid_out(self, weights: Sequence[jax.Array]) -> list[jax.Array]:
        """Lays out weights for a call: those that are multiplied get their contracted dimensions last."""
        return [jnp.transpose(*each) for each in zip(weights, self.dimension_orders(), strict=True)]

    def dimension_orders(self) -> list[tuple[int, ...]]:
        """The dimensions of each weight in the order in which `laid_out` leaves them."""
        orders = []
        for var in self._weights:
            last = self._contracted.get(var, ())
            orders.append((*(dim for dim in range(len(var.aval.shape)) if dim not in last), *last))
        return orders

    def __call__(self, weights: Sequence[jax.Array], *rest: object) -> object:
        """Calls the function with weights from `laid_out` and the other arguments."""
        arguments = [
            _LaidOut(weight, dims) if (dims := self._contracted.get(var)) else weight
            for var, weight in zip(self._weights, weights, strict=True)
        ]
        return jax.tree.unflatten(
            self._output, _evaluate(self._traced, [*arguments, *jax.tree.leaves(rest)], few_rows=True)
        )

    def _find(self, jaxpr: Jaxpr, weights: dict[Var, Var]) -> None:
        """Notes over which dimensions each weight is first multiplied; `weights` maps this function's names to them."""
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
    """Rewrites a function: where a product's left operand would be transposed, its smaller operand comes first.

    This includes products in `scan` and in rematerialised parts.

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
    """A weight with its contracted dimensions moved to the end."""

    def __init__(self, moved: jax.Array, contracted: tuple[int, ...]):
        self.moved, self.contracted = moved, contracted

    def plain(self) -> jax.Array:
        """Gives the weight as the model has it."""
        return jnp.moveaxis(self.moved, _trailing(self.contracted), self.contracted)


def _trailing(dims: tuple[int, ...]) -> range:
    return range(-len(dims), 0)


def _is_product(equation: JaxprEqn) -> bool:
    """Whether an equation multiplies two matrices, without batch dimensions."""
    return equation.primitive.name == "dot_general" and not any(equation.params["dimension_numbers"][1])


def _inlined(equation: JaxprEqn) -> ClosedJaxpr | None:
    """Gives the jitted function that an equation calls, if it calls one."""
    return equation.params["jaxpr"] if equation.primitive.name in ("jit", "pjit") else None


def _reordered(body: ClosedJaxpr | Jaxpr) -> ClosedJaxpr | Jaxpr:
    """Rewrites the body of a loop or of a rematerialised part, which keeps its arguments and results."""
    traced = body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())
    rewritten = jax.make_jaxpr(lambda *arguments: _evaluate(traced, list(arguments), few_rows=False))(*traced.in_avals)
    return rewritten if traced is body else rewritten.jaxpr


def _evaluate(traced: ClosedJaxpr, arguments: list, few_rows: bool) -> list:
    values = dict(zip(traced.jaxpr.constvars, traced.consts, strict=True))
    values |= zip(traced.jaxpr.invars, arguments, strict=True)

    def read(var: object) -> object:
        return var.val if isinstance(var, Literal) else values[var]

    for equation in traced.jaxpr.eqns:
        operands = [read(var) for var in equation.invars]
        if inner := _inlined(equation):
            found = _evaluate(inner, operands, few_rows)
        elif (body := equation.params.get("jaxpr")) and equation.primitive.name in BODIES and not few_rows:
            found = equation.primitive.bind(*operands, **equation.params | {"jaxpr": _reordered(body)})
        elif _is_product(equation):
            found = [_product(*operands, equation.params, few_rows)]
        elif equation.primitive.name == "dot_general":
            found = [_multiply(*map(_as_stored, operands), equation.params["dimension_numbers"], equation.params)]
        else:
            parameters = equation.primitive.get_bind_params(equation.params)
            found = equation.primitive.bind(*map(_as_stored, operands), **parameters)
            found = found if equation.primitive.multiple_results else [found]
        values |= zip(equation.outvars, found, strict=True)
    return [_as_stored(read(var)) for var in traced.jaxpr.outvars]


def _as_stored(value: object) -> object:
    return value.plain() if isinstance(value, _LaidOut) else value


def _as_laid_out(value: object, over: tuple[int, ...]) -> tuple[jax.Array, tuple[int, ...]]:
    """Gives an operand contracted over `over`, in its own layout if that fits, and its contracted dimensions there."""
    if not isinstance(value, _LaidOut) or set(over) != set(value.contracted):
        return _as_stored(value), over  # a weight may be multiplied a second time, over other dimensions
    kept = value.moved.ndim - len(over)
    return value.moved, tuple(kept + value.contracted.index(dim) for dim in over)


def _product(left: object, right: object, parameters: dict, few_rows: bool) -> jax.Array:
    """Computes a `dot_general` with these parameters, with its operands swapped where that is faster."""
    over_left, over_right = parameters["dimension_numbers"][0]
    weights_first, weights_last = isinstance(left, _LaidOut), isinstance(right, _LaidOut)
    left, over_left = _as_laid_out(left, over_left)
    right, over_right = _as_laid_out(right, over_right)
    if few_rows:
        swapped = not weights_first and (weights_last or right.size > left.size)
    else:
        trailing = set(over_left) == set(range(left.ndim - len(over_left), left.ndim))
        swapped = right.size < left.size and not trailing
    if swapped:
        left, right, over_left, over_right = right, left, over_right, over_left
    rows_last = few_rows and (weights_first or weights_last) and left.dtype == right.dtype == jnp.float32
    multiply = _multiply_rows_last if rows_last else _multiply
    product = multiply(left, right, ((over_left, over_right), ((), ())), parameters)
    kept = left.ndim - len(over_left)
    return jnp.moveaxis(product, range(kept), range(-kept, 0)) if swapped else product


def _multiply_rows_last(weight: jax.Array, x: jax.Array, dimension_numbers: tuple, parameters: dict) -> jax.Array:
    """Computes `_multiply` of a weight, its contracted dimensions last, and few rows as matrices, `W @ xᵀ`.

    The barriers keep the compiler from folding the transpositions of x and of the result into the product, which then
    takes nearly twice as long. In bfloat16 they would make it slower.
    """
    (over_weight, over_x), _ = dimension_numbers
    kept = [dim for dim in range(x.ndim) if dim not in over_x]
    columns = jnp.transpose(x, (*over_x, *kept)).reshape(-1, math.prod(x.shape[dim] for dim in kept))
    ordered = jnp.transpose(weight, (*range(weight.ndim - len(over_weight)), *over_weight))
    matrix = ordered.reshape(-1, columns.shape[0])
    columns = jax.lax.optimization_barrier(columns)
    product = _multiply(matrix, columns, (((1,), (0,)), ((), ())), parameters)
    shape = (*ordered.shape[: weight.ndim - len(over_weight)], *(x.shape[dim] for dim in kept))
    return jax.lax.optimization_barrier(product).reshape(shape)


def _multiply(left: jax.Array, right: jax.Array, dimension_numbers: tuple, parameters: dict) -> jax.Array:
    """Computes a `dot_general` with the precision of `parameters`; products in bfloat16 are added up in float32."""
    wanted = parameters["preferred_element_type"] or jnp.result_type(left, right)
    computed = jnp.float32 if wanted == jnp.bfloat16 else wanted
    product = jax.lax.dot_general(left, right, dimension_numbers, parameters["precision"], computed)
    return product.astype(wanted)
