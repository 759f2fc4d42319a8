import numpy as np
import pytest

from flaxzoo._trees import flatten


@pytest.fixture
def assert_same():
    """Bitwise equality of trees, but for the paths that begin as ``besides`` says."""

    def check(tree, other, *, besides=()):
        tree, other = flatten(tree), flatten(other)
        kept = [path for path in tree if not path.startswith(tuple(besides))]
        assert set(kept) == {path for path in other if not path.startswith(tuple(besides))}
        for path in kept:
            np.testing.assert_array_equal(np.asarray(tree[path]), np.asarray(other[path]), path)

    return check
