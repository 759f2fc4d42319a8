"""Modules whose fields are checked where they are given."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn

# What Flax itself passes to ``clone``; everything else is a field with a new value.
_FLAX_OPTIONS = frozenset({"parent", "name", "_deep_clone", "_reset_names"})
# The parent of a module that was not told one; ``nn.Module`` itself is no dataclass.
_UNSPECIFIED = next(f.default for f in dataclasses.fields(nn.Dense) if f.name == "parent")


class Checked(nn.Module):
    """A Linen module that refuses fields out of range when it is constructed or given new ones.

    Flax clones a module, with the same fields, each time that it is initialised or applied: these
    clones are not checked again, so that a forward pass costs nothing.
    """

    def __post_init__(self) -> None:
        """Checks the fields of a new module, not those of Flax's clones, which name a parent."""
        is_new = self.parent is _UNSPECIFIED
        super().__post_init__()
        if is_new:
            self.check_fields()

    @nn.nowrap
    def clone(self, **options: Any) -> Any:
        """Clones as Flax does, and checks the fields if any is new."""
        clone = super().clone(**options)
        if not _FLAX_OPTIONS.issuperset(options):
            clone.check_fields()
        return clone

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take; subclasses say what that is."""
