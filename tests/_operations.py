"""What a function does, counted on its jaxpr: in which dtypes, for tests of precision."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import jax


def equations(jaxpr: Any) -> Iterator[Any]:
    """The equations of a jaxpr, and those of the jaxprs inside them."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def operations(function: Any, *args: Any) -> collections.Counter[tuple[str, ...]]:
    """How often each operation is done on inputs of which dtypes."""
    return collections.Counter(
        (
            equation.primitive.name,
            *(v.aval.dtype.name for v in equation.invars if hasattr(v.aval, "dtype")),
        )
        for equation in equations(jax.make_jaxpr(function)(*args).jaxpr)
    )
