"""Windows: cut and put together, shifted, fitted to small maps."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.attention import Attention
from flaxzoo.layers.window import (
    UNSEEN,
    fit_window,
    merge,
    over_windows,
    partition,
    shift_regions,
    stage_windows,
)

MAPS = np.random.default_rng(0).standard_normal((2, 6, 8, 3)).astype(np.float32)


def test_windows_are_pieces_of_the_map_row_by_row():
    windows = partition(jnp.asarray(MAPS), (3, 4))
    assert windows.shape == (8, 12, 3)
    np.testing.assert_array_equal(windows[1], MAPS[0, :3, 4:].reshape(12, 3))
    np.testing.assert_array_equal(windows[6], MAPS[1, 3:, :4].reshape(12, 3))
    np.testing.assert_array_equal(merge(windows, (3, 4), (6, 8)), MAPS)


@pytest.mark.parametrize(
    ("window", "shift"), [((3, 4), (1, 2)), ((4, 5), (2, 2)), ((4, 3), (0, 1))]
)
def test_what_leaves_tokens_alone_leaves_the_map(window, shift):
    same = over_windows(jnp.asarray(MAPS), window, shift, lambda tokens, mask: tokens)
    np.testing.assert_array_equal(same, MAPS)


def test_tokens_see_those_that_were_neighbours_before_the_roll():
    size, window, shift = (6, 8), (3, 4), (1, 2)
    regions = shift_regions(size, window, shift)
    rows, columns = np.indices(size)
    rolled = [np.roll(axis, (-1, -2), (0, 1))[None, ..., None] for axis in (rows, columns)]
    rows, columns = (np.asarray(partition(jnp.asarray(axis), window))[..., 0] for axis in rolled)
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

    assert over_windows(jnp.asarray(MAPS), (3, 4), (1, 0), mix).shape == MAPS.shape
    over_windows(jnp.asarray(MAPS), (3, 4), (0, 0), mix)
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
