"""Trees in the forms that cost a compiled step least to take and to give back.

``jit`` compares the static data of its arguments with those of the call that it has compiled.
That costs next to nothing where they are the same objects: what a step returns has the static
data of what it was given.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Flat:
    """A tree as its leaves: ``jit`` need not take its Python objects apart at every call.

    Attributes:
      leaves: the arrays.
      treedef: what they are the leaves of; static.
    """

    leaves: list[Any]
    treedef: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, tree: Any, treedef: Any = None) -> Flat:
        """The leaves of a tree; with the very treedef that is given if it is equal."""
        leaves, found = jax.tree.flatten(tree)
        return cls(leaves, treedef if treedef is not None and found == treedef else found)

    def tree(self) -> Any:
        """The tree."""
        return jax.tree.unflatten(self.treedef, self.leaves)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Packed:
    """A tree with many scalars, those of one dtype in one array: each array costs microseconds.

    Attributes:
      scalars: by name of their dtype, ``[n]``.
      others: the leaves that are no scalars.
      kinds: for each leaf the name of its dtype, or None for one of ``others``; static.
      treedef: of the tree; static.
    """

    scalars: dict[str, Any]
    others: list[Any]
    kinds: tuple[str | None, ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, tree: Any, like: Packed | None = None) -> Packed:
        """Packs a tree of arrays; under ``jit``. With the very structure of ``like`` if equal."""
        leaves, treedef = jax.tree.flatten(tree)
        kinds = tuple(None if leaf.ndim else str(leaf.dtype) for leaf in leaves)
        if like and (kinds, treedef) == (like.kinds, like.treedef):
            kinds, treedef = like.kinds, like.treedef
        found = list(zip(leaves, kinds, strict=True))
        names = [kind for kind in dict.fromkeys(kinds) if kind is not None]
        scalars = {name: jnp.stack([x for x, kind in found if kind == name]) for name in names}
        return cls(scalars, [x for x, kind in found if kind is None], kinds, treedef)

    def tree(self) -> Any:
        """The tree; under ``jit``."""
        others = iter(self.others)
        # Slices of one element and a reshape: indexing would add a gather.
        parts = {k: iter(jnp.split(x, len(x))) for k, x in self.scalars.items()}
        leaves = [
            next(others) if kind is None else next(parts[kind]).reshape(()) for kind in self.kinds
        ]
        return jax.tree.unflatten(self.treedef, leaves)


@jax.jit
def unpacked(packed: Packed) -> Any:
    """The tree of what is packed, in one dispatch."""
    return packed.tree()


pack = jax.jit(Packed.of)
