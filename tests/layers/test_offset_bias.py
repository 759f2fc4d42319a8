import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.offset_bias import offset_index, resample_offsets


@pytest.mark.parametrize("stride", [1, 2])
def test_equal_distances_share_a_number(stride):
    rows, columns = 3, 4
    index = offset_index((rows, columns), stride)
    keys = [(row, column) for row in range(rows) for column in range(columns)]
    queries = [(row, column) for row, column in keys if not row % stride and not column % stride]
    assert index.shape == (len(queries), len(keys))
    for i, (row, column) in enumerate(queries):
        for j, (other_row, other_column) in enumerate(keys):
            expected = abs(row - other_row) * columns + abs(column - other_column)
            assert index[i, j] == expected


def test_resampling_keeps_constants_and_the_grid_it_has():
    table = np.random.default_rng(0).standard_normal((2, 12)).astype(np.float16)
    assert resample_offsets(table, (3, 4), old_grid=(3, 4)).dtype == np.float16
    np.testing.assert_array_equal(resample_offsets(table, (3, 4), old_grid=(3, 4)), table)
    ones = resample_offsets(np.ones_like(table), (2, 5), old_grid=(3, 4))
    np.testing.assert_array_equal(ones, np.ones((2, 10)))
    with pytest.raises(ShapeError, match="12 patches are no square grid"):
        resample_offsets(table, (2, 5))
    with pytest.raises(ShapeError, match=r"of a grid of 3 x 5 must have 15 columns, got \[2, 12\]"):
        resample_offsets(table, (2, 5), old_grid=(3, 5))
