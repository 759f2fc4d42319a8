import gc

import jax
import numpy as np
import pytest
from hypothesis import settings

import flaxzoo as fz

# The same examples in every run; --hypothesis-profile=default looks for new ones.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")


@pytest.fixture(autouse=True, scope="module")
def programs_of_one_file():
    """Lets go of compiled programs: a process may have 65,530 memory maps, and each takes some."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def digits():
    """A small part of the real digits: ((train_images, train_labels), (test_images, ...))."""
    (images, labels), test = fz.data.load_digits()
    return (images[:240], labels[:240]), (test[0][:100], test[1][:100])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def assert_trees_equal():
    """Bitwise equality of two trees of arrays."""

    def check(a, b):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y))

    return check
