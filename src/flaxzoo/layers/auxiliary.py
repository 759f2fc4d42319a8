"""Logits of auxiliary classifiers: what they add to the objective in training, and to nothing else.

A classifier on a map halfway lets the first layers see the labels from near (Szegedy et al. 2014,
https://arxiv.org/abs/1409.4842, section 5). A module hands its logits over with ``sow_logits``;
``flaxzoo.train_step`` adds the loss of each, weighed, to that of the outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax

# The collection that they are sown into. It is mutable in training steps alone, and no state.
COLLECTION = "auxiliary_logits"


class Auxiliary(NamedTuple):
    """What an auxiliary classifier says.

    Attributes:
      logits: as the model's own, ``[B, num_classes]``.
      weight: what its loss is multiplied by.
    """

    logits: jax.Array
    weight: Any


def sow_logits(module: nn.Module, logits: jax.Array, weight: float) -> None:
    """Hands the logits of an auxiliary classifier over to whoever makes ``COLLECTION`` mutable.

    Args:
      module: a bound module; while it is initialised nothing is handed over.
      logits: ``[B, num_classes]``.
      weight: what their loss is multiplied by.
    """
    if not module.is_initializing():
        module.sow(COLLECTION, "logits", Auxiliary(logits, weight))


def sown_logits(collection: Any) -> list[Auxiliary]:
    """Returns what modules have sown.

    Args:
      collection: the variables of ``COLLECTION``, as ``apply`` returns them.
    """
    leaves = jax.tree.leaves(collection, is_leaf=lambda leaf: isinstance(leaf, Auxiliary))
    return [leaf for leaf in leaves if isinstance(leaf, Auxiliary)]
