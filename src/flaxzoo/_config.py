"""Settings as JSON and back, and as what can be hashed: the arguments of a compiled function.

``to_json`` and ``from_json`` keep what a setting means, not what it is: a tuple is written as a
list and read back as a tuple, a dtype is written as its name. What JSON has no form for at all,
such as a schedule, is told by a function of the caller's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict


class NotJsonableError(TypeError):
    """A value that JSON cannot hold."""


def to_json(value: Any, encode: Callable[[Any], Any] = lambda value: None) -> Any:
    """A value in terms of None, bool, int, float, str, list and dict.

    Args:
      value: of these; a scalar of NumPy's or JAX's; a list, tuple or set; a mapping with text
        for keys; a dtype, which becomes its name; or whatever ``encode`` knows.
      encode: is asked about any other value: what stands for it, which is written in turn, or
        None where it does not know it.

    Raises:
      NotJsonableError: part of it has no such form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if _is_dtype(value):
        return np.dtype(value).name
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [to_json(item, encode) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((to_json(item, encode) for item in value), key=str)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: to_json(item, encode) for key, item in value.items()}
    encoded = encode(value)
    if encoded is None:
        raise NotJsonableError(f"cannot be written as JSON: {value!r}")
    return to_json(encoded, encode)


def from_json(value: Any, decode: Callable[[dict[str, Any]], Any] = lambda value: value) -> Any:
    """The inverse of ``to_json``: lists become tuples.

    Args:
      value: what a JSON file held.
      decode: makes of each dictionary, whose values are read already, what it stands for.
    """
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return tuple(from_json(item, decode) for item in value)
    if isinstance(value, Mapping):
        return decode({key: from_json(item, decode) for key, item in value.items()})
    return value


def _is_dtype(value: Any) -> bool:
    # jnp.float32 and its kin are no types of NumPy's, but have a type of their own.
    if isinstance(value, np.dtype | type(jnp.float32)):
        return True
    return isinstance(value, type) and issubclass(value, np.generic)


def hashable(value: Any) -> Any:
    """An equal of a value that can be hashed: lists become tuples, dictionaries FrozenDicts.

    Modules keep their class, with the same done to their fields.

    Raises:
      TypeError: part of it cannot be hashed, such as an array.
    """
    result = _frozen(value)
    hash(result)
    return result


def cache_key(value: Any) -> Any:
    """A key for a dictionary of what was made of a value.

    Equal values of equal types give equal keys; 1, 1.0 and True do not, as they may mean
    different things where they are options.

    Raises:
      TypeError: part of it is neither a container nor hashable, such as an array.
    """
    if isinstance(value, Mapping):
        return dict, tuple(sorted((str(k), type(k), cache_key(v)) for k, v in value.items()))
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value), tuple(map(cache_key, value))
    hash(value)
    return type(value), value


def _frozen(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return hashable_module(value)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return tuple(map(_frozen, value))
    if isinstance(value, dict):
        return FrozenDict({key: _frozen(item) for key, item in value.items()})
    return value


def hashable_module(module: nn.Module) -> nn.Module:
    """The module with lists in its fields made tuples, so that jit can take it as static.

    Raises:
      TypeError: a field cannot be hashed, such as an array.
    """
    updates = {}
    for field in dataclasses.fields(module):
        if field.name in ("parent", "name") or not field.init:
            continue
        before = getattr(module, field.name)
        after = _frozen(before)
        if after is not before and not (isinstance(before, tuple) and after == before):
            updates[field.name] = after
    if updates:
        module = module.clone(**updates)
    try:
        hash(module)
    except TypeError as error:
        raise TypeError(
            f"the fields of {type(module).__name__} must be hashable (numbers, text, tuples, "
            f"functions, modules), since they are fixed when a step is compiled: {error}"
        ) from error
    return module
