"""Masks of weight decay by patterns over parameter paths."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict

from flaxzoo._trees import Thawed
from flaxzoo.errors import ArgumentError, UnknownNameError
from flaxzoo.optimizers.decay import decay_mask


@dataclasses.dataclass(frozen=True)
class PatternMask:
    """The default mask, changed by patterns in their order.

    Attributes:
      patterns: globs over the paths of parameters, such as ``"backbone/pos_embed"``: what matches
        decays, and with a ``!`` before it does not.
    """

    patterns: tuple[str, ...]

    def __call__(self, params: Any) -> Any:
        """A tree of booleans of the structure of ``params``: True for what decays."""

        def decays(keys: tuple[Any, ...], usual: bool) -> bool:
            path = jax.tree_util.keystr(keys, simple=True, separator="/")
            for pattern in self.patterns:
                if fnmatch.fnmatchcase(path, pattern.removeprefix("!")):
                    usual = not pattern.startswith("!")
            return usual

        return jax.tree_util.tree_map_with_path(decays, decay_mask(params))


def as_decay_mask(mask: Any) -> Any:
    """A mask as an optimizer takes it: patterns become a function, None the default one.

    Raises:
      ArgumentError: it is none of these.
    """
    if mask is None:
        return decay_mask
    if isinstance(mask, str):
        return PatternMask((mask,))
    if isinstance(mask, Sequence) and all(isinstance(pattern, str) for pattern in mask):
        return PatternMask(tuple(mask))
    if callable(mask):
        return mask
    leaves = [leaf for leaf in jax.tree.leaves(mask) if not callable(leaf)]
    if not leaves or not all(map(_is_boolean, leaves)):
        raise ArgumentError(
            "weight_decay_mask must be patterns over parameter paths, a tree of booleans or a "
            f"function from parameters to one, got {mask!r}"
        )
    return Thawed(mask) if isinstance(mask, FrozenDict) else mask


def check_patterns(mask: Any, paths: Iterable[str]) -> None:
    """Refuses patterns of a mask that match no parameter; other masks pass.

    Raises:
      UnknownNameError: (a KeyError) one matches nothing; it shows some paths.
    """
    patterns = (mask,) if isinstance(mask, str) else mask
    if not isinstance(patterns, Sequence) or not all(isinstance(p, str) for p in patterns):
        return
    paths = list(paths)
    for pattern in patterns:
        if not fnmatch.filter(paths, pattern.removeprefix("!")):
            raise UnknownNameError(
                f"weight_decay_mask: {pattern!r} matches no parameter, which have paths such as "
                + ", ".join(paths[:3])
            )


def _is_boolean(leaf: Any) -> bool:
    return isinstance(leaf, bool) or getattr(leaf, "dtype", None) == np.dtype(bool)
