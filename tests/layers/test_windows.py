"""Maps cut into windows and put together again."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.attention import Attention
from flaxzoo.layers.windows import (
    UNSEEN,
    fit_window,
    join_grid,
    join_windows,
    over_windows,
    shift_regions,
    split_grid,
    split_windows,
    stage_windows,
)

MAPS = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
NOISE = np.random.default_rng(0).standard_normal((2, 6, 8, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(2, 3), (4, 6), (1, 1), (2, 2)])
def test_windows_lie_row_by_row(size):
    windows = split_windows(MAPS, size)
    rows, columns = size
    assert windows.shape == (2 * (4 // rows) * (6 // columns), rows, columns, 3)
    np.testing.assert_array_equal(windows[0], MAPS[0, :rows, :columns])
    np.testing.assert_array_equal(windows[-1], MAPS[1, 4 - rows :, 6 - columns :])
    if columns < 6:
        np.testing.assert_array_equal(windows[1], MAPS[0, :rows, columns : 2 * columns])
    np.testing.assert_array_equal(join_windows(windows, (4, 6)), MAPS)


@pytest.mark.parametrize("size", [(2, 3), (4, 6), (1, 1), (4, 2)])
def test_grids_are_spread_over_the_map(size):
    grids = split_grid(MAPS, size)
    down, across = 4 // size[0], 6 // size[1]
    assert grids.shape == (2 * down * across, *size, 3)
    np.testing.assert_array_equal(grids[0], MAPS[0, ::down, ::across])
    np.testing.assert_array_equal(grids[-1], MAPS[1, down - 1 :: down, across - 1 :: across])
    if across > 1:
        np.testing.assert_array_equal(grids[1], MAPS[0, ::down, 1::across])
    np.testing.assert_array_equal(join_grid(grids, (4, 6)), MAPS)


def test_grids_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"multiples of a grid of 3 x 3, got \[2, 4, 6, 3\]"):
        split_grid(MAPS, (3, 3))
    for grids, shape in ((MAPS, (5, 6)), (MAPS, (8, 12)), (MAPS[0], (4, 6))):
        with pytest.raises(ShapeError, match=f"fill maps of {shape[0]} x {shape[1]}, got"):
            join_grid(grids, shape)


def test_what_does_not_fit():
    with pytest.raises(ShapeError, match=r"whole windows of 3 x 3, got \[2, 4, 6, 3\]"):
        split_windows(MAPS, (3, 3))
    with pytest.raises(ShapeError, match="whole windows"):
        split_windows(MAPS[0], (2, 2))
    for windows, shape in ((MAPS, (5, 6)), (MAPS, (8, 12)), (MAPS[0], (4, 6))):
        with pytest.raises(ShapeError, match=f"fill maps of {shape[0]} x {shape[1]}, got"):
            join_windows(windows, shape)


@pytest.mark.parametrize(
    ("window", "shift"), [((3, 4), (1, 2)), ((4, 5), (2, 2)), ((4, 3), (0, 1))]
)
def test_what_leaves_tokens_alone_leaves_the_map(window, shift):
    same = over_windows(jnp.asarray(NOISE), window, shift, lambda tokens, mask: tokens)
    np.testing.assert_array_equal(same, NOISE)


def test_tokens_see_those_that_were_neighbours_before_the_roll():
    size, window, shift = (6, 8), (3, 4), (1, 2)
    regions = shift_regions(size, window, shift)
    rows, columns = np.indices(size)
    rolled = [np.roll(axis, (-1, -2), (0, 1))[None, ..., None] for axis in (rows, columns)]
    rows, columns = (split_windows(axis, window).reshape(4, 12) for axis in rolled)
    for k, (i, j) in itertools.product(range(4), itertools.combinations(range(12), 2)):
        near = abs(rows[k, i] - rows[k, j]) < 3 and abs(columns[k, i] - columns[k, j]) < 4
        assert (regions[k, i] == regions[k, j]) == near
    # Along a side without a shift all are neighbours.
    first, last = shift_regions(size, (6, 4), (0, 2))
    assert len(set(first)) == 1
    np.testing.assert_array_equal(np.unique(last.reshape(6, 4), axis=0), [last[:4]])


def test_attention_gets_the_mask_of_every_image():
    masks = []

    def mix(tokens, mask):
        masks.append(mask)
        return Attention(1).init_with_output(jnp.asarray([0, 1], jnp.uint32), tokens, mask=mask)[0]

    assert over_windows(jnp.asarray(NOISE), (3, 4), (1, 0), mix).shape == NOISE.shape
    over_windows(jnp.asarray(NOISE), (3, 4), (0, 0), mix)
    (shifted, whole) = masks
    assert whole is None
    assert (shifted.shape, shifted.dtype) == ((8, 1, 12, 12), jnp.float32)
    assert set(np.unique(shifted)) == {UNSEEN, 0.0}
    np.testing.assert_array_equal(shifted[:4], shifted[4:])


def test_windows_fit_small_maps():
    assert fit_window((14, 14), (7, 7)) == ((7, 7), (3, 3))
    assert fit_window((7, 14), (7, 7)) == ((7, 7), (0, 3))
    assert fit_window((5, 9), (7, 8)) == ((5, 8), (0, 4))
    assert fit_window((5, 9), (7, 8), always=True) == ((7, 8), (3, 4))


def test_windows_of_stages():
    assert stage_windows(7, 3) == ((7, 7),) * 3
    assert stage_windows((4, 6), 2) == ((4, 6), (4, 6))
    assert stage_windows([7, (3, 5), 14], 3) == ((7, 7), (3, 5), (14, 14))
    for wrong in (0, "7", (7, 0), (7, 7, 7), None, ((7, 7), 7)):
        with pytest.raises(ValueError, match="window_size must be"):
            stage_windows(wrong, 4)
