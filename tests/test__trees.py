"""Trees by path."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict

from flaxzoo import _trees
from flaxzoo.errors import CheckpointError

TREE = {"b": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "a": {"scale": jnp.ones(3)}}


def test_flatten_and_back():
    flat = _trees.flatten(FrozenDict(TREE))
    # In the order of the tree, which is not the alphabet's.
    assert list(flat) == ["b/kernel", "b/bias", "a/scale"]
    assert _trees.unflatten(flat) == TREE
    assert type(_trees.plain(FrozenDict(TREE))["b"]) is dict


def test_any_pytree_by_path():
    state = optax.adam(0.1).init(TREE)
    paths = _trees.by_path({"state": state})
    assert "state/0/mu/b/kernel" in paths
    shapes = _trees.map_by_path(lambda path, leaf: (path, leaf.shape), state)
    assert shapes[0].mu["b"]["kernel"] == ("0/mu/b/kernel", (2, 3))


def test_prefixes():
    assert _trees.prefixes("a/b/c") == ["a", "a/b", "a/b/c"]


def test_weights_are_what_shrinking_makes_simpler():
    table = _trees.map_by_path(_trees.is_weight, {**TREE, "c": {"scale": jnp.ones((2, 2))}})
    assert table == {
        "b": {"kernel": True, "bias": False},
        "a": {"scale": False},
        "c": {"scale": False},
    }


def test_compare_lists_what_differs():
    ours = _trees.flatten(TREE)
    theirs = {**ours, "b/kernel": jnp.ones((3, 2)), "c": jnp.ones(1)}
    del theirs["a/scale"]
    _trees.compare(ours, ours, source="f")
    with pytest.raises(CheckpointError) as caught:
        _trees.compare(ours, theirs, source="f.npz", owner="cnn")
    assert str(caught.value) == (
        "f.npz does not fit cnn. 1 missing from the file: a/scale. 1 only in the file: c. "
        "1 of another shape: b/kernel: file [3, 2], expected [2, 3]."
    )


def test_copies_are_in_memory_of_their_own():
    raw = np.zeros(4096 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    # As XLA wants memory that it takes over.
    aligned = raw[start : start + 4096].view(np.float32)
    tree = {"numpy": aligned, "jax": jnp.arange(3.0), "key": jax.random.key(0), "number": 2}
    copies = _trees.copied(tree)
    assert copies["jax"].unsafe_buffer_pointer() != tree["jax"].unsafe_buffer_pointer()
    aligned[:] = 1
    assert not np.any(copies["numpy"])
    # They can be donated, and what they were made of stays.
    doubled = jax.jit(lambda tree: tree["jax"] * 2, donate_argnums=0)(_trees.copied(tree))
    np.testing.assert_array_equal(doubled, [0, 2, 4])
    np.testing.assert_array_equal(tree["jax"], [0, 1, 2])
    np.testing.assert_array_equal(aligned, np.ones_like(aligned))
