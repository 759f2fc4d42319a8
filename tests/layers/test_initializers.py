"""Initialisers: the numbers that they draw."""

import jax
import numpy as np
import pytest

from flaxzoo.layers.initializers import Normal


def test_normal_numbers_around_another_mean():
    drawn = np.asarray(Normal(0.5, mean=3.0)(jax.random.key(0), (10_000,)))
    assert drawn.mean() == pytest.approx(3.0, abs=0.02)
    assert drawn.std() == pytest.approx(0.5, rel=0.03)
    assert Normal(0.5, mean=3.0).distribution((2,)).mean == 3.0
    np.testing.assert_array_equal(
        Normal(0.5)(jax.random.key(0), (4,)), Normal(0.5, mean=0.0)(jax.random.key(0), (4,))
    )
