import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.pool import (
    adaptive_avg_pool,
    anti_alias,
    avg_pool,
    avg_pool_same,
    blur_pool,
    max_pool,
    max_pool_same,
    neighbour_mean,
    shortcut_pool,
)


def image(rows):
    return np.asarray(rows, np.float32)[None, :, :, None]


def test_max_pool_pads_on_both_sides():
    x = -image(np.arange(1.0, 17).reshape(4, 4))
    # Windows start at row and column -1 and 1; what is outside never wins.
    np.testing.assert_array_equal(max_pool(x)[0, :, :, 0], [[-1, -2], [-5, -6]])
    assert max_pool(x, stride=1).shape == x.shape
    assert max_pool(np.zeros((1, 7, 5, 2), np.float32)).shape == (1, 4, 3, 2)


@pytest.mark.parametrize(
    ("side", "size", "padding", "rows"),
    # The second of the last windows would begin behind the map.
    [(6, 3, 0, 3), (7, 3, 0, 3), (2, 3, 0, 1), (4, 2, 1, 3), (5, 2, 1, 3), (6, 3, 1, 4)],
)
def test_a_last_window_reaches_past_the_edge(side, size, padding, rows):
    x = -image(np.arange(1.0, side * side + 1).reshape(side, side))
    pooled = max_pool(x, size, 2, padding, ceil=True)
    firsts = np.maximum(np.arange(rows) * 2 - padding, 0)
    assert (firsts < side).all()
    np.testing.assert_array_equal(pooled[0, :, :, 0], x[0, :, :, 0][np.ix_(firsts, firsts)])


def test_avg_pool_counts_its_padding():
    x = image(np.ones((3, 3)))
    expected = [[4 / 9, 4 / 9], [4 / 9, 4 / 9]]
    np.testing.assert_allclose(avg_pool(x, 3, 2, padding=1)[0, :, :, 0], expected, rtol=1e-6)
    # An odd last row is dropped.
    assert avg_pool(x, 2, 2).shape == (1, 1, 1, 1)


def test_neighbours_that_there_are():
    x = image([[1, 2, 6], [3, 4, 8]])
    expected = image([[2.5, 4, 5], [2.5, 4, 5]])
    np.testing.assert_allclose(neighbour_mean(x, 3), expected, rtol=1e-6)
    np.testing.assert_allclose(neighbour_mean(x, 5), np.full_like(x, 4), rtol=1e-6)
    np.testing.assert_array_equal(neighbour_mean(x[:, :1, :1], 3), x[:, :1, :1])
    np.testing.assert_array_equal(neighbour_mean(x, 3, 2), neighbour_mean(x, 3)[:, ::2, ::2])
    half = jax.eval_shape(lambda x: neighbour_mean(x, 3), jnp.zeros((1, 2, 2, 4), jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_pools_with_the_padding_of_tensorflow():
    x = image([[1, 2, 6, 4], [3, 4, 8, 5]])
    # Of an even side the padding stands at its end, and zeros of a mean count.
    np.testing.assert_array_equal(max_pool_same(x, 3, 2)[0, :, :, 0], [[8, 8]])
    np.testing.assert_allclose(avg_pool_same(x, 3, 2)[0, :, :, 0], [[24 / 9, 23 / 9]], rtol=1e-6)
    np.testing.assert_allclose(avg_pool_same(x, 3, 1), neighbour_mean(x, 3), rtol=1e-6)
    assert max_pool_same(x, 3, 1).shape == x.shape


def test_adaptive_avg_pool_to_fewer_and_to_more():
    x = image([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(adaptive_avg_pool(x, (1, 2))[0, :, :, 0], [[3, 4]])
    # Of two rows made three, the middle one averages both.
    expected = [[1, 2, 3], [2.5, 3.5, 4.5], [4, 5, 6]]
    np.testing.assert_array_equal(adaptive_avg_pool(x, (3, 3))[0, :, :, 0], expected)
    assert adaptive_avg_pool(x, (2, 3)) is x
    assert adaptive_avg_pool(x, (7, 1)).shape == (1, 7, 1, 1)


def test_shortcut_pool_averages_odd_edges_alone():
    x = image([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    np.testing.assert_array_equal(shortcut_pool(x, 2)[0, :, :, 0], [[3, 4.5], [7.5, 9]])
    even = image([[1, 2, 3, 4], [5, 6, 7, 8]])
    np.testing.assert_array_equal(shortcut_pool(even, 2)[0, :, :, 0], [[3.5, 5.5]])
    np.testing.assert_array_equal(shortcut_pool(image([[5]]), 2)[0, :, :, 0], [[5]])


def test_shortcut_pool_of_dilated_stages_counts_a_row_of_zeros():
    x = image([[4, 8], [12, 16]])
    np.testing.assert_array_equal(shortcut_pool(x, 1)[0, :, :, 0], [[10, 6], [7, 4]])


def test_blur_by_hand():
    x = image([[0, 0, 0], [0, 16, 0], [0, 0, 0]])
    np.testing.assert_array_equal(blur_pool(x, 1)[0, :, :, 0], [[4, 4, 4], [4, 4, 4], [4, 4, 4]])
    x = image(np.arange(25.0).reshape(5, 5))
    # Inside, a ramp stays; at the edge the reflected neighbour brings the pixel towards it.
    assert float(blur_pool(x)[0, 1, 1, 0]) == 12
    assert float(blur_pool(x)[0, 0, 0, 0]) == (0 * 4 + 1 * 4 + 5 * 4 + 6 * 4) / 16
    assert blur_pool(x).shape == (1, 3, 3, 1)
    assert blur_pool(np.zeros((1, 6, 4, 1), np.float32)).shape == (1, 3, 2, 1)


@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_blur_is_the_convolution_with_the_outer_product(size, rng):
    x = rng.standard_normal((2, *size, 3)).astype(np.float32)
    taps = np.array([1, 2, 1]) / 4
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    expected = np.einsum("bhwcij,i,j->bhwc", windows, taps, taps)
    np.testing.assert_allclose(blur_pool(x), expected, rtol=1e-5, atol=1e-6)


def test_blurring_keeps_the_dtype():
    assert blur_pool(jnp.ones((1, 4, 4, 1), jnp.bfloat16)).dtype == jnp.bfloat16


def test_anti_aliasing_by_name(rng):
    x = rng.standard_normal((2, 6, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(anti_alias(x, "blur", 2), blur_pool(x))
    np.testing.assert_array_equal(anti_alias(x, "avg", 2), avg_pool(x, 2, 2))
    zeros = blur_pool(x, edges="constant")
    np.testing.assert_array_equal(anti_alias(x, "blur_zeros", 2), zeros)
    # The two differ at the edges alone.
    np.testing.assert_array_equal(zeros[:, 1:, 1:], blur_pool(x)[:, 1:, 1:])
    corner = (4 * x[:, 0, 0] + 2 * x[:, 0, 1] + 2 * x[:, 1, 0] + x[:, 1, 1]) / 16
    np.testing.assert_allclose(zeros[:, 0, 0], corner, rtol=1e-5, atol=1e-6)
    # In a dilated stage nothing is dropped.
    np.testing.assert_array_equal(anti_alias(x, "avg", 1), x)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 1), (1, 3), (3, 3), (2, 1)])
def test_shortcut_pool_of_large_batches(size):
    # XLA's own padded windows are wrong here for sides of 1.
    x = np.random.default_rng(0).normal(size=(359, *size, 64)).astype(np.float32)

    def mean(values):
        height, width = size
        rows = [slice(i, i + 2) for i in range(0, height, 2)]
        columns = [slice(i, i + 2) for i in range(0, width, 2)]
        out = [[values[:, r, c].mean((1, 2)) for c in columns] for r in rows]
        return np.stack([np.stack(row, 1) for row in out], 1)

    pooled = jax.jit(lambda v: shortcut_pool(v, 2))
    np.testing.assert_allclose(pooled(x), mean(x), rtol=1e-5, atol=1e-6)
    gradient = jax.jit(jax.grad(lambda v: (shortcut_pool(v, 2) ** 2).sum()))(x)
    means = np.repeat(np.repeat(mean(x), 2, 1), 2, 2)[:, : size[0], : size[1]]
    rows = np.array([min(2, size[0] - i // 2 * 2) for i in range(size[0])])
    columns = np.array([min(2, size[1] - i // 2 * 2) for i in range(size[1])])
    share = 1 / (rows[:, None] * columns[None, :])[None, :, :, None]
    np.testing.assert_allclose(gradient, 2 * means * share, rtol=1e-5, atol=1e-6)
