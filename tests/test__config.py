"""Settings as JSON and back, and as what can be hashed."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo import _config


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": (1, [2.5, None]), "b": "c"}, {"a": [1, [2.5, None]], "b": "c"}),
        ((np.float32(0.5), np.int64(3), jnp.asarray(2)), [0.5, 3, 2]),
        ([jnp.bfloat16, np.dtype("int8"), np.float32], ["bfloat16", "int8", "float32"]),
        ({"b", "a"}, ["a", "b"]),
    ],
)
def test_to_json(value, written):
    assert _config.to_json(value) == written
    json.dumps(written)


@pytest.mark.parametrize(
    "value", [print, {1: 2}, [object()], jnp.ones(2), jax.ShapeDtypeStruct((2,), int), nn.Dense]
)
def test_what_has_no_form(value):
    with pytest.raises(_config.NotJsonableError, match="cannot be written as JSON"):
        _config.to_json(value)


def test_encode_and_decode():
    written = _config.to_json([len, {"f": len}], lambda f: {"function": f.__name__})
    assert written == [{"function": "len"}, {"f": {"function": "len"}}]
    read = _config.from_json(written, lambda d: len if "function" in d else d)
    assert read == (len, {"f": len})


def test_hashable():
    value = _config.hashable({"a": [1, (2, [3])], "b": nn.Sequential([nn.Dense(2)])})
    assert value["a"] == (1, (2, (3,)))
    assert value["b"].layers == (nn.Dense(2),)
    assert hash(value) == hash(_config.hashable(dict(value)))
    with pytest.raises(TypeError, match="unhashable"):
        _config.hashable([jnp.ones(2)])


def test_cache_keys_tell_types_apart():
    key = _config.cache_key
    assert key({"a": [1], "b": 2}) == key({"b": 2, "a": [1]})
    assert len({key([1]), key([1.0]), key([True]), key((1,))}) == 4
    with pytest.raises(TypeError, match="unhashable"):
        key({"a": np.ones(2)})
