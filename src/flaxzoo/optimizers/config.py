"""Options of an optimizer as a cache key and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class NotJsonableError(TypeError):
    """A value that JSON cannot hold; ``Optimizer.config`` is None then."""


def jsonable(value: Any) -> Any:
    """``value`` in terms of None, bool, int, float, str, list and dict; dtypes become names.

    Raises:
      NotJsonableError: it has no such form.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic) or getattr(value, "shape", None) == ():
        return value.item()
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: jsonable(item) for key, item in value.items()}
    # jnp.float32 and its kin are neither types nor np.dtype, but carry one.
    dtype = getattr(value, "dtype", value)
    scalar = isinstance(dtype, type) and issubclass(dtype, np.generic)
    if (scalar or isinstance(dtype, np.dtype)) and not hasattr(value, "shape"):
        return np.dtype(dtype).name
    raise NotJsonableError(f"{value!r} cannot be written as JSON")


def tuples(value: Any) -> Any:
    """``value`` with lists turned into tuples, as JSON files hold lists where optax has tuples."""
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return tuple(tuples(item) for item in value)
    return value


def freeze(value: Any) -> Any:
    """``value`` as something hashable; equal values of equal types give equal keys.

    Raises:
      TypeError: part of it is neither a container nor hashable, such as an array.
    """
    if isinstance(value, Mapping):
        return dict, tuple(sorted((str(k), type(k), freeze(v)) for k, v in value.items()))
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value), tuple(freeze(item) for item in value)
    hash(value)
    # 1, 1.0 and True are equal, but as options they may mean different things.
    return type(value), value
