"""Masks of weight decay by patterns over parameter paths."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any

import jax

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
    """A mask as an optimizer takes it: patterns become a function, None the default one."""
    if mask is None:
        return decay_mask
    if isinstance(mask, str):
        return PatternMask((mask,))
    if isinstance(mask, Sequence) and all(isinstance(pattern, str) for pattern in mask):
        return PatternMask(tuple(mask))
    return mask
