"""One of several augmentations, drawn for the batch as a whole."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from flaxzoo._checks import check_number
from flaxzoo._explain import explained
from flaxzoo._random import as_key
from flaxzoo.augment.base import Several
from flaxzoo.augment.batches import set_field
from flaxzoo.augment.mixing import soften
from flaxzoo.data.batch import Batch


@explained
@dataclasses.dataclass(frozen=True, repr=False)
class OneOf(Several):
    """Does one of several augmentations, drawn for the batch as a whole.

    Only the one drawn is computed. If one of them makes soft targets, all do.

    Attributes:
      ops: augmentations, their names, or functions ``f(key, batch) -> batch``, which must keep
        shapes and dtypes alike.
      weights: how likely each is, relative to the others; None for all alike.
    """

    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is None:
            return
        weights = tuple(check_number("weights", w) for w in self.weights)
        if len(weights) != len(self.ops) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(
                f"weights must be {len(self.ops)} numbers, one per augmentation, not negative and "
                f"not all 0, got {weights}"
            )
        set_field(self, "weights", weights)

    def __call__(self, key: Any, batch: Batch) -> Batch:  # noqa: D102 - inherited
        choice, key = jax.random.split(as_key(key))
        if self.soft_targets and batch.targets is not None:
            batch = soften(batch, self.known_classes, self)
        weights = jax.numpy.asarray(self.weights or (1.0,) * len(self.ops))
        index = jax.random.choice(choice, len(self.ops), p=weights / weights.sum())
        return jax.lax.switch(index, self.ops, key, batch)
