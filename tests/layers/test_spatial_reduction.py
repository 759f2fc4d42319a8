"""Attention to a smaller copy of the map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.spatial_reduction import SpatialReductionAttention

MAPS = np.random.default_rng(0).random((2, 5, 7, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("fields", "keys"),
    [
        ({}, 35),
        ({"key_stride": 2}, 2 * 3),
        ({"key_stride": 5}, 1),
        ({"key_grid": 3}, 9),
        ({"key_stride": 9, "key_grid": 2}, 4),
    ],
)
def test_the_number_of_keys(fields, keys):
    layer = SpatialReductionAttention(2, **fields)
    y, sown = jax.eval_shape(
        lambda x: layer.init_with_output(jax.random.key(0), x, mutable=("params", "intermediates")),
        MAPS,
    )
    assert y.shape == MAPS.shape
    assert sown["intermediates"]["attention"][0].shape == (2, 2, 35, keys)


def test_one_key_gives_every_pixel_the_same():
    layer = SpatialReductionAttention(2, 5)
    y, _ = layer.init_with_output(jax.random.key(0), MAPS)
    np.testing.assert_allclose(y, jnp.broadcast_to(y[:, :1, :1], y.shape), rtol=1e-6)


def test_what_does_not_fit():
    key = jax.random.key(0)
    with pytest.raises(ShapeError, match=r"a map of 5 x 7 has no key at key_stride=8: .*2 times"):
        jax.eval_shape(SpatialReductionAttention(2, 8).init, key, MAPS)
    with pytest.raises(ShapeError, match="a multiple of heads=4, got"):
        jax.eval_shape(SpatialReductionAttention(4).init, key, MAPS)
    with pytest.raises(ShapeError, match=r"\[B, H, W, C\]"):
        jax.eval_shape(SpatialReductionAttention(2).init, key, MAPS[0])
    with pytest.raises(ValueError, match="key_stride must be an int of at least 1, got 0"):
        SpatialReductionAttention(2, 0)
