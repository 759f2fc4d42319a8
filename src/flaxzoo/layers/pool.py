"""Pooling with PyTorch's padding, and the blur of anti-aliased networks."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.layers.lowering.avg_pool import mean_of_tiles
from flaxzoo.layers.lowering.max_pool import max_pool_2d


def max_pool(
    x: jax.Array, size: int = 3, stride: int = 2, padding: int = 1, *, ceil: bool = False
) -> jax.Array:
    """Takes the maximum over windows of ``[B, H, W, C]``; the padding never wins.

    Args:
      x: maps.
      size: the windows' height and width.
      stride: the distances between windows.
      padding: the positions around the map.
      ceil: whether a last window is taken that reaches past the edge (PyTorch's ``ceil_mode``).
    """
    ends = [_reach(n, size, stride, padding) if ceil else padding for n in x.shape[1:3]]
    pad = ((padding, ends[0]), (padding, ends[1]))
    return max_pool_2d(x, (size, size), (stride, stride), pad)


def _reach(length: int, size: int, stride: int, padding: int) -> int:
    """Returns how far the last window reaches past the end of an axis; it begins before that."""
    last = -(-(length + 2 * padding - size) // stride) * stride
    if last >= length + padding:
        last -= stride
    return max(last, 0) + size - length - padding


def avg_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    """Averages windows of ``[B, H, W, C]``; the padding's zeros count, as PyTorch's default."""
    if size == stride and not padding:
        return mean_of_tiles(x, size)
    pad = ((padding, padding), (padding, padding))
    return nn.avg_pool(x, (size, size), strides=(stride, stride), padding=pad)


def max_pool_same(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Takes the maximum over windows of ``[B, H, W, C]``, with the padding of TensorFlow."""
    return max_pool_2d(x, (size, size), (stride, stride), _same(x, size, stride))


def avg_pool_same(x: jax.Array, size: int, stride: int) -> jax.Array:
    """Averages windows of ``[B, H, W, C]``, with the padding of TensorFlow, as timm does.

    At stride 1 windows average the pixels that there are; else the padding's zeros count.
    """
    if stride == 1:
        return neighbour_mean(x, size)
    rows, columns = _same(x, size, stride)
    return avg_pool(jnp.pad(x, ((0, 0), rows, columns, (0, 0))), size, stride)


def _same(x: jax.Array, size: int, stride: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the positions before and after each axis."""
    rows, columns = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    return rows, columns


def neighbour_mean(x: jax.Array, size: int, stride: int = 1) -> jax.Array:
    """Averages the ``size x size`` neighbours of each pixel of ``[B, H, W, C]`` that there are.

    It is PyTorch's ``AvgPool2d(size, stride, padding=size // 2, count_include_pad=False)``.
    ``size`` is odd; of every ``stride`` rows and columns the first stays.
    """
    reach = size // 2
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    for axis in (1, 2):
        length = x.shape[axis]
        pads = [(reach, reach) if i == axis else (0, 0) for i in range(x.ndim)]
        padded = jnp.pad(wide, pads)
        slices = (jax.lax.slice_in_dim(padded, i, i + length, stride, axis) for i in range(size))
        wide = functools.reduce(jnp.add, slices)
    rows, columns = (_neighbours(length, reach)[::stride] for length in x.shape[1:3])
    shares = (1 / np.multiply.outer(rows, columns))[None, :, :, None]
    return (wide * shares.astype(wide.dtype)).astype(x.dtype)


def _neighbours(length: int, reach: int) -> np.ndarray:
    """Returns how many positions of an axis are near each, itself included."""
    places = np.arange(length)
    return np.minimum(places, reach) + np.minimum(length - 1 - places, reach) + 1


def adaptive_avg_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Averages ``[B, H, W, C]`` to ``[B, *size, C]``, a smaller or larger size, as PyTorch does.

    Row ``i`` of ``n`` averages those from ``floor(i * H / n)`` to before ``ceil((i + 1) * H / n)``,
    so that windows overlap where ``n`` does not divide ``H``.
    """
    for axis, after in ((1, size[0]), (2, size[1])):
        before = x.shape[axis]
        if before != after:
            starts = [i * before // after for i in range(after)]
            stops = [-(-(i + 1) * before // after) for i in range(after)]
            means = [
                jax.lax.slice_in_dim(x, start, stop, axis=axis).mean(axis, keepdims=True)
                for start, stop in zip(starts, stops, strict=True)
            ]
            x = jnp.concatenate(means, axis)
    return x


def shortcut_pool(x: jax.Array, stride: int) -> jax.Array:
    """Averages 2 x 2 pixels, as the D variant's shortcut does (Bag of Tricks, fig. 2c).

    At stride 2 an odd last row or column is averaged alone (PyTorch's ``ceil_mode`` without
    counting the padding). At stride 1, in dilated stages, a row and a column of zeros are added
    and counted, as timm's ``AvgPool2dSame`` does. https://arxiv.org/abs/1812.01187
    """
    if stride == 1:
        return nn.avg_pool(x, (2, 2), strides=(1, 1), padding=((0, 1), (0, 1)))
    # XLA on CPU sums padded windows wrongly where a side of a large batch is 1 (jaxlib 0.10.2).
    window = tuple(min(stride, size) for size in x.shape[1:3])
    pad = tuple((0, -size % n) for size, n in zip(x.shape[1:3], window, strict=True))
    pooled = nn.avg_pool(x, window, strides=window, padding=pad, count_include_pad=False)
    # Flax counts in float64 where JAX has it.
    return pooled.astype(jnp.promote_types(x.dtype, jnp.float32))


def blur_pool(x: jax.Array, stride: int = 2, *, edges: str = "reflect") -> jax.Array:
    """Blurs by a binomial 3 x 3 kernel, and takes every ``stride``-th pixel.

    "Making Convolutional Networks Shift-Invariant Again", https://arxiv.org/abs/1904.11486

    Args:
      x: maps ``[B, H, W, C]``.
      stride: the distance between pixels that stay.
      edges: what lies around the map, as ``jax.numpy.pad`` takes it: ``"reflect"``, its own pixels,
        or ``"constant"``, zeros.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=edges)
    for axis in (1, 2):
        # (1, 2, 1) / 4 along one axis after the other is the outer product's blur.
        size = x.shape[axis] - 2
        before, middle, after = (
            jax.lax.slice_in_dim(x, i, i + size, stride, axis) for i in range(3)
        )
        x = before * 0.25 + middle * 0.5 + after * 0.25
    return x


def anti_alias(x: jax.Array, kind: str, stride: int) -> jax.Array:
    """Reduces the size by ``stride`` with little aliasing.

    Args:
      x: maps ``[B, H, W, C]``.
      kind: ``"avg"``; ``"blur"``, which reflects the map at its edges; or ``"blur_zeros"``, which
        has zeros around it.
      stride: by how much the map becomes smaller.
    """
    if kind == "avg":
        return avg_pool(x, stride, stride)
    return blur_pool(x, stride, edges="constant" if kind == "blur_zeros" else "reflect")
