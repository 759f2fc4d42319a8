"""Changes of one image's values, in [0, 1]: what the random augmentations draw from.

Each takes an image ``[H, W, C]`` of floats in [0, 1] and returns one clipped to [0, 1]; strengths
may be traced. Formulas and conventions are those of ``torchvision.transforms.v2.functional``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.augment.warp import separable

# ITU-R 601-2, as Pillow's and torchvision's greys.
_LUMA = (0.2989, 0.587, 0.114)
_LEVELS = 256


def mix(base: Any, image: jax.Array, factor: Any) -> jax.Array:
    """``base`` for a factor of 0, the image for 1, beyond it above 1; clipped."""
    return jnp.clip(factor * image + (1 - factor) * base, 0, 1)


def gray(image: jax.Array) -> jax.Array:
    """Luminance ``[H, W, 1]`` of RGB; images of other channels are averaged."""
    if image.shape[-1] != 3:
        return image.mean(-1, keepdims=True)
    red, green, blue = (image[..., i : i + 1] * _LUMA[i] for i in range(3))
    return red + green + blue


def gray_mean(image: jax.Array) -> jax.Array:
    """The mean of the grey image, a scalar."""
    return gray(image).mean()


def adjust_brightness(image: jax.Array, factor: Any) -> jax.Array:
    """Multiplies; 0 gives black, 1 the image."""
    return jnp.clip(image * factor, 0, 1)


def adjust_contrast(image: jax.Array, factor: Any) -> jax.Array:
    """Moves away from the image's mean grey; 0 gives that grey, 1 the image."""
    return mix(gray_mean(image), image, factor)


def adjust_saturation(image: jax.Array, factor: Any) -> jax.Array:
    """Moves away from each pixel's grey; 0 gives the grey image, 1 the image."""
    return mix(gray(image), image, factor)


def adjust_sharpness(image: jax.Array, factor: Any) -> jax.Array:
    """Moves away from the smoothed image; 0 gives that, 1 the image, 2 a sharper one."""
    return mix(smooth(image), image, factor)


def adjust_hue(image: jax.Array, turn: Any) -> jax.Array:
    """Turns the hue by a fraction of the colour circle; 1/3 makes red green. RGB only."""
    most, least = image.max(-1), image.min(-1)
    spread = most - least
    safe = jnp.where(spread == 0, 1, spread)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    # Not ``most == red``: where the compiler computes a value twice, the two may differ in the
    # last bit, and neither channel would be the largest.
    hue = jnp.where(
        (red >= green) & (red >= blue),
        (green - blue) / safe,
        jnp.where(green >= blue, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue / 6 + turn
    # Smith's formula without cases: each channel is a trapezium over the circle.
    place = (hue[..., None] * 6 + jnp.asarray([[[5.0, 3.0, 1.0]]], image.dtype)) % 6
    depth = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
    return jnp.clip(most[..., None] - spread[..., None] * depth, 0, 1)


def posterize(image: jax.Array, bits: Any) -> jax.Array:
    """Keeps the highest ``bits`` (0 to 8) of eight-bit values."""
    step = 2.0 ** (8 - jnp.asarray(bits, image.dtype))
    return jnp.floor(_bytes(image) / step) * step / 255


def solarize(image: jax.Array, threshold: Any) -> jax.Array:
    """Inverts values from ``threshold`` (in [0, 1]) on."""
    return jnp.where(image >= threshold, 1 - image, image)


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretches each channel to [0, 1]; one of a single value stays."""
    least, most = (end(image, axis=(0, 1), keepdims=True) for end in (jnp.min, jnp.max))
    flat = least == most
    stretched = (image - jnp.where(flat, 0, least)) / jnp.where(flat, 1, most - least)
    return jnp.clip(stretched, 0, 1)


def equalize(image: jax.Array) -> jax.Array:
    """Spreads each channel's eight-bit values evenly, by its histogram, as Pillow does."""
    channels = image.shape[-1]
    # One table for all channels, one after the other: a histogram each is ten times slower.
    index = _bytes(image).astype(jnp.int32) + _LEVELS * jnp.arange(channels)[None, None]
    counts = jnp.zeros(channels * _LEVELS, jnp.int32).at[index.ravel()].add(1)
    counts = counts.reshape(channels, _LEVELS)
    total = jnp.cumsum(counts, axis=1)
    levels = jnp.arange(_LEVELS)[None]
    # The pixels of the highest value have none above to be told from.
    highest = jnp.where(counts > 0, levels, 0).max(1, keepdims=True)
    step = (total[:, -1:] - jnp.take_along_axis(counts, highest, axis=1)) // (_LEVELS - 1)
    spread = jnp.minimum((total - counts + step // 2) // jnp.maximum(step, 1), _LEVELS - 1)
    table = jnp.where(step == 0, levels, spread).ravel()
    return table.at[index].get(mode="promise_in_bounds").astype(image.dtype) / 255


def gaussian_blur(image: jax.Array, sigma: Any, radius: int) -> jax.Array:
    """Blurs, mirroring at the edges.

    Args:
      image: ``[H, W, C]``, each side longer than ``radius``.
      sigma: standard deviation, in pixels; above 0.
      radius: the kernel has ``2 * radius + 1`` pixels.
    """
    taps = jnp.arange(-radius, radius + 1, dtype=image.dtype)
    kernel = jnp.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    return separable(image, *(_band(kernel, side, radius) for side in image.shape[:2]))


def _band(kernel: jax.Array, side: int, radius: int) -> jax.Array:
    """The blur of a line as a matrix ``[side, side]``."""
    source = np.arange(side)[:, None] + np.arange(-radius, radius + 1)[None, :]
    source = (side - 1) - np.abs((side - 1) - np.abs(source))
    rows = np.broadcast_to(np.arange(side)[:, None], source.shape)
    weights = jnp.broadcast_to(kernel, source.shape)
    return jnp.zeros((side, side), kernel.dtype).at[rows, source].add(weights)


def smooth(image: jax.Array) -> jax.Array:
    """Pillow's SMOOTH filter, 3x3 with 5 in the middle; pixels at the edges stay."""
    height, width = image.shape[:2]
    if min(height, width) < 3:
        return image
    center = image[1:-1, 1:-1]
    box = sum(image[y : height - 2 + y, x : width - 2 + x] for y in range(3) for x in range(3))
    return image.at[1:-1, 1:-1].set((box + 4 * center) / 13)


def _bytes(image: jax.Array) -> jax.Array:
    # Values that were bytes come back exactly: their floats are off by less than a half.
    return jnp.round(image * 255)
