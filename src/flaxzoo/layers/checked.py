"""Modules whose fields are checked where they are given."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn

from flaxzoo._checks import check_flag, check_number, check_rate
from flaxzoo.layers.remat import check_remat

# What Flax itself passes to ``clone``; everything else is a field with a new value.
_FLAX_OPTIONS = frozenset({"parent", "name", "_deep_clone", "_reset_names"})
# The parent of a module that was not told one; ``nn.Module`` itself is no dataclass.
_UNSPECIFIED = next(f.default for f in dataclasses.fields(nn.Dense) if f.name == "parent")


class Checked(nn.Module):
    """A Linen module that refuses fields out of range when it is constructed or given new ones.

    Fields that are annotated as ``bool``, ``float`` or ``float | None`` are looked at by
    themselves: switches, finite numbers, rates where they are called a dropout or ``drop_path``;
    ``remat`` is a switch or a policy.

    Flax clones a module, with the same fields, each time that it is initialised or applied: these
    clones are not checked again, so that a forward pass costs nothing.
    """

    def __post_init__(self) -> None:
        """Checks the fields of a new module, not those of Flax's clones, which name a parent."""
        is_new = self.parent is _UNSPECIFIED
        super().__post_init__()
        if is_new:
            self.check_all()

    @nn.nowrap
    def clone(self, **options: Any) -> Any:
        """Clones as Flax does, and checks the fields if any is new."""
        clone = super().clone(**options)
        if not _FLAX_OPTIONS.issuperset(options):
            clone.check_all()
        return clone

    @nn.nowrap
    def check_all(self) -> None:
        """Raises ValueError for what a field does not take, by its annotation or as the class says.

        Flax's clones and modules that name a parent are not checked by themselves.
        """
        cls: Any = type(self)
        for name, check in _declared(cls):
            check(name, getattr(self, name))
        self.check_fields()

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take; subclasses say what that is."""


@functools.cache
def _declared(cls: type) -> tuple[tuple[str, Callable[[str, Any], Any]], ...]:
    """What fields take by their annotations, where these are a switch or a number, and names."""
    checks: list[tuple[str, Callable[[str, Any], Any]]] = []
    for field in dataclasses.fields(cls):
        kind, _, rest = str(getattr(field.type, "__name__", field.type)).partition(" | ")
        if kind == "bool" and not rest:
            checks.append((field.name, check_flag))
        elif field.name == "remat" and kind == "bool":
            checks.append((field.name, check_remat))
        elif kind == "float" and rest in ("", "None"):
            checks.append((field.name, functools.partial(_number(field.name), optional=bool(rest))))
    return tuple(checks)


def _number(name: str) -> Callable[..., Any]:
    if name.endswith("dropout") or name == "drop_path":
        return check_rate
    at_least_0 = name.endswith("epsilon")
    return functools.partial(check_number, minimum=0) if at_least_0 else check_number
