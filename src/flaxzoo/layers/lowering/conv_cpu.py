"""Convolutions and their gradients for CPUs, out of the operations that XLA runs well there.

XLA's CPU backend has two libraries for convolutions and takes YNNPACK where it can; Eigen is the
faster one but for few channels. YNNPACK takes no input with zeros between its rows. So what Eigen
is to compute is written as a convolution over such an input that sees every other row of it, none
of the zeros: the same products and sums. Gradients are convolutions of transposed arrays, all in
the one layout that the backend is fast at also within loops. A kernel of 1 x 1 is one product of
matrices in all three directions. The figures are in ``docs/performance.md``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flaxzoo.layers.lowering import depthwise_cpu
from flaxzoo.layers.lowering.window import MATMUL, Window, output_size

DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Eigen reads spread rows one number at a time, which takes longer than it saves below these; the
# second number of features is that for maps of at least so many pixels.
_EIGEN_CHANNELS = 16
_EIGEN_FEATURES, _EIGEN_FEATURES_OF_MAPS = 32, 24
_EIGEN_MAPS = 400

# Groups are joined to blocks of at least so many channels, and to few blocks, which compile sooner,
# for as long as blocks do not become wider: than the last number, for a kernel's gradient.
_BLOCK_CHANNELS = 16
_MOST_BLOCKS = 16
_MOST_CHANNELS, _MOST_CHANNELS_OF_KERNELS = 64, 32


def plain(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """Convolves as XLA does."""
    if window == MATMUL:
        return x @ kernel
    return _convolve(x, kernel, window, eigen=False)


def plain_input_gradient(
    gradient: jax.Array, kernel: jax.Array, *, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """Computes the input's gradient as XLA does."""
    x = jax.ShapeDtypeStruct(shape, gradient.dtype)
    (dx,) = jax.linear_transpose(lambda x: plain(x, kernel, window=window), x)(gradient)
    return dx


def plain_kernel_gradient(
    x: jax.Array, gradient: jax.Array, *, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """Computes the kernel's gradient as XLA does."""
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    (dk,) = jax.linear_transpose(lambda kernel: plain(x, kernel, window=window), kernel)(gradient)
    return dk


def conv(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """Convolves ``[N, H, W, C]`` with ``[h, w, C / groups, features]``."""
    if window == MATMUL:
        return _rows_times(x, kernel)
    if _is_depthwise(x.dtype, x.shape, kernel.shape, window):
        return depthwise_cpu.conv(x, kernel, window)
    blocks = _block_count(kernel.shape, window)
    if blocks:
        kernels = _joined(kernel, window.groups, blocks)
        parts = zip(jnp.split(x, blocks, -1), kernels, strict=True)
        return jnp.concatenate([conv(a, k, window=_alone(window)) for a, k in parts], -1)
    if _is_matmul(x.dtype, kernel.shape, window):
        x = _every(x, window.strides)
        y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
        return y.reshape(*x.shape[:3], kernel.shape[-1])
    sizes = output_size(x.shape, kernel.shape, window)
    eigen = kernel.shape[2] >= _EIGEN_CHANNELS and _is_wide(kernel.shape[3] // window.groups, sizes)
    return _convolve(x, kernel, window, eigen=eigen)


def input_gradient(
    gradient: jax.Array, kernel: jax.Array, *, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """Computes the gradient for an input of ``shape``."""
    if window == MATMUL:
        return _rows_times(gradient, kernel.T)
    if _is_depthwise(gradient.dtype, shape, kernel.shape, window):
        return depthwise_cpu.input_gradient(gradient, kernel, window, shape)
    blocks = _block_count(kernel.shape, window)
    if blocks:
        kernels = _joined(kernel, window.groups, blocks)
        parts = zip(jnp.split(gradient, blocks, -1), kernels, strict=True)
        one = (*shape[:3], shape[3] // blocks)
        return jnp.concatenate(
            [input_gradient(g, k, window=_alone(window), shape=one) for g, k in parts], -1
        )
    if _is_matmul(gradient.dtype, kernel.shape, window):
        dx = gradient.reshape(-1, gradient.shape[-1]) @ kernel[0, 0].T
        return _spread(dx.reshape(*gradient.shape[:3], shape[-1]), window.strides, shape)
    # The same window seen from the input: a kernel that is turned, its features and channels
    # swapped, over a gradient with as many zeros between its pixels as the window skipped.
    *sizes, channels, features = kernel.shape
    each = features // window.groups
    turned = kernel[::-1, ::-1].reshape(*sizes, channels, window.groups, each).swapaxes(2, 4)
    turned = turned.reshape(*sizes, each, shape[3])
    pads = tuple(
        ((k - 1) * d - low, size - 1 - (n - 1) * stride + low)
        for k, d, size, n, stride, (low, _) in zip(
            sizes,
            window.dilation,
            shape[1:3],
            gradient.shape[1:3],
            window.strides,
            window.padding,
            strict=True,
        )
    )
    if not (_is_exact(gradient.dtype) and _are_static(pads)) or 0 in gradient.shape:
        return plain_input_gradient(gradient, kernel, window=window, shape=shape)
    around = Window((1, 1), pads, window.dilation, window.groups)
    eigen = each >= _EIGEN_CHANNELS and _is_wide(channels, shape[1:3])
    return _convolve(gradient, turned, around, spread=window.strides, eigen=eigen)


def kernel_gradient(
    x: jax.Array, gradient: jax.Array, *, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """Computes the gradient for a kernel of ``shape``."""
    if window == MATMUL:
        return _product(x, gradient)
    if _is_depthwise(x.dtype, x.shape, shape, window):
        return depthwise_cpu.kernel_gradient(x, gradient, window, shape)
    blocks = _block_count(shape, window, _MOST_CHANNELS_OF_KERNELS)
    if blocks:
        parts = zip(jnp.split(x, blocks, -1), jnp.split(gradient, blocks, -1), strict=True)
        joined = window.groups // blocks
        one = (*shape[:2], shape[2] * joined, shape[3] // blocks)
        each_block = [kernel_gradient(a, g, window=_alone(window), shape=one) for a, g in parts]
        return _unjoined(jnp.stack(each_block), joined, shape)
    if _is_matmul(x.dtype, shape, window):
        return _product(_every(x, window.strides), gradient).reshape(shape)
    # Channels are the images of this convolution and images its channels; a window of the
    # gradient's size moves over the input by as much as the kernel's elements are apart.
    count, *sizes, channels = x.shape
    each = channels // window.groups
    swapped = x.reshape(count, *sizes, window.groups, each).transpose(4, 1, 2, 3, 0)
    swapped = swapped.reshape(each, *sizes, window.groups * count)
    pads = tuple(
        (low, (k - 1) * d + (n - 1) * stride + 1 - size - low)
        for k, d, n, stride, size, (low, _) in zip(
            shape[:2],
            window.dilation,
            gradient.shape[1:3],
            window.strides,
            x.shape[1:3],
            window.padding,
            strict=True,
        )
    )
    if not (_is_exact(x.dtype) and _are_static(pads)) or 0 in (*x.shape, *gradient.shape):
        return plain_kernel_gradient(x, gradient, window=window, shape=shape)
    across = Window(window.dilation, pads, window.strides, window.groups)
    eigen = _is_wide(shape[3] // window.groups, gradient.shape[1:3])
    turned = _convolve(swapped, gradient.transpose(1, 2, 0, 3), across, eigen=eigen)
    return turned.transpose(1, 2, 0, 3)


# In programs for several devices, among which the images are divided: what makes one axis of the
# images and another one, or sums over the rows of all images together, would bring them all to
# every device.


def conv_divided(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """Computes ``conv``."""
    return plain(x, kernel, window=window) if window == MATMUL else conv(x, kernel, window=window)


def input_gradient_divided(
    gradient: jax.Array, kernel: jax.Array, *, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """Computes ``input_gradient``."""
    function = plain_input_gradient if window == MATMUL else input_gradient
    return function(gradient, kernel, window=window, shape=shape)


def kernel_gradient_divided(
    x: jax.Array, gradient: jax.Array, *, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """Computes ``kernel_gradient``."""
    if window == MATMUL and x.ndim > 2:
        return plain_kernel_gradient(x, gradient, window=window, shape=shape)
    if window != MATMUL and _is_depthwise(x.dtype, x.shape, shape, window):
        return depthwise_cpu.kernel_gradient_by_image(x, gradient, window, shape)
    return kernel_gradient(x, gradient, window=window, shape=shape)


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    window: Window,
    *,
    spread: tuple[int, ...] = (1, 1),
    eigen: bool,
) -> jax.Array:
    """Convolves an input with ``spread - 1`` zeros between its pixels, by Eigen or not."""
    strides, padding, dilation = window.strides, window.padding, window.dilation
    if eigen and spread == (1, 1) and x.dtype == jnp.float32:
        # Another row of zeros between rows, twice the distances, the same numbers.
        (low, high), columns = padding
        spread, padding = (2, 1), ((2 * low, 2 * high), columns)
        strides, dilation = (2 * strides[0], strides[1]), (2 * dilation[0], dilation[1])
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        lhs_dilation=spread,
        rhs_dilation=dilation,
        dimension_numbers=DIMENSIONS,
        feature_group_count=window.groups,
    )


def _is_wide(features: int, sizes: Sequence[Any]) -> bool:
    """Whether Eigen is the faster one for so many features of maps of a height and a width."""
    large = all(isinstance(n, int) for n in sizes) and math.prod(sizes) >= _EIGEN_MAPS
    return features >= (_EIGEN_FEATURES_OF_MAPS if large else _EIGEN_FEATURES)


def _is_exact(dtype: Any) -> bool:
    # Sums of half-precision products keep the accuracy that XLA's convolution gives them.
    return dtype in (jnp.float32, jnp.float64)


def _are_static(pads: tuple[tuple[Any, Any], ...]) -> bool:
    # Not while a program for images of any size is exported.
    return all(isinstance(size, int) for pair in pads for size in pair)


def _is_matmul(dtype: Any, shape: tuple[int, ...], window: Window) -> bool:
    """Whether a kernel of ``shape`` sees one pixel at a time, all channels of it."""
    unpadded = not any(low or high for low, high in window.padding)
    return window.groups == 1 and shape[:2] == (1, 1) and unpadded and _is_exact(dtype)


def _every(x: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    """Every ``strides``-th row and column."""
    return jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, *strides, 1))


def _spread(x: jax.Array, strides: tuple[int, ...], shape: tuple[int, ...]) -> jax.Array:
    """An array of ``shape`` with ``x`` in every ``strides``-th row and column, and zeros."""
    if strides == (1, 1):
        return x
    skipped = [
        (0, size - (n - 1) * stride - 1, stride - 1)
        for size, n, stride in zip(shape[1:3], x.shape[1:3], strides, strict=True)
    ]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *skipped, (0, 0, 0)])


def _is_depthwise(
    dtype: Any, images: tuple[Any, ...], kernel: tuple[int, ...], window: Window
) -> bool:
    """Whether each channel has a kernel of its own, and arrays of these shapes are summed."""
    *sizes, width, features = kernel
    wide = width == 1 and features == window.groups >= _BLOCK_CHANNELS
    static = _are_static((*window.padding, images[1:3])) and 0 not in images
    if not (_is_exact(dtype) and wide and math.prod(sizes) <= depthwise_cpu.MOST_TERMS and static):
        return False
    # How far the first window can move; with a negative number it does not fit.
    free = (
        n + low + high - (k - 1) * d - 1
        for n, (low, high), k, d in zip(
            images[1:3], window.padding, sizes, window.dilation, strict=True
        )
    )
    return min(free) >= 0


def _rows_times(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies ``[..., M]`` and ``[M, N]`` as two matrices."""
    if x.ndim == 2:
        return x @ kernel
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiplies ``[..., M]`` and ``[..., N]`` to ``[M, N]``, summed over all that leads."""
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    rows, width = a.shape
    if width <= b.shape[1] or rows < width:
        return a.T @ b
    # XLA is up to twice as fast with the narrower one at the left, and would turn it back. Of few
    # rows the product takes no longer than turning the result does.
    return jax.lax.optimization_barrier(b.T @ a).T


# XLA's CPU backend is slow on groups of few channels. Here they are joined to blocks, whose kernel
# is zero between groups: more multiplications, at the full speed of a convolution. An inf or NaN
# spreads within its block (0 * inf).


def _block_count(shape: tuple[int, ...], window: Window, most: int = _MOST_CHANNELS) -> int:
    """Returns into how many blocks a kernel's groups are joined; 0 where they stay.

    Args:
      shape: the kernel's.
      window: how it moves.
      most: the channels of a block that is joined only so that there are few of them.
    """
    groups, channels = window.groups, shape[2]
    joins = [n for n in range(1, groups + 1) if groups % n == 0]
    wide = next((n for n in joins if n * channels >= _BLOCK_CHANNELS), groups)
    if groups == 1 or (groups // wide > _MOST_BLOCKS and channels >= 2 * _BLOCK_CHANNELS):
        return 0
    few = next(n for n in joins if groups // n <= _MOST_BLOCKS)
    narrow = max(n for n in joins if n == 1 or n * channels <= most)
    return groups // max(wide, min(few, narrow))


def _alone(window: Window) -> Window:
    return dataclasses.replace(window, groups=1)


def _joined(kernel: jax.Array, groups: int, blocks: int) -> jax.Array:
    """Joins a grouped kernel to its blocks': ``[blocks, h, w, C / blocks, features / blocks]``."""
    height, width, channels, features = kernel.shape
    joined = groups // blocks
    parts = kernel.reshape(height, width, channels, blocks, joined, features // groups)
    parts = parts.transpose(3, 0, 1, 4, 2, 5)
    diagonal = jnp.eye(joined, dtype=kernel.dtype).reshape(1, 1, 1, joined, 1, joined, 1)
    full = parts[..., None, :] * diagonal
    return full.reshape(blocks, height, width, joined * channels, -1)


def _unjoined(kernels: jax.Array, joined: int, shape: tuple[int, ...]) -> jax.Array:
    """Takes the kernel of ``shape`` out of its blocks', without what lies between groups."""
    blocks, height, width = kernels.shape[:3]
    parts = kernels.reshape(blocks, height, width, joined, shape[2], joined, -1)
    diagonal = jnp.diagonal(parts, axis1=3, axis2=5)
    return diagonal.transpose(1, 2, 3, 0, 5, 4).reshape(shape)
