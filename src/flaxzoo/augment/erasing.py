"""Boxes wiped out of images."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from flaxzoo._explain import explained
from flaxzoo.augment import ranges
from flaxzoo.augment.base import ImageAugmentation
from flaxzoo.augment.batches import set_field
from flaxzoo.augment.cropping import RandomResizedCrop
from flaxzoo.augment.geometry import Fill
from flaxzoo.augment.registry import REGISTRY


@REGISTRY.register(aliases=["erasing"])
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class RandomErasing(ImageAugmentation):
    """Wipes a random box out of an image.

    Attributes:
      scale: range of the box's area, as a fraction of the image's.
      ratio: range of its width over its height; drawn evenly on a logarithmic scale.
      fill: ``"mean"``, a colour in [0, 1] (a number or one per channel), or ``"noise"``: each
        value from 0 to 1.
      p: probability.

    Source: Zhong et al. (https://arxiv.org/abs/1708.04896), which uses noise.
    """

    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: Fill = "mean"
    p: float = dataclasses.field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "scale", ranges.pair("scale", self.scale, most=1.0))
        set_field(self, "ratio", ranges.pair("ratio", self.ratio))
        set_field(self, "fill", ranges.color("fill", self.fill, words=("mean", "noise")))

    def example(self, key: jax.Array, image: jax.Array) -> jax.Array:  # noqa: D102
        height, width = image.shape[:2]
        box_key, noise_key = jax.random.split(key) if self.fill == "noise" else (key, key)
        # A box is drawn as one to crop to is.
        drawn = RandomResizedCrop(self.scale, self.ratio).box(box_key, height, width)
        top, left, box_height, box_width = drawn
        y, x = jnp.arange(height), jnp.arange(width)
        inside = ((y >= top) & (y < top + box_height))[:, None]
        inside = inside & ((x >= left) & (x < left + box_width))[None, :]
        if self.fill == "noise":
            noise = jax.random.uniform(noise_key, image.shape, image.dtype)
            value = self.unit(lambda x: noise, image)
        else:
            value = self.fill_values(self.fill, image)  # type: ignore[arg-type]
        return jnp.where(inside[:, :, None], value, image)
