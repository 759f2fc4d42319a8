"""Rotary positions: what is turned, by what angles, and what stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.attention import Attention, SeparateAttention
from flaxzoo.layers.rotary import RotaryPositions, TurnedFrequencies, coordinates_of, frequencies


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def angles(grid=(2, 3), prefix=1, train=False, rngs=None, **fields):
    module = RotaryPositions(8, **fields)
    return module.apply({}, grid, prefix, train, rngs=rngs)[0]


@pytest.mark.parametrize("halves", [False, True])
def test_products_depend_on_the_difference_of_positions(halves):
    q, k = normal(1, 1, 1, 8), normal(2, 1, 1, 8)[1:]
    rotation = angles((3, 3), 0, halves=halves)
    q, k = (rotation.turn(jnp.broadcast_to(x, (1, 9, 1, 8)))[0, :, 0] for x in (q, k))
    products = np.asarray(q @ k.T)
    # From a patch to the one below its right neighbour, wherever.
    steps = [products[i, i + 4] for i in (0, 1, 3, 4)]
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(q, axis=-1), np.linalg.norm(q[0]), rtol=1e-5)


@pytest.mark.parametrize("halves", [False, True])
def test_pairs_are_complex_numbers(halves):
    x, rotation = normal(1, 7, 1, 8), angles(halves=halves)
    pairs = x.reshape(7, 2, 4).swapaxes(1, 2) if halves else x.reshape(7, 4, 2)
    cells = coordinates_of((2, 3))
    turned = (pairs[1:, :, 0] + 1j * pairs[1:, :, 1]) * np.exp(
        1j * (cells[:, :, None] * frequencies(2, 10000.0)).reshape(6, 4)
    )
    out = np.asarray(rotation.turn(x))[0, :, 0]
    out = out.reshape(7, 2, 4).swapaxes(1, 2) if halves else out.reshape(7, 4, 2)
    np.testing.assert_allclose(out[1:, :, 0] + 1j * out[1:, :, 1], turned, atol=1e-6)
    np.testing.assert_array_equal(out[0], pairs[0])


def test_coordinates():
    np.testing.assert_array_equal(coordinates_of((1, 3)), [[0, 0], [0, 1], [0, 2]])
    np.testing.assert_array_equal(coordinates_of((1, 2), order="xy", offset=1.0), [[1, 1], [2, 1]])
    stretched = coordinates_of((2, 4), reference=(4, 4))
    np.testing.assert_array_equal(stretched[-1], [2, 3])
    centred = coordinates_of((2, 4), "centred")
    np.testing.assert_array_equal(centred[[0, -1]], [[-0.5, -0.75], [0.5, 0.75]])


def test_mixed_frequencies_begin_orthogonal_and_are_learnt():
    freqs = TurnedFrequencies()(jax.random.key(0), (2, 3, 4, 8))
    np.testing.assert_allclose((freqs[0] * freqs[1]).sum(-1), 0, atol=1e-6)
    bands = frequencies(4, 10.0)
    np.testing.assert_allclose((freqs**2).sum(0), np.tile(bands**2, (3, 4, 2)), rtol=1e-5)
    module = RotaryPositions(16, "mixed", depth=3, heads=4)
    out, variables = module.init_with_output(jax.random.key(0), (2, 3), 1)
    assert variables["params"]["freqs"].shape == (2, 3, 4, 8)
    assert len(out) == 3
    assert out[0].sin.shape == (1, 7, 4, 8)


@pytest.mark.parametrize("change", ["shift", "jitter", "rescale"])
def test_coordinates_are_changed_in_training_alone(change):
    rngs = {"dropout": jax.random.key(0)}
    still = angles(**{change: 2.0})
    np.testing.assert_array_equal(still.sin, angles().sin)
    moved = angles(train=True, rngs=rngs, **{change: 2.0})
    assert np.abs(moved.sin - still.sin)[:, 1:].max() > 0.01
    np.testing.assert_array_equal(moved.sin[:, :1], 0)


def test_dtypes_and_tokens_that_do_not_fit():
    rotation = angles()
    out = rotation.turn(jnp.asarray(normal(2, 7, 2, 8), jnp.bfloat16))
    assert out.dtype == jnp.bfloat16
    with pytest.raises(ShapeError, match=r"tokens must be 7, as there are positions, got 5"):
        rotation.turn(normal(2, 5, 2, 8))
    some = rotation.take(np.array([[0, 2], [0, 5]]))
    assert some.sin.shape == (2, 2, 1, 4)
    with pytest.raises(ValueError, match="a multiple of 4 units, got 6"):
        RotaryPositions(6)
    with pytest.raises(ValueError, match="jitter must be"):
        RotaryPositions(8, jitter=0.5)
    with pytest.raises(ValueError, match="halves must be False"):
        RotaryPositions(8, "mixed", halves=True)


def test_heads_that_share_keys():
    x = normal(2, 7, 16)
    fewer = SeparateAttention(4, key_heads=2)
    variables = fewer.init(jax.random.key(0), x)
    params = variables["params"]
    assert params["k_proj"]["kernel"].shape == (16, 8)
    kernels = [params["q_proj"]["kernel"]]
    kernels += [
        np.repeat(params[name]["kernel"].reshape(16, 2, 4), 2, axis=1).reshape(16, 16)
        for name in ("k_proj", "v_proj")
    ]
    fused = {"kernel": np.concatenate(kernels, 1), "bias": np.zeros(48, np.float32)}
    same = {"params": {"qkv": fused, "proj": params["proj"]}}
    expected = Attention(4).apply(same, x)
    np.testing.assert_allclose(fewer.apply(variables, x), expected, atol=1e-6)
    with pytest.raises(ValueError, match="key_heads must divide heads=4, got 3"):
        SeparateAttention(4, key_heads=3).init(jax.random.key(0), x)
