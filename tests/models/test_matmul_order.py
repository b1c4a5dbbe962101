"""Products in another order give the same numbers, with their operands in the fast order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gsm8k_grpo.models import matmul_order

RNG = np.random.default_rng(0)
ROWS, WIDTH, HEADS, SIZE = 3, 24, 4, 5


def random(*shape):
    return jnp.asarray(RNG.standard_normal(shape, np.float32))


def dots(function, *arguments):
    """Lists the shape of the left operand and its contracted dimensions for all products of a function."""

    def of(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                (over, _), _ = equation.params["dimension_numbers"]
                yield equation.invars[0].aval.shape, tuple(over)
            elif inner := equation.params.get("jaxpr"):
                yield from of(getattr(inner, "jaxpr", inner))

    return list(of(jax.make_jaxpr(function)(*arguments).jaxpr))


def heads(weights, rows):
    """Does what models do with weights: products of many forms, one transposed, and a table that is also looked up."""
    query, out, plain, table = weights
    x = table[jnp.arange(len(rows))] + rows
    x = jnp.einsum("bd,ndh->bnh", x, query)
    x = jax.jit(lambda x: jnp.einsum("bnh,nhd->bd", x, out))(x)
    return {"logits": jnp.tanh(x @ plain) @ table.T, "kept": plain}


WEIGHTS = [random(HEADS, WIDTH, SIZE), random(HEADS, SIZE, WIDTH), random(WIDTH, WIDTH), random(70, WIDTH)]
X = random(ROWS, WIDTH)


def test_weights_come_first_contracted_last_and_nothing_else_changes():
    forward = matmul_order.WeightsFirst(heads, WEIGHTS, X)
    laid_out = forward.laid_out(WEIGHTS)
    assert [weight.shape for weight in laid_out] == [(4, 5, 24), (24, 5, 4), (24, 24), (70, 24)]
    expected, found = heads(WEIGHTS, X), forward(laid_out, X)
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found["kept"], expected["kept"])
    first = [left[0] for left in dots(forward, laid_out, X)]
    assert first == [(20, 24), (24, 20), (24, 24), (24, 70)]  # as matrices, but for a table that is transposed before
    assert all(ROWS in left for left, _ in dots(heads, WEIGHTS, X))


def test_a_call_uses_its_own_weights():
    forward = matmul_order.WeightsFirst(heads, [jnp.zeros_like(weight) for weight in WEIGHTS], X)
    np.testing.assert_allclose(
        forward(forward.laid_out(WEIGHTS), X)["logits"], heads(WEIGHTS, X)["logits"], rtol=1e-5, atol=1e-4
    )


def test_a_weight_on_the_left_is_laid_out_too():
    """For Gemma's keys and values, einsum puts the weight, which has more dimensions, on the left."""

    def function(weights, rows):
        return jnp.einsum("bd,kdh->kbh", rows, weights[0]), jax.lax.dot(weights[1], rows.T)

    weights = [random(HEADS, WIDTH, SIZE), random(70, WIDTH)]
    assert any(left[0] == weights[0].shape for left in dots(function, weights, X))
    forward = matmul_order.WeightsFirst(function, weights, X)
    laid_out = forward.laid_out(weights)
    assert [weight.shape for weight in laid_out] == [(HEADS, SIZE, WIDTH), (70, WIDTH)]
    assert dots(forward, laid_out, X) == [((HEADS * SIZE, WIDTH), (1,)), ((70, WIDTH), (1,))]
    for ours, plain in zip(forward(laid_out, X), function(weights, X), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-4)


def test_the_compiler_multiplies_few_rows_as_columns():
    """Without barriers it folds their transposition into the product, which then is slower."""

    def function(weights, rows):
        return rows @ weights[0]

    forward = matmul_order.WeightsFirst(function, WEIGHTS[2:3], X)
    compiled = jax.jit(forward).lower(forward.laid_out(WEIGHTS[2:3]), X).compile().as_text()
    assert "lhs_contracting_dims={1}, rhs_contracting_dims={0}" in compiled


def test_few_rows_in_bfloat16_keep_the_models_order():
    def function(weights, rows):
        return jnp.einsum("bd,ndh->bnh", rows, weights[0])

    weights, rows = [WEIGHTS[0].astype(jnp.bfloat16)], X.astype(jnp.bfloat16)
    forward = matmul_order.WeightsFirst(function, weights, rows)
    assert dots(forward, forward.laid_out(weights), rows) == [((HEADS, SIZE, WIDTH), (2,))]


def test_a_weight_that_is_multiplied_twice_may_be_contracted_over_other_dimensions():
    def function(weights, rows):
        return rows @ weights[0] + jnp.einsum("bi,ji->bj", rows, weights[0])

    weights = [random(WIDTH, WIDTH)]
    forward = matmul_order.WeightsFirst(function, weights, X)
    np.testing.assert_allclose(forward(forward.laid_out(weights), X), function(weights, X), rtol=1e-5, atol=1e-4)


def test_gradients_transpose_the_smaller_operand():
    """An adapter's gradient contracts a gradient [tokens, out] and activations [tokens, rank] over the tokens."""
    tokens, base, left, right = 200, random(WIDTH, 60), random(WIDTH, 2), random(2, 60)
    x = random(tokens, WIDTH)

    def loss(adapters, x):
        left, right = adapters
        return jnp.sum(jnp.sin(x @ base + x @ left @ right))

    plain, reordered = jax.grad(loss), matmul_order.with_smaller_operand_first(jax.grad(loss))
    for one, other in zip(plain((left, right), x), reordered((left, right), x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)

    def transposed(function):
        return {shape for shape, over in dots(function, (left, right), x) if over != (1,)}

    assert (tokens, 60) in transposed(plain)
    assert (tokens, 60) not in transposed(reordered)
    # An operand that is contracted last needs no transposition, so the larger one stays on the left.
    assert ((tokens, WIDTH), (1,)) in dots(reordered, (left, right), x)


def test_gradients_in_loops_and_rematerialised_parts_do_too():
    tokens, width = 200, WIDTH
    base, left, right = random(3, width, width), random(3, width, 2), random(3, 2, width)
    x = random(tokens, width)

    def loss(adapters, x):
        @jax.checkpoint
        def layer(x, weights):
            base, left, right = weights
            return jnp.sin(x @ base + x @ left @ right), None

        return jnp.sum(jax.lax.scan(layer, x, (base, *adapters))[0])

    plain, reordered = jax.grad(loss), matmul_order.with_smaller_operand_first(jax.grad(loss))
    for one, other in zip(plain((left, right), x), reordered((left, right), x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)

    def transposed(function):
        return {shape for shape, over in dots(function, (left, right), x) if over != (1,)}

    assert (tokens, width) in transposed(plain)
    assert (tokens, width) not in transposed(reordered)


def test_batched_products_stay_as_they_are():
    def function(x):
        return jnp.einsum("bij,bjk->bik", x, x)

    batch = random(2, 3, 3)
    np.testing.assert_array_equal(matmul_order.with_smaller_operand_first(function)(batch), function(batch))


@pytest.mark.parametrize("equation", ["ij,jk->ik", "bij,bjk->bik"])
def test_products_in_bfloat16_are_added_up_in_float32_and_rounded_once(equation):
    left, right = (random(3, 40, 40).astype(jnp.bfloat16)[(slice(None) if "b" in equation else 0)] for _ in range(2))

    def function(left, right):
        return jnp.einsum(equation, left, right)

    found = matmul_order.with_smaller_operand_first(function)(left, right)
    assert found.dtype == jnp.bfloat16
    exact = np.einsum(equation, np.asarray(left, np.float64), np.asarray(right, np.float64))
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8, atol=1e-3)
