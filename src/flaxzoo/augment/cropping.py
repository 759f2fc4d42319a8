"""Crops: a random part resized to the whole, and a window on the padded image."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxzoo._checks import check_kernel, check_size
from flaxzoo._explain import explained
from flaxzoo.augment import ranges
from flaxzoo.augment.base import ImageAugmentation
from flaxzoo.augment.batches import check_images, scaled, set_field
from flaxzoo.augment.geometry import Fill
from flaxzoo.augment.registry import REGISTRY
from flaxzoo.augment.warp import resized_crop
from flaxzoo.errors import ArgumentError, ShapeError

# Of boxes that may not fit into the image; torchvision's number.
_TRIES = 10
_PARTS = (_TRIES, 2 * _TRIES)


@REGISTRY.register(aliases=["rrc"])
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class RandomResizedCrop(ImageAugmentation):
    """Cuts a random part out and resizes it, as networks are trained on ImageNet.

    Attributes:
      scale: range of the part's area, as a fraction of the image's.
      ratio: range of its width over its height; drawn evenly on a logarithmic scale. A part that
        would not fit is drawn again, at most ten times; then it is the largest one in the middle.
      size: side or ``(height, width)`` of the result; None keeps the size of the images.
      p: probability of a random part; otherwise it is the whole image.

    Source: Szegedy et al. (https://arxiv.org/abs/1409.4842); parts are drawn as by
    ``torchvision.transforms.v2.RandomResizedCrop``, resized bilinearly with antialiasing.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    size: int | tuple[int, int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "scale", ranges.pair("scale", self.scale, most=1.0))
        set_field(self, "ratio", ranges.pair("ratio", self.ratio))
        set_field(self, "size", None if self.size is None else check_kernel("size", self.size))

    def sometimes(self, key: jax.Array, image: jax.Array) -> jax.Array:  # noqa: D102
        height, width = image.shape[:2]
        chosen, key = self.choose(key)
        drawn = jnp.stack(self.box(key, height, width))
        box = jnp.where(chosen, drawn, jnp.asarray((0, 0, height, width)))
        size = _size(self.size, (height, width))
        return resized_crop(image, box[0], box[1], box[2], box[3], size)

    def box(self, key: jax.Array, height: int, width: int) -> tuple[jax.Array, ...]:
        """``(top, left, height, width)`` of a random part, int32 scalars, in pixels."""
        areas, ratios, places = jnp.split(jax.random.uniform(key, (2 * _TRIES + 2,)), _PARTS)
        area = height * width * scaled(areas, self.scale)
        ratio = jnp.exp(scaled(ratios, tuple(math.log(r) for r in self.ratio)))
        widths = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
        heights = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        first = jnp.argmax(fits)
        tall, wide = self._largest(height, width)
        box_height = jnp.where(fits.any(), heights[first], tall)
        box_width = jnp.where(fits.any(), widths[first], wide)
        top = _place(places[0], height - box_height)
        left = _place(places[1], width - box_width)
        middle_top, middle_left = (height - tall) // 2, (width - wide) // 2
        return (
            jnp.where(fits.any(), top, middle_top),
            jnp.where(fits.any(), left, middle_left),
            box_height,
            box_width,
        )

    def _largest(self, height: int, width: int) -> tuple[int, int]:
        ratio = min(max(width / height, self.ratio[0]), self.ratio[1])
        if width / height < ratio:
            return max(min(round(width / ratio), height), 1), width
        return height, max(min(round(height * ratio), width), 1)


@REGISTRY.register
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class RandomCrop(ImageAugmentation):
    """Pads the image and cuts a window out at a random place, as is usual for CIFAR.

    Attributes:
      padding: pixels on each side, or ``(vertical, horizontal)``.
      size: side or ``(height, width)`` of the window; None keeps the size of the images.
      fill: what the padding is: ``"mean"``, a colour in [0, 1], ``"nearest"`` or ``"reflect"``,
        as for ``Affine``.
      p: probability of a random place; otherwise it is the middle.
    """

    padding: int | tuple[int, int] = 4
    size: int | tuple[int, int] | None = None
    fill: Fill = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        both = self.padding if isinstance(self.padding, tuple | list) else (self.padding,) * 2
        if len(both) != 2:
            raise ArgumentError(
                f"padding must be an int or (vertical, horizontal), got {self.padding!r}"
            )
        set_field(self, "padding", tuple(check_size("padding", v, minimum=0) for v in both))
        set_field(self, "size", None if self.size is None else check_kernel("size", self.size))
        set_field(self, "fill", ranges.color("fill", self.fill))

    def images(self, key: Any, images: Any) -> jax.Array:  # noqa: D102 - inherited
        images = check_images(images, self)
        for name, side, out, pad in zip(
            ("high", "wide"), images.shape[1:3], _size(self.size, (0, 0)), self._pads, strict=True
        ):
            if out > side + 2 * pad:
                raise ShapeError(
                    f"RandomCrop cuts {out} pixels out of images {side} pixels {name} with "
                    f"padding {pad} on each side; make padding at least {-(-(out - side) // 2)}"
                )
            if self.fill == "reflect" and pad >= side:
                raise ShapeError(
                    f"RandomCrop cannot mirror padding of {pad} pixels in images {side} pixels "
                    f"{name}; padding must be below {side}"
                )
        return super().images(key, images)

    @property
    def _pads(self) -> tuple[int, int]:
        return self.padding  # type: ignore[return-value]

    def sometimes(self, key: jax.Array, image: jax.Array) -> jax.Array:  # noqa: D102
        (height, width), (above, beside) = image.shape[:2], self._pads
        size = _size(self.size, (height, width))
        chosen, key = self.choose(key)
        spare_y, spare_x = height + 2 * above - size[0], width + 2 * beside - size[1]
        draws = jax.random.uniform(key, (2,))
        top = jnp.where(chosen, _place(draws[0], spare_y), spare_y // 2)
        left = jnp.where(chosen, _place(draws[1], spare_x), spare_x // 2)
        # Source pixels by row and column: takes are cheaper than a padded copy of each image.
        y, x = jnp.arange(size[0]) + top - above, jnp.arange(size[1]) + left - beside
        if self.fill in ("nearest", "reflect"):
            find = _clamp if self.fill == "nearest" else _mirror
            return jnp.take(jnp.take(image, find(y, height), axis=0), find(x, width), axis=1)
        taken = jnp.take(jnp.take(image, _clamp(y, height), axis=0), _clamp(x, width), axis=1)
        inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None]
        return jnp.where(inside[..., None], taken, self.fill_values(self.fill, image))  # type: ignore[arg-type]


def _size(size: int | tuple[int, int] | None, default: tuple[int, int]) -> tuple[int, int]:
    # Construction has made a pair of a number.
    return size if isinstance(size, tuple) else default


def _place(draw: jax.Array, spare: Any) -> jax.Array:
    """An int in [0, spare], evenly, from a draw in [0, 1)."""
    return jnp.minimum(jnp.floor(draw * (spare + 1)).astype(jnp.int32), spare)


def _clamp(index: jax.Array, side: int) -> jax.Array:
    return jnp.clip(index, 0, side - 1)


def _mirror(index: jax.Array, side: int) -> jax.Array:
    return (side - 1) - jnp.abs((side - 1) - jnp.abs(index))
