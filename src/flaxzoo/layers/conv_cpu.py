"""Convolutions and their gradients for CPUs, out of the operations that XLA runs well there.

XLA's CPU backend multiplies matrices and convolves forward close to the processor's limit, but
computes the gradient for a kernel as a convolution with the roles of batch and channels swapped,
at a third to a twentieth of it. Here that gradient is a product of matrices: of the patches that
the window sees and of the output's gradient. Convolutions with a 1 x 1 kernel are one product of
matrices in all three directions. The figures are in ``docs/performance.md``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

DIMENSIONS = ("NHWC", "HWIO", "NHWC")

# Patches of about this many bytes stay in the processor's caches between being written and read.
_PATCH_BYTES = 8 * 2**20

# Groups are joined to at most so many blocks, of at least so many channels where there are as many.
_MOST_BLOCKS = 8
_BLOCK_CHANNELS = 32


@dataclasses.dataclass(frozen=True)
class Window:
    """How a two-dimensional convolution moves over its input: along height, then width."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1


def plain(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """The convolution as XLA has it."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window.strides,
        window.padding,
        rhs_dilation=window.dilation,
        dimension_numbers=DIMENSIONS,
        feature_group_count=window.groups,
    )


def plain_input_gradient(
    gradient: jax.Array, kernel: jax.Array, *, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """The input's gradient as XLA has it."""
    x = jax.ShapeDtypeStruct(shape, gradient.dtype)
    (dx,) = jax.linear_transpose(lambda x: plain(x, kernel, window=window), x)(gradient)
    return dx


def plain_kernel_gradient(
    x: jax.Array, gradient: jax.Array, *, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """The kernel's gradient as XLA has it."""
    kernel = jax.ShapeDtypeStruct(shape, x.dtype)
    (dk,) = jax.linear_transpose(lambda kernel: plain(x, kernel, window=window), kernel)(gradient)
    return dk


def conv(x: jax.Array, kernel: jax.Array, *, window: Window) -> jax.Array:
    """Convolves ``[N, H, W, C]`` with ``[h, w, C / groups, features]``."""
    if window.groups > 1:
        return _conv_groups(x, kernel, window)
    if not _is_matmul(x.dtype, kernel.shape, window):
        if _is_narrow(x, kernel.shape, window):
            return _conv_pairs(x, kernel, window)
        return plain(x, kernel, window=window)
    x = _every(x, window.strides)
    y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
    return y.reshape(*x.shape[:3], kernel.shape[-1])


def input_gradient(
    gradient: jax.Array, kernel: jax.Array, *, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """The gradient for an input of ``shape``."""
    if window.groups > 1:
        return _input_gradient_groups(gradient, kernel, window, shape)
    if not _is_matmul(gradient.dtype, kernel.shape, window):
        height, width, channels, features = kernel.shape
        sizes = zip((height, width), window.padding, strict=True)
        pads = tuple((size - 1 - low, size - 1 - high) for size, (low, high) in sizes)
        around = dataclasses.replace(window, padding=pads)
        if _is_narrow(gradient, (height, width, features, channels), around):
            return _conv_pairs(gradient, kernel[::-1, ::-1].swapaxes(2, 3), around)
        return plain_input_gradient(gradient, kernel, window=window, shape=shape)
    dx = gradient.reshape(-1, gradient.shape[-1]) @ kernel[0, 0].T
    dx = dx.reshape(*gradient.shape[:3], shape[-1])
    if window.strides == (1, 1):
        return dx
    skipped = [
        (0, size - (n - 1) * stride - 1, stride - 1)
        for size, n, stride in zip(shape[1:3], dx.shape[1:3], window.strides, strict=True)
    ]
    return jax.lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *skipped, (0, 0, 0)])


def kernel_gradient(
    x: jax.Array, gradient: jax.Array, *, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """The gradient for a kernel of ``shape``."""
    if window.groups > 1:
        return _kernel_gradient_groups(x, gradient, window, shape)
    if _is_matmul(x.dtype, shape, window):
        return _product(_every(x, window.strides), gradient).reshape(shape)
    known = all(isinstance(size, int) for size in (*x.shape, *gradient.shape))
    if not known or not _is_exact(x.dtype) or 0 in (x.size, gradient.size):
        return plain_kernel_gradient(x, gradient, window=window, shape=shape)
    low_high = [(0, 0, 0), *((low, high, 0) for low, high in window.padding), (0, 0, 0)]
    if shape[2] <= 4:
        return _from_planes(x, gradient, low_high, window, shape)
    bands = shape[3] <= 64 <= shape[2] and window.strides == (1, 1)
    of_chunk = _from_bands if bands else _from_patches

    def of_padded(x: jax.Array, gradient: jax.Array) -> jax.Array:
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), low_high)
        return of_chunk(x, gradient, window, shape)

    images = _images_per_chunk(gradient, shape) * (2 if bands else 1)
    total = _over_chunks(of_padded, x, gradient, images)
    if bands:
        return total.reshape(shape[0], shape[3], *shape[1:3]).transpose(0, 2, 3, 1)
    return total.T.reshape(shape)


def _is_narrow(x: jax.Array, shape: tuple[int, ...], window: Window) -> bool:
    """Whether a kernel of ``shape`` has too few features for the width of XLA's product."""
    (low, high), width = window.padding[1], x.shape[2]
    return (
        window.strides == window.dilation == (1, 1)
        and 64 <= shape[2] <= 128
        and shape[3] == 64
        and _is_exact(x.dtype)
        # Padding of fewer than zero, which XLA's CPU backend gets wrong (jaxlib 0.10.2).
        and min(min(pair) for pair in window.padding) >= 0
        and isinstance(width, int)
        and (width + low + high - shape[1] + 1) % 2 == 0
    )


def _conv_pairs(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Two neighbouring columns of the output at once, as twice the features."""
    left, right = (
        jnp.pad(kernel, ((0, 0), (i, 1 - i), (0, 0), (0, 0)))  # The second column's is one further.
        for i in range(2)
    )
    both = jnp.concatenate([left, right], -1)
    y = plain(x, both, window=dataclasses.replace(window, strides=(1, 2)))
    return y.reshape(*y.shape[:2], 2 * y.shape[2], -1)


def _is_exact(dtype: Any) -> bool:
    # Sums of half-precision products keep the accuracy that XLA's convolution gives them.
    return dtype in (jnp.float32, jnp.float64)


def _is_matmul(dtype: Any, shape: tuple[int, ...], window: Window) -> bool:
    """Whether a kernel of ``shape`` sees one pixel at a time, all channels of it."""
    unpadded = not any(low or high for low, high in window.padding)
    return shape[:2] == (1, 1) and unpadded and _is_exact(dtype)


def _every(x: jax.Array, strides: tuple[int, ...]) -> jax.Array:
    """Every ``strides``-th row and column."""
    return jax.lax.slice(x, (0, 0, 0, 0), x.shape, (1, *strides, 1))


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    """``[..., M]`` and ``[..., N]`` to ``[M, N]``, summed over all that leads."""
    return a.reshape(-1, a.shape[-1]).T @ b.reshape(-1, b.shape[-1])


def _images_per_chunk(gradient: jax.Array, shape: tuple[int, ...]) -> int:
    patches = math.prod(gradient.shape[1:3]) * math.prod(shape[:3]) * gradient.dtype.itemsize
    return max(1, round(_PATCH_BYTES / patches))


def _over_chunks(of_chunk: Any, x: Any, gradient: Any, images: int) -> jax.Array:
    """Sums ``of_chunk(x, gradient)`` over equal chunks of at most so many images."""
    count = len(x)
    images = max(n for n in range(1, min(images, count) + 1) if count % n == 0)
    if images == count:
        # XLA would turn the product and its transpose into one that it is slower at.
        return jax.lax.optimization_barrier(of_chunk(x, gradient))
    chunks = [a.reshape(count // images, images, *a.shape[1:]) for a in (x, gradient)]
    part = jax.eval_shape(of_chunk, *(chunk[0] for chunk in chunks))
    total = jnp.zeros(part.shape, part.dtype)
    total, _ = jax.lax.scan(lambda total, chunk: (total + of_chunk(*chunk), None), total, chunks)
    return total


def _taps(x: jax.Array, axis: int, window: Window, taps: int, outputs: int) -> list[jax.Array]:
    """For each of the kernel's elements along an axis, what it sees of the padded input."""
    stride, dilation = window.strides[axis - 1], window.dilation[axis - 1]
    reach = (outputs - 1) * stride + 1
    starts = [i * dilation for i in range(taps)]
    return [jax.lax.slice_in_dim(x, start, start + reach, stride, axis) for start in starts]


def _from_patches(
    x: jax.Array, gradient: jax.Array, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """The gradient times the patches ``[..., h * w * C]``: ``[features, h * w * C]``."""
    height, width = gradient.shape[1:3]
    rows = _taps(x, 1, window, shape[0], height)
    patches = [tap for row in rows for tap in _taps(row, 2, window, shape[1], width)]
    # XLA's CPU backend is fast where the left operand's rows are what is summed last.
    turned = jax.lax.optimization_barrier(gradient.reshape(-1, shape[3]).T)
    seen = jnp.concatenate(patches, -1)
    return turned @ seen.reshape(-1, seen.shape[-1])


def _from_bands(
    x: jax.Array, gradient: jax.Array, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """The gradient where the kernel's rows see it, times what its columns see.

    With few channels the product of patches and gradient is too narrow to be fast. This one,
    ``[h * features, w * C]``, has as many multiplications, as a square. For strides of 1.
    """
    height, width = gradient.shape[1:3]
    seen = jnp.concatenate(_taps(x, 2, window, shape[1], width), -1)
    offsets = [i * window.dilation[0] for i in range(shape[0])]
    rest = x.shape[1] - height
    rows = [jnp.pad(gradient, ((0, 0), (i, rest - i), (0, 0), (0, 0))) for i in offsets]
    placed = jnp.concatenate(rows, -1)
    turned = jax.lax.optimization_barrier(placed.reshape(-1, placed.shape[-1]).T)
    return turned @ seen.reshape(-1, seen.shape[-1])


def _from_planes(
    x: jax.Array, gradient: jax.Array, low_high: Any, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    """Patches of an image's few channels, each a plane whose rows are contiguous."""
    height, width = gradient.shape[1:3]
    planes = x.transpose(0, 3, 1, 2)
    # One plane for each phase of the strides, so that what a tap sees is contiguous, too.
    low_high = [low_high[0], low_high[3], *low_high[1:3]]
    (down, right), (rows, columns) = window.strides, window.dilation

    def of_images(planes: jax.Array, gradient: jax.Array) -> jax.Array:
        padded = jax.lax.pad(planes, jnp.zeros((), x.dtype), low_high)
        phases = jax.lax.optimization_barrier(
            [[padded[..., i::down, j::right] for j in range(right)] for i in range(down)]
        )
        taps = []
        for i, j in ((i * rows, j * columns) for i in range(shape[0]) for j in range(shape[1])):
            phase = phases[i % down][j % right]
            top, left = i // down, j // right
            taps.append(phase[..., top : top + height, left : left + width])
        # [h * w, N, C, H', W'] with few channels: the sum over N and pixels is one product.
        seen = jnp.stack(taps).transpose(0, 2, 1, 3, 4)
        return seen.reshape(-1, gradient.size // shape[3]) @ gradient.reshape(-1, shape[3])

    images = _images_per_chunk(gradient, shape)
    return _over_chunks(of_images, planes, gradient, images).reshape(shape)


# XLA's CPU backend takes groups one after another, seconds for one layer's gradients. Here groups
# of few channels are joined to blocks, whose kernel is zero between groups: more multiplications,
# at the full speed of a convolution. An inf or NaN spreads within its block (0 * inf).


def _joined(groups: int, channels: int) -> int:
    """How many groups of so many channels one block has."""
    divisors = [n for n in range(1, groups + 1) if groups % n == 0]
    enough = (n for n in divisors if n * channels >= _BLOCK_CHANNELS)
    return max(next(enough, groups), next(n for n in divisors if groups // n <= _MOST_BLOCKS))


def _blocks(kernel: jax.Array, groups: int) -> list[jax.Array]:
    """A grouped kernel as those of its blocks, ``[h, w, C / blocks, features / blocks]``."""
    height, width, channels, features = kernel.shape
    joined = _joined(groups, channels)
    blocks = groups // joined
    parts = kernel.reshape(height, width, channels, blocks, joined, features // groups)
    parts = parts.transpose(3, 0, 1, 4, 2, 5)
    diagonal = jnp.eye(joined, dtype=kernel.dtype)[:, None, :, None]
    full = parts[..., None, :] * diagonal
    return list(full.reshape(blocks, height, width, joined * channels, -1))


def _conv_groups(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    kernels = _blocks(kernel, window.groups)
    parts = zip(jnp.split(x, len(kernels), -1), kernels, strict=True)
    alone = dataclasses.replace(window, groups=1)
    return jnp.concatenate([conv(x, kernel, window=alone) for x, kernel in parts], -1)


def _input_gradient_groups(
    gradient: jax.Array, kernel: jax.Array, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    kernels = _blocks(kernel, window.groups)
    parts = zip(jnp.split(gradient, len(kernels), -1), kernels, strict=True)
    alone = dataclasses.replace(window, groups=1)
    one = (*shape[:3], shape[3] // len(kernels))
    return jnp.concatenate(
        [input_gradient(g, kernel, window=alone, shape=one) for g, kernel in parts], -1
    )


def _kernel_gradient_groups(
    x: jax.Array, gradient: jax.Array, window: Window, shape: tuple[int, ...]
) -> jax.Array:
    height, width, channels, features = shape
    joined = _joined(window.groups, channels)
    blocks = window.groups // joined
    parts = zip(jnp.split(x, blocks, -1), jnp.split(gradient, blocks, -1), strict=True)
    alone = dataclasses.replace(window, groups=1)
    full = (height, width, joined * channels, features // blocks)
    dk = jnp.stack([kernel_gradient(x, g, window=alone, shape=full) for x, g in parts])
    dk = dk.reshape(blocks, height, width, joined, channels, joined, -1)
    # What lies between groups is no parameter.
    diagonal = jnp.diagonal(dk, axis1=3, axis2=5)
    return diagonal.transpose(1, 2, 3, 0, 5, 4).reshape(shape)
