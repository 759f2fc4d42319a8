"""Pooling of maps by attention, against its formula."""

import jax
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.attention_pool import AttentionPool2d
from flaxzoo.models.heads import Head


def test_a_map_is_pooled_by_what_its_mean_finds():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 8)).astype(np.float32)
    pool = AttentionPool2d(head_width=4)
    variables = pool.init(jax.random.key(0), x)
    params = variables["params"]
    assert params["pos_embed"].shape == (13, 8)
    tokens = x.reshape(2, 12, 8)
    tokens = np.concatenate([tokens.mean(1, keepdims=True), tokens], 1) + params["pos_embed"]
    q, k, v = (tokens @ params[name]["kernel"] for name in "qkv")
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weights = jax.nn.softmax(q[:, :1, part] @ k[..., part].transpose(0, 2, 1) / 2)
        heads.append((weights @ v[..., part])[:, 0])
    np.testing.assert_allclose(pool.apply(variables, x), np.concatenate(heads, -1), atol=1e-5)


def test_positions_of_the_pooling_are_resampled_for_other_maps():
    small, large = (np.ones((1, side, side, 8), np.float32) for side in (2, 4))
    pool = AttentionPool2d(grid=(2, 2), head_width=4)
    variables = pool.init(jax.random.key(0), large)
    assert variables["params"]["pos_embed"].shape == (5, 8)
    assert pool.apply(variables, large).shape == pool.apply(variables, small).shape == (1, 8)
    with pytest.raises(ShapeError, match="multiple of that many channels, got 8"):
        AttentionPool2d(head_width=3).init(jax.random.key(0), small)


def test_a_head_that_pools_maps_refuses_tokens():
    head = Head(2, pooling="attention2d", attention=(("head_width", 4),))
    assert head.init_with_output(jax.random.key(0), np.ones((1, 2, 2, 8)))[0].shape == (1, 2)
    with pytest.raises(ShapeError, match="takes maps of shape .* pooling='attention' for tokens"):
        head.init(jax.random.key(0), np.ones((1, 4, 8)))
