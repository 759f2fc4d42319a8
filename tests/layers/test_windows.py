"""Maps cut into windows and put together again."""

import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.windows import join_windows, split_windows

MAPS = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)


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


def test_what_does_not_fit():
    with pytest.raises(ShapeError, match=r"whole windows of 3 x 3, got \[2, 4, 6, 3\]"):
        split_windows(MAPS, (3, 3))
    with pytest.raises(ShapeError, match="whole windows"):
        split_windows(MAPS[0], (2, 2))
    for windows, shape in ((MAPS, (5, 6)), (MAPS, (8, 12)), (MAPS[0], (4, 6))):
        with pytest.raises(ShapeError, match=f"fill maps of {shape[0]} x {shape[1]}, got"):
            join_windows(windows, shape)
