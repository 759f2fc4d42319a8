import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.drop_path import DropPath, drop_path_rates

KEYS = {"dropout": jax.random.key(0)}


@pytest.mark.parametrize("shape", [(200, 3), (200, 2, 3), (200, 2, 2, 3)])
def test_whole_examples_are_dropped(shape):
    x = np.ones(shape, np.float32)
    out = np.asarray(DropPath(0.25).apply({}, x, deterministic=False, rngs=KEYS))
    rows = out.reshape(200, -1)
    assert (rows == rows[:, :1]).all()
    np.testing.assert_allclose(np.unique(rows), [0, 1 / 0.75], rtol=1e-6)
    # Five standard deviations of a binomial distribution.
    assert abs((rows[:, 0] == 0).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 200)


def test_it_draws_what_a_broadcasting_dropout_does():
    x = np.random.default_rng(0).standard_normal((8, 3, 4, 5)).astype(np.float32)
    dropout = nn.Dropout(0.5, broadcast_dims=(1, 2, 3))
    expected = dropout.apply({}, x, deterministic=False, rngs=KEYS)
    ours = DropPath(0.5).apply({}, x, deterministic=False, rngs=KEYS)
    np.testing.assert_array_equal(ours, expected)
    # What is told of a Dropout, that frozen ones drop nothing, holds for it.
    assert isinstance(DropPath(0.5), nn.Dropout)


def test_inference_and_rates_of_zero_and_one():
    x = jnp.ones((4, 3), jnp.bfloat16)
    assert DropPath(0.5).apply({}, x, deterministic=True) is x
    assert DropPath(0.0).apply({}, x, deterministic=False) is x
    run = lambda x: DropPath(1.0).apply({}, x, deterministic=False, rngs=KEYS).sum()  # noqa: E731
    value, gradient = jax.value_and_grad(run)(x)
    assert value == 0
    assert gradient.dtype == x.dtype
    np.testing.assert_array_equal(gradient, np.zeros((4, 3)))


def test_rates_grow_linearly():
    np.testing.assert_allclose(drop_path_rates(0.3, 4), [0, 0.1, 0.2, 0.3])
    assert drop_path_rates(0.3, 1) == (0.0,)
