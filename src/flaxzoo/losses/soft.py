"""Losses of class indices, for targets that mixup and cutmix have made shares of classes."""

from __future__ import annotations

import dataclasses

from flaxzoo.errors import ShapeError
from flaxzoo.losses.loss import Loss
from flaxzoo.losses.registry import REGISTRY

# Losses of class indices and those that give the same for one-hot targets.
_SOFT = {"softmax_cross_entropy_with_integer_labels": "softmax_cross_entropy"}


def with_soft_targets(loss: Loss) -> Loss:
    """The loss that takes a distribution over classes where ``loss`` takes class indices.

    Raises:
      ShapeError: there is none.
    """
    name = _SOFT.get(loss.name) if loss.registered else None
    if name is None:
        takers = ", ".join(map(repr, _SOFT))
        raise ShapeError(
            f"loss {loss.name!r} takes class indices, but the targets are shares of classes, as "
            f"mixup and cutmix make them; {takers} takes both"
        )
    soft = REGISTRY.get(name, reduction=loss.reduction, **dict(loss.options))
    return dataclasses.replace(soft, regularizers=loss.regularizers)
