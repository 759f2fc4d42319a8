"""Colours and sharpness: jitter, grey, blur."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size
from flaxzoo._explain import explained
from flaxzoo.augment import pixels, ranges
from flaxzoo.augment.base import ImageAugmentation
from flaxzoo.augment.batches import check_rgb, scaled, set_field
from flaxzoo.augment.geometry import Range
from flaxzoo.augment.registry import REGISTRY
from flaxzoo.errors import ShapeError


@REGISTRY.register
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class ColorJitter(ImageAugmentation):
    """Changes brightness, contrast, saturation and hue, in this order.

    For the first three a number r draws a factor from ``1 - r`` (not below 0) to ``1 + r``, a pair
    from low to high; 1 changes nothing. Values are clipped to [0, 1] after each.

    Attributes:
      brightness: factor of all values.
      contrast: factor of the distance to the image's mean grey.
      saturation: factor of the distance to each pixel's grey; RGB only.
      hue: turn of the hue as a fraction of the colour circle, at most 0.5 either way; a number r
        draws from -r to r. RGB only.

    Source: ``torchvision.transforms.v2.ColorJitter``, which draws the order as well. One order
    lets a batch be one computation.
    """

    brightness: Range = (1.0, 1.0)
    contrast: Range = (1.0, 1.0)
    saturation: Range = (1.0, 1.0)
    hue: Range = (0.0, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("brightness", "contrast", "saturation"):
            set_field(self, name, ranges.interval(name, getattr(self, name), around=1.0, least=0.0))
        set_field(self, "hue", ranges.interval("hue", self.hue, least=-0.5, most=0.5))

    @property
    def changes_nothing(self) -> bool:  # noqa: D102 - inherited
        return self == ColorJitter()

    def example(self, key: jax.Array, image: jax.Array) -> jax.Array:  # noqa: D102
        steps = (
            (self.brightness, 1, pixels.adjust_brightness),
            (self.contrast, 1, pixels.adjust_contrast),
            (self.saturation, 1, pixels.adjust_saturation),
            (self.hue, 0, pixels.adjust_hue),
        )
        for what, limits, neutral in (("saturation", self.saturation, 1), ("hue", self.hue, 0)):
            if limits != (neutral, neutral):
                check_rgb(image, self, what)

        def change(unit: jax.Array) -> jax.Array:
            draws = jax.random.uniform(key, (len(steps),), unit.dtype)
            for draw, (limits, neutral, adjust) in zip(draws, steps, strict=True):
                if limits != (neutral, neutral):
                    unit = adjust(unit, scaled(draw, limits))
            return unit

        return self.unit(change, image)


@REGISTRY.register
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class Grayscale(ImageAugmentation):
    """Makes RGB images grey, still in three channels.

    Attributes:
      p: probability.
    """

    p: float = dataclasses.field(default=0.1, kw_only=True)

    def example(self, key: jax.Array, image: jax.Array) -> jax.Array:  # noqa: D102
        check_rgb(image, self, "the grey")
        return self.unit(lambda x: jnp.broadcast_to(pixels.gray(x), x.shape), image)


@REGISTRY.register
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class GaussianBlur(ImageAugmentation):
    """Blurs with a Gaussian, mirrored at the edges.

    Attributes:
      sigma: range of its standard deviation, in pixels.
      radius: its kernel has ``2 * radius + 1`` pixels; None takes three times the largest sigma.
      p: probability.
    """

    sigma: tuple[float, float] = (0.1, 2.0)
    radius: int | None = None
    p: float = dataclasses.field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "sigma", ranges.pair("sigma", self.sigma))
        set_field(self, "radius", check_size("radius", self.radius, optional=True))

    def example(self, key: jax.Array, image: jax.Array) -> jax.Array:  # noqa: D102
        radius = self.radius if self.radius is not None else math.ceil(3 * self.sigma[1])
        if radius >= min(image.shape[:2]):
            raise ShapeError(
                f"GaussianBlur mirrors {radius} pixels at the edges, too many for images of "
                f"{image.shape[0]} x {image.shape[1]} pixels; pass a smaller radius or sigma"
            )
        sigma = scaled(jax.random.uniform(key, dtype=image.dtype), self.sigma)
        # Averages are the same in any range.
        return pixels.gaussian_blur(image, sigma, radius)
