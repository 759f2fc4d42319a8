import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.lowering import use
from flaxzoo.layers.lowering.written import written
from flaxzoo.layers.pool import avg_pool, max_pool


def test_it_is_the_identity_in_all_transformations():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(written(x), x)
    np.testing.assert_array_equal(jax.jit(jax.vmap(written))(x), x)
    y, pull = jax.vjp(written, x)
    np.testing.assert_array_equal(pull(2 * y)[0], 2 * x)
    y, tangent = jax.jvp(written, (x,), (3 * x,))
    np.testing.assert_array_equal(tangent, 3 * y)
    assert written(jnp.zeros((0, 3, 4), jnp.int8)).dtype == jnp.int8


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool"])
def test_what_is_written_stays_as_it_is(dtype):
    # As many as are worth it; numbers below -1 and NaN among them.
    x = jnp.linspace(-9, 9, 1 << 18).at[0].set(-9.0 if dtype == "int8" else jnp.nan).astype(dtype)
    # NumPy knows no NaN of bfloat16.
    np.testing.assert_array_equal(*(y.astype("float32") for y in (jax.jit(written)(x), x)))
    assert "stablehlo.case" in jax.jit(written).lower(x).as_text()
    with use("xla"):
        assert "stablehlo.case" not in jax.jit(lambda x: written(x)).lower(x).as_text()


@pytest.mark.full_compiler
def test_a_sum_of_shortcuts_is_computed_once():
    def most_sums(kept):
        """How many of the blocks' sums there are in one loop."""

        def chain(x):
            for _ in range(4):
                rows = x.reshape(-1, 64) @ jnp.ones((64, 64))
                x = kept(jax.nn.relu(x + 2 * rows.reshape(x.shape)))
            return x

        compiled = jax.jit(chain).lower(jnp.ones((8, 16, 16, 64))).compile().as_text()
        return max(text.count(" add(") for text in compiled.split("\n\n"))

    assert most_sums(written) == 1
    # Without it the last loop adds up all four.
    assert most_sums(lambda x: x) == 4


@pytest.mark.full_compiler
@pytest.mark.parametrize("pool", [max_pool, lambda x: avg_pool(x, 2, 2)], ids=["max", "avg"])
def test_a_pool_has_its_gradient_made_once(pool):
    loss = jax.grad(lambda x: jnp.cos(pool(x)).sum())
    x = jnp.linspace(0, 1, 8 * 64 * 64 * 16).reshape(8, 64, 64, 16)
    # The derivative of the cosine is in a loop of its own, not in the one that puts it in place.
    computations = jax.jit(loss).lower(x).compile().as_text().split("\n\n")
    with_sine = [text for text in computations if " sine(" in text]
    assert with_sine
    assert all(" pad(" not in text for text in with_sine)
    with use("xla"):
        expected = jax.grad(lambda x: jnp.cos(pool(x)).sum())(x)
    np.testing.assert_allclose(jax.jit(loss)(x), expected, rtol=1e-6)
