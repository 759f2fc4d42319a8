"""Modules as static arguments of compiled functions."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
from flax.core import FrozenDict


def hashable_module(module: nn.Module) -> nn.Module:
    """The module with lists in its fields made tuples, so that jit can take it as static.

    Raises:
      TypeError: a field cannot be hashed, such as an array.
    """

    def convert(value: Any) -> Any:
        if isinstance(value, nn.Module):
            return hashable_module(value)
        if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
            return tuple(convert(item) for item in value)
        if isinstance(value, dict):
            return FrozenDict({k: convert(v) for k, v in value.items()})
        return value

    updates = {}
    for field in dataclasses.fields(module):
        if field.name in ("parent", "name") or not field.init:
            continue
        before = getattr(module, field.name)
        after = convert(before)
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
