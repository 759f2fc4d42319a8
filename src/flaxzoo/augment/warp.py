"""Resampling of one image: an affine warp by gathering, a crop by two matrix products.

Measured for [32, 224, 224, 3] on two CPU cores: the warp takes 16 ms with
``jax.scipy.ndimage.map_coordinates`` (dm-pix's ``affine_transform``: 1 s). A crop as matrix
products takes 56 ms, but averages where it shrinks, stops at the edges of the crop, and runs on
the matrix units of an accelerator, on which gathers are slow.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

# Our names of borders, which are NumPy's, and SciPy's.
_MODES = {"nearest": "nearest", "reflect": "mirror"}


def identity() -> jax.Array:
    """The warp that changes nothing, float32 ``[2, 3]``."""
    return jnp.eye(2, 3)


def chain(first: jax.Array, second: jax.Array) -> jax.Array:
    """One warp that does ``first`` and then ``second``; each ``[2, 3]``.

    A warp leads from the result back to where its values come from, so the last one leads first.
    Written out: a matrix product would round to bfloat16 on some accelerators.
    """
    linear = (first[:, :2, None] * second[None, :, :2]).sum(1)
    offset = (first[:, :2] * second[:, 2][None]).sum(1) + first[:, 2]
    return jnp.concatenate([linear, offset[:, None]], axis=1)


def warp(image: jax.Array, matrix: jax.Array, fill: str | jax.Array) -> jax.Array:
    """Samples an image bilinearly.

    Args:
      image: ``[H, W, C]``.
      matrix: ``[2, 3]``; the value at ``(x, y)`` of the result comes from ``matrix @ (x, y, 1)``
        of the image, in pixels from its centre, x to the right and y down.
      fill: what lies outside: a colour ``[C]``, ``"nearest"`` (the edge goes on) or ``"reflect"``
        (mirrored at the centres of the edge pixels, as by ``numpy.pad``).

    Returns:
      ``[H, W, C]``.
    """
    height, width, _ = image.shape
    matrix = matrix.astype(image.dtype)
    # Halves are exact: the identity gives every pixel its own place, and the image comes out
    # bit for bit.
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    x = jnp.arange(width, dtype=matrix.dtype)[None, :] - center_x
    y = jnp.arange(height, dtype=matrix.dtype)[:, None] - center_y
    from_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + center_x
    from_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + center_y

    mode = _MODES[fill] if isinstance(fill, str) else "constant"

    def one(channel: jax.Array) -> jax.Array:
        return map_coordinates(channel, [from_y, from_x], order=1, mode=mode)

    sampled = jax.vmap(one, in_axes=-1, out_axes=-1)(image)
    if isinstance(fill, str):
        return sampled
    # The sampling filled up with 0: what share of each value came from inside is known.
    inside = _share(from_y, height) * _share(from_x, width)
    return sampled + (1 - inside)[..., None] * fill[None, None]


def _share(place: jax.Array, side: int) -> jax.Array:
    return jnp.clip(jnp.minimum(place + 1, side - place), 0, 1)


def resized_crop(
    image: jax.Array, top: Any, left: Any, height: Any, width: Any, size: tuple[int, int]
) -> jax.Array:
    """Cuts a box out and resizes it, bilinearly; averaging where it shrinks, as Pillow does.

    Args:
      image: ``[H, W, C]``.
      top: upper edge of the box, in pixels; like the others a number or a traced scalar.
      left: left edge of the box.
      height: height of the box.
      width: width of the box.
      size: ``(height, width)`` of the result.
    """
    rows = _weights(top, height, image.shape[0], size[0], image.dtype)
    columns = _weights(left, width, image.shape[1], size[1], image.dtype)
    return separable(image, rows, columns)


def separable(image: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """``rows @ image @ columns.T`` for each channel, in full precision."""
    high = jax.lax.Precision.HIGHEST
    image = jnp.einsum("yh,hwc->ywc", rows, image, precision=high)
    return jnp.einsum("xw,ywc->yxc", columns, image, precision=high)


def _weights(start: Any, length: Any, source: int, target: int, dtype: Any) -> jax.Array:
    """How much each source pixel counts for each of the resized crop, ``[target, source]``."""
    scale = length / jnp.asarray(target, dtype)
    center = (jnp.arange(target, dtype=dtype) + 0.5) * scale
    pixel = jnp.arange(source, dtype=dtype) - start + 0.5
    triangle = 1 - jnp.abs(pixel[None, :] - center[:, None]) / jnp.maximum(scale, 1)
    inside = (pixel > 0) & (pixel < length)
    weights = jnp.where(inside[None, :], jnp.maximum(triangle, 0), 0)
    return weights / weights.sum(1, keepdims=True)
