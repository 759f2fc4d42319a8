"""Branches: what is joined, what forks, and what is added."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.layers.branches import (
    Branches,
    ResidualBranches,
    Unit,
    halved,
    neighbours,
    neighbours_and_zeros,
    scaled,
)

MAPS = np.random.default_rng(0).standard_normal((2, 7, 9, 4)).astype(np.float32)


def test_branches_are_joined_in_their_order():
    fork = (Unit("c1", 3, (1, 3)), Unit("c2", 5, (3, 1)))
    module = Branches(((Unit("a", 2),), (halved,), (Unit("b", 2), fork)), norm=None)
    no_pool = module.clone(branches=(module.branches[0], module.branches[2]))
    y, variables = no_pool.init_with_output(jax.random.key(0), MAPS)
    assert y.shape == (2, 7, 9, 2 + 3 + 5)
    assert variables["params"].keys() == {"a", "b", "c1", "c2"}
    kernel = variables["params"]["a"]["conv"]["kernel"][0, 0]
    np.testing.assert_allclose(y[..., :2], np.maximum(MAPS @ kernel, 0), rtol=1e-4, atol=1e-6)
    strided = Branches(((Unit("a", 2, 3, 2, 0),), (halved,)))
    y = strided.init_with_output(jax.random.key(0), MAPS)[0]
    np.testing.assert_array_equal(y[..., 2:], halved(jnp.asarray(MAPS)))


def test_a_factor_narrows_all_units():
    module = Branches(((Unit("a", 8), Unit("b", 6)),), width_factor=0.5)
    shapes = jax.eval_shape(module.init, jax.random.key(0), MAPS)["params"]
    assert shapes["a"]["conv"]["kernel"].shape == (1, 1, 4, 4)
    assert shapes["b"]["conv"]["kernel"].shape == (1, 1, 4, 3)
    assert scaled(8, 0.01) == 1


def test_residual_branches_are_scaled_and_added():
    module = ResidualBranches(((Unit("a", 6),),), scale=0.0, active=False)
    y, variables = module.init_with_output(jax.random.key(0), MAPS)
    np.testing.assert_array_equal(y, MAPS)
    whole = module.clone(scale=1.0).apply(variables, MAPS)
    half = module.clone(scale=0.5).apply(variables, MAPS)
    np.testing.assert_allclose(whole - MAPS, 2 * (half - MAPS), rtol=1e-3, atol=1e-5)
    assert (module.clone(active=True).apply(variables, MAPS) >= 0).all()


def test_zeros_beyond_the_edges_count_or_do_not():
    x = jnp.ones((1, 4, 5, 1))
    np.testing.assert_allclose(neighbours(x), 1)
    np.testing.assert_allclose(neighbours_and_zeros(x)[0, 0, 0, 0], 4 / 9, rtol=1e-6)
