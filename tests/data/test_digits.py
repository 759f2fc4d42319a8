from __future__ import annotations

import sys
import zlib

import numpy as np
import pytest

from flaxzoo import data
from flaxzoo.errors import DataError, MissingExtraError


def test_digits():
    (train_x, train_y), (test_x, test_y) = data.load_digits()
    assert train_x.shape == (1438, 8, 8, 1)
    assert test_x.shape == (359, 8, 8, 1)
    for x, y in ((train_x, train_y), (test_x, test_y)):
        assert x.dtype == np.float32
        assert y.dtype == np.int32
        assert x.min() == 0.0
        assert x.max() == 1.0
        assert sorted(set(y.tolist())) == list(range(10))
    # Each digit has its share of the test part.
    share = np.bincount(test_y) / np.bincount(np.concatenate([train_y, test_y]))
    assert np.abs(share - 0.2).max() < 0.004
    # The two parts have no example in common beyond the duplicates of the source.
    rows = {r.tobytes() for r in train_x} & {r.tobytes() for r in test_x}
    assert not rows


def test_the_split_never_changes():
    _, (_, labels) = data.load_digits()
    assert zlib.crc32(labels.tobytes()) == 3097547206


def test_seed_size_and_flat():
    _, (x, _) = data.load_digits(0.5, seed=1, flat=True)
    assert x.shape == (898, 64)
    _, (other, _) = data.load_digits(0.5, seed=2, flat=True)
    assert not np.array_equal(x, other)
    _, (shaped, _) = data.load_digits(0.5, seed=1)
    np.testing.assert_array_equal(shaped.reshape(-1, 64), x)


def test_bad_size():
    with pytest.raises(DataError, match="test_size"):
        data.load_digits(1.5)


def test_missing_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r'load_digits .*pip install "flaxzoo\[demo\]"'):
        data.load_digits()
