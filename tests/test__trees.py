"""Trees by path."""

import jax.numpy as jnp
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
