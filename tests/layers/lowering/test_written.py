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


@pytest.mark.full_compiler
@pytest.mark.parametrize("pool", [max_pool, lambda x: avg_pool(x, 2, 2)], ids=["max", "avg"])
def test_a_pool_has_its_gradient_made_once(pool):
    # The derivative of the cosine is in a loop of its own, not in the one that puts it in place.
    loss = jax.jit(jax.grad(lambda x: jnp.cos(pool(x)).sum()))
    x = jnp.linspace(0, 1, 2 * 8 * 8 * 16).reshape(2, 8, 8, 16)
    computations = loss.lower(x).compile().as_text().split("\n\n")
    with_sine = [text for text in computations if " sine(" in text]
    assert with_sine
    assert all(text.count(" pad(") <= 1 for text in with_sine)
    with use("xla"):
        np.testing.assert_allclose(loss(x), jax.grad(lambda x: jnp.cos(pool(x)).sum())(x))
