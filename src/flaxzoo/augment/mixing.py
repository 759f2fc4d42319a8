"""Mixtures of examples and their labels: mixup and CutMix."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from flaxzoo._checks import check_number, check_size
from flaxzoo._explain import explained
from flaxzoo._random import as_key
from flaxzoo.augment.base import Augmentation
from flaxzoo.augment.batches import check_images, images_of, name_of, replace_images, set_field
from flaxzoo.augment.registry import REGISTRY
from flaxzoo.data.batch import Batch
from flaxzoo.errors import ShapeError


@dataclasses.dataclass(frozen=True, repr=False)
class Mixing(Augmentation):
    """Mixes each example with another one of its batch.

    The partners are a random cycle through the rows whose weight is not 0, so that no example
    meets itself and padding mixes with nothing. Each example draws its own share; its weight
    stays its own.

    Attributes:
      alpha: parameter of the distribution Beta(alpha, alpha) of the share that an example keeps.
      num_classes: number of classes, to make labels ``[B]`` soft; None where the model says it
        (``with_num_classes``) or targets are ``[B, num_classes]`` already.
      p: probability that an example is mixed.
    """

    alpha: float = 1.0
    num_classes: int | None = None
    p: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        set_field(self, "alpha", check_number("alpha", self.alpha, above=0))
        classes = check_size("num_classes", self.num_classes, minimum=2, optional=True)
        set_field(self, "num_classes", classes)
        set_field(self, "p", check_number("p", self.p, minimum=0, maximum=1))

    @property
    def soft_targets(self) -> bool:  # noqa: D102 - inherited
        return True

    def with_num_classes(self, num_classes: int) -> Augmentation:  # noqa: D102 - inherited
        if self.num_classes is not None:
            return self
        return dataclasses.replace(self, num_classes=num_classes)

    def images(self, key: Any, images: Any) -> jax.Array:
        """The mixed images alone, to look at; what they are labelled with is lost.

        Args:
          key: a key, or an int seed.
          images: ``[B, H, W, C]``, floating.
        """
        images = check_images(images, self)
        return self._mix(as_key(key), images, jnp.ones(images.shape[0], bool))[0]

    def __call__(self, key: Any, batch: Batch) -> Batch:
        """Mixes images and targets.

        Args:
          key: a key, or an int seed.
          batch: with images ``[B, H, W, C]`` and integer labels ``[B]`` or probabilities
            ``[B, num_classes]``.

        Returns:
          The batch with targets float32 ``[B, num_classes]``; without targets, images alone are
          mixed.

        Raises:
          ShapeError: images or targets of another shape.
          ValueError: labels, and ``num_classes`` is not known.
        """
        images = check_images(images_of(batch, self), self)
        weights = batch.weights
        counts = jnp.ones(images.shape[0], bool) if weights is None else jnp.asarray(weights) > 0
        images, partner, kept = self._mix(as_key(key), images, counts)
        batch = replace_images(batch, images)
        if batch.targets is None:
            return batch
        batch = soften(batch, self.num_classes, self)
        kept = kept[:, None].astype(batch.targets.dtype)
        return batch._replace(targets=blend(batch.targets, batch.targets[partner], kept))

    def _mix(
        self, key: jax.Array, images: jax.Array, counts: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Mixed images, each one's partner, and the share of itself that it kept, ``[B]``."""
        keys = jax.random.split(key, 4)
        size = images.shape[0]
        partner = partners(keys[0], counts)
        if self.alpha == 1:
            # Uniform, and in a tenth of the time to compile.
            share = jax.random.uniform(keys[1], (size,))
        else:
            share = jax.random.beta(keys[1], self.alpha, self.alpha, (size,))
        mixes = partner != jnp.arange(size)
        if self.p < 1:
            mixes &= jax.random.bernoulli(keys[2], self.p, (size,))
        share = jnp.where(mixes, share, 1.0)
        mixed, kept = self._join(keys[3], images, images[partner], share)
        return mixed.astype(images.dtype), partner, kept

    def _join(
        self, key: jax.Array, images: jax.Array, others: jax.Array, share: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        raise NotImplementedError(f"{type(self).__name__} has no _join")


@REGISTRY.register("mixup")
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class MixUp(Mixing):
    """Averages each image with another one, and their labels alike.

    Attributes:
      alpha: parameter of the distribution Beta(alpha, alpha) of the share that an example keeps;
        0.2 is usual for convolutional networks, 0.8 for transformers.
      num_classes: number of classes, where the model does not say it.
      p: probability that an example is mixed.

    Source: Zhang et al., mixup (https://arxiv.org/abs/1710.09412).
    """

    alpha: float = 0.2

    def _join(
        self, key: jax.Array, images: jax.Array, others: jax.Array, share: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        wide = jnp.promote_types(images.dtype, jnp.float32)
        part = share[:, None, None, None].astype(wide)
        return blend(images.astype(wide), others.astype(wide), part), share


@REGISTRY.register("cutmix")
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class CutMix(Mixing):
    """Pastes a box of another image into each one; labels mix by area.

    The box has the shape of the image, its centre anywhere: what lies outside is lost. The share
    of the label is the share of the pixels, exactly.

    Attributes:
      alpha: parameter of the distribution Beta(alpha, alpha) of the share that an example keeps.
      num_classes: number of classes, where the model does not say it.
      p: probability that an example is mixed.

    Source: Yun et al., CutMix (https://arxiv.org/abs/1905.04899); the box is torchvision's.
    """

    def _join(
        self, key: jax.Array, images: jax.Array, others: jax.Array, share: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        size, height, width = images.shape[:3]
        places = jax.random.uniform(key, (2, size))
        half = 0.5 * jnp.sqrt(1 - share)
        rows, taken_y = _span(places[0], half, height)
        columns, taken_x = _span(places[1], half, width)
        inside = rows[:, :, None, None] & columns[:, None, :, None]
        kept = 1 - (taken_y * taken_x) / (height * width)
        return jnp.where(inside, others, images), kept


def _span(place: jax.Array, half: jax.Array, side: int) -> tuple[jax.Array, jax.Array]:
    """Which pixels of a side are in the box, ``[B, side]``, and how many are, ``[B]``."""
    center = jnp.floor(place * side).astype(jnp.int32)
    radius = (half * side).astype(jnp.int32)
    pixel = jnp.arange(side)[None]
    inside = (pixel >= (center - radius)[:, None]) & (pixel < (center + radius)[:, None])
    return inside, inside.sum(1)


def blend(a: jax.Array, b: jax.Array, share: jax.Array) -> jax.Array:
    """``share`` of a and the rest of b; all of a comes out as a, bit for bit."""
    return jnp.where(share == 1, a, share * a + (1 - share) * b)


def partners(key: jax.Array, counts: jax.Array) -> jax.Array:
    """For each row that counts another one, in a random cycle; the others are their own.

    Args:
      key: a key.
      counts: bool ``[B]``.

    Returns:
      int32 ``[B]``.
    """
    size = counts.shape[0]
    draws = jnp.where(counts, jax.random.uniform(key, (size,)), 2.0)
    order = jnp.argsort(draws)
    number = jnp.maximum(counts.sum(), 1)
    following = order[(jnp.arange(size) + 1) % number]
    cycle = jnp.zeros(size, jnp.int32).at[order].set(following.astype(jnp.int32))
    return jnp.where(counts, cycle, jnp.arange(size))


def soften(batch: Batch, num_classes: int | None, owner: Any) -> Batch:
    """The batch with targets float32 ``[B, num_classes]``.

    Raises:
      ShapeError: the targets are neither integer labels ``[B]`` nor rows of probabilities.
      ValueError: labels, and ``num_classes`` is not known.
    """
    targets = batch.targets
    shape, dtype = getattr(targets, "shape", None), getattr(targets, "dtype", float)
    rows = images_of(batch, owner).shape[0]
    if shape is not None and shape[:1] == (rows,) and len(shape) <= 2:
        if len(shape) == 1 and jnp.issubdtype(dtype, jnp.integer):
            if num_classes is None:
                raise ValueError(
                    f"{name_of(owner)} makes labels soft and must know how many classes there "
                    f"are: pass num_classes, as in {name_of(owner)}(num_classes=10)"
                )
            return batch._replace(targets=jax.nn.one_hot(targets, num_classes, dtype=jnp.float32))
        if len(shape) == 2 and num_classes in (None, shape[1]):
            return batch._replace(targets=jnp.asarray(targets, jnp.float32))
    got = type(targets).__name__ if shape is None else f"shape {list(shape)} {dtype}"
    classes = "num_classes" if num_classes is None else num_classes
    raise ShapeError(
        f"{name_of(owner)} takes integer labels of shape [{rows}] or probabilities of shape "
        f"[{rows}, {classes}] as targets, got {got}"
    )
