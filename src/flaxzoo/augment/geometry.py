"""Where pixels are: flips, and rotation, shear, zoom and shift in one sampling."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flaxzoo._checks import check_flag
from flaxzoo._explain import explained
from flaxzoo.augment import ranges
from flaxzoo.augment.base import ImageAugmentation
from flaxzoo.augment.batches import check_images, scaled, set_field
from flaxzoo.augment.registry import REGISTRY
from flaxzoo.augment.warp import chain, identity, warp

Range = float | tuple[float, float]
Fill = str | float | tuple[float, ...]


@dataclasses.dataclass(frozen=True, repr=False)
class Geometric(ImageAugmentation):
    """One that moves pixels by an affine map; ``Compose`` joins neighbours into one sampling."""

    def matrix(self, key: jax.Array, height: int, width: int) -> jax.Array:
        """The map of one image, as ``flaxzoo.augment.warp.warp`` takes it, float32 ``[2, 3]``."""
        raise NotImplementedError(f"{type(self).__name__} has no matrix")

    @property
    def border(self) -> str | tuple[float, ...] | None:
        """What fills up; None where nothing from outside comes in."""
        return None

    def joins(self, others: Sequence[Any]) -> bool:  # noqa: D102 - inherited
        if not all(isinstance(other, Geometric) for other in others):
            return False
        members = (self, *others)
        return len({(m.border, m.mean, m.std) for m in members if m.border is not None}) <= 1

    def together(  # noqa: D102 - inherited
        self, others: Sequence[Any], keys: Sequence[Any], images: Any
    ) -> jax.Array:
        ops = (self, *others)
        leader = next((op for op in ops if op.border is not None), None)
        if leader is None:
            # Nothing is sampled between pixels: one after the other is exact.
            for op, key in zip(ops, keys, strict=True):
                images = op.images(key, images)
            return images
        images = check_images(images, self)
        height, width = images.shape[1:3]
        matrix = jnp.broadcast_to(identity(), (images.shape[0], 2, 3))
        for op, key in zip(ops, keys, strict=True):
            own = jax.random.split(key, images.shape[0])
            matrices = jax.vmap(lambda k, op=op: op.matrix(k, height, width))(own)
            matrix = jax.vmap(chain)(matrix, matrices)
        wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))

        def move(matrix: jax.Array, image: jax.Array) -> jax.Array:
            return warp_filled(leader, matrix, image, leader.border)

        return jax.vmap(move)(matrix, wide).astype(images.dtype)


@REGISTRY.register(aliases=["horizontal_flip", "random_flip", "random_horizontal_flip"])
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class Flip(Geometric):
    """Mirrors images left to right, top to bottom, or both.

    Attributes:
      horizontal: whether to mirror left to right.
      vertical: whether to mirror top to bottom; each direction draws for itself.
      p: probability of each.
    """

    horizontal: bool = True
    vertical: bool = False
    p: float = dataclasses.field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("horizontal", "vertical"):
            check_flag(name, getattr(self, name))
        if not (self.horizontal or self.vertical):
            raise ValueError("horizontal and vertical are both False: Flip would do nothing")

    def _flips(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        horizontal, vertical = jax.random.bernoulli(key, self.p, (2,))
        return horizontal & self.horizontal, vertical & self.vertical

    def sometimes(self, key: jax.Array, image: jax.Array) -> jax.Array:  # noqa: D102
        horizontal, vertical = self._flips(key)
        if self.horizontal:
            image = jnp.where(horizontal, image[:, ::-1], image)
        if self.vertical:
            image = jnp.where(vertical, image[::-1], image)
        return image

    def matrix(self, key: jax.Array, height: int, width: int) -> jax.Array:  # noqa: D102
        horizontal, vertical = self._flips(key)
        signs = jnp.where(jnp.stack([horizontal, vertical]), -1.0, 1.0)
        return identity() * signs[:, None]


@REGISTRY.register
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class Affine(Geometric):
    """Rotates, shears, zooms and shifts, in one bilinear sampling.

    A number r draws uniformly from -r to r (``zoom``: from 1 - r to 1 + r), a pair from its first
    to its second value; each image draws for itself. The image is sheared, zoomed and rotated
    about its centre, then shifted.

    Attributes:
      rotation: degrees, counter-clockwise.
      shift_x: to the right, as a fraction of the width.
      shift_y: down, as a fraction of the height.
      shear_x: degrees by which vertical lines lean; positive leans their top to the right.
      shear_y: degrees by which horizontal lines do; positive lifts their right end.
      zoom: factor by which things get larger; both axes have the same.
      fill: what comes in from outside: ``"mean"`` (the mean colour of the preprocessing, black
        where there is none; what the network sees as 0), a colour in [0, 1] (a number or one per
        channel), ``"nearest"`` (the edge goes on) or ``"reflect"`` (mirrored).

    Source: the conventions are those of ``torchvision.transforms.v2.functional.affine``, with
    rotation the other way round, as in its ``rotate``.
    """

    rotation: Range = (0.0, 0.0)
    shift_x: Range = (0.0, 0.0)
    shift_y: Range = (0.0, 0.0)
    shear_x: Range = (0.0, 0.0)
    shear_y: Range = (0.0, 0.0)
    zoom: Range = (1.0, 1.0)
    fill: Fill = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rotation", "shift_x", "shift_y"):
            set_field(self, name, ranges.interval(name, getattr(self, name)))
        for name in ("shear_x", "shear_y"):
            set_field(self, name, ranges.interval(name, getattr(self, name), least=-89, most=89))
        set_field(self, "zoom", ranges.interval("zoom", self.zoom, around=1.0, above=0.0))
        set_field(self, "fill", ranges.color("fill", self.fill))

    @property
    def changes_nothing(self) -> bool:  # noqa: D102 - inherited
        return self == Affine()

    @property
    def border(self) -> str | tuple[float, ...]:  # noqa: D102
        return self.fill  # type: ignore[return-value]

    def matrix(self, key: jax.Array, height: int, width: int) -> jax.Array:  # noqa: D102
        chosen, key = self.choose(key)
        fields = ("rotation", "shift_x", "shift_y", "shear_x", "shear_y", "zoom")
        # One call: each is a hundred operations to compile.
        draws = jax.random.uniform(key, (len(fields),))
        drawn = {
            name: scaled(draw, getattr(self, name))
            for draw, name in zip(draws, fields, strict=True)
        }
        drawn["shift_x"] *= width
        drawn["shift_y"] *= height
        matrix = affine_matrix(**drawn)
        return matrix if self.p == 1 else jnp.where(chosen, matrix, identity())

    def sometimes(self, key: jax.Array, image: jax.Array) -> jax.Array:  # noqa: D102
        return warp_filled(self, self.matrix(key, *image.shape[:2]), image, self.fill)


def affine_matrix(
    rotation: Any = 0.0,
    shift_x: Any = 0.0,
    shift_y: Any = 0.0,
    shear_x: Any = 0.0,
    shear_y: Any = 0.0,
    zoom: Any = 1.0,
) -> jax.Array:
    """The map from places of the result back to the image, in pixels from the centre.

    Args:
      rotation: degrees, counter-clockwise.
      shift_x: pixels to the right.
      shift_y: pixels down.
      shear_x: degrees.
      shear_y: degrees.
      zoom: factor, above 0.

    Returns:
      float32 ``[2, 3]``, for ``warp``.
    """
    angle, lean_x, lean_y = (jnp.float32(v) * (math.pi / 180) for v in (rotation, shear_x, shear_y))
    # y points down, so that this turns clockwise, which is back.
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    back = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    tan_x, tan_y = jnp.tan(lean_x), jnp.tan(lean_y)
    # The inverse of [[1, -tan x], [0, 1]] and then [[1, 0], [-tan y, 1]].
    shears = jnp.stack([jnp.stack([1 + tan_x * tan_y, tan_x]), jnp.stack([tan_y, jnp.float32(1)])])
    linear = (shears[:, :, None] * back[None]).sum(1) / jnp.float32(zoom)
    shift = jnp.stack([jnp.float32(shift_x), jnp.float32(shift_y)])
    return jnp.concatenate([linear, -(linear * shift[None]).sum(1, keepdims=True)], axis=1)


def warp_filled(
    op: ImageAugmentation, matrix: jax.Array, image: jax.Array, fill: Fill | None
) -> jax.Array:
    """Warps one image that was normalised as ``op`` says; ``fill`` is as for ``Affine``."""
    if fill is None or fill in ("nearest", "reflect"):
        return warp(image, matrix, "nearest" if fill is None else str(fill))
    return warp(image, matrix, op.fill_values(fill, image))  # type: ignore[arg-type]


@REGISTRY.register(aliases=["rotate", "random_rotation"])
@explained
def rotation(degrees: Range = 15.0, *, fill: Fill = "mean", p: float = 1.0) -> Affine:
    """Rotates about the centre by up to ``degrees`` either way, or from low to high."""
    return Affine(rotation=degrees, fill=fill, p=p)


@REGISTRY.register(aliases=["translate", "random_translation"])
@explained
def shift(x: Range = 0.1, y: Range = 0.1, *, fill: Fill = "mean", p: float = 1.0) -> Affine:
    """Shifts by up to these fractions of the width and of the height, either way."""
    return Affine(shift_x=x, shift_y=y, fill=fill, p=p)


@REGISTRY.register(aliases=["random_shear"])
@explained
def shear(x: Range = 10.0, y: Range = 0.0, *, fill: Fill = "mean", p: float = 1.0) -> Affine:
    """Shears by up to these degrees, either way."""
    return Affine(shear_x=x, shear_y=y, fill=fill, p=p)


@REGISTRY.register(aliases=["random_zoom"])
@explained
def zoom(factor: Range = 0.2, *, fill: Fill = "mean", p: float = 1.0) -> Affine:
    """Zooms by a factor within ``factor`` of 1, or from low to high; above 1 enlarges."""
    return Affine(zoom=factor, fill=fill, p=p)


@REGISTRY.register(aliases=["random_vertical_flip"])
def vertical_flip(p: float = 0.5) -> Flip:
    """Mirrors top to bottom with probability ``p``."""
    return Flip(horizontal=False, vertical=True, p=p)
