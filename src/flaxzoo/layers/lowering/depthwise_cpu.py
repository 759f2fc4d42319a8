"""Depthwise convolutions and their gradients for CPUs, as sums over shifted arrays.

XLA's CPU backend has no depthwise convolution. But it writes an elementwise sum of many terms as
one loop over the last axis, on all cores, in vectors; so each direction is such sums. The output is
one over the kernel's elements, of the input that an element sees times that element. The input's
gradient is one for each of the places that a pixel can have between two windows. The kernel's
gradient is one over rows: some of them first, then what these leave. The figures are in
``docs/performance.md``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from flaxzoo.layers.lowering.window import Window, output_size
from flaxzoo.layers.lowering.written import written

# More terms than a kernel of 11 x 11 has take longer to compile than they save.
MOST_TERMS = 121

# LLVM makes no vectors of a loop over more pairs of rows than these.
_MOST_ROWS = 14

# XLA computes what a loop reads within it, once for each read, if there are fewer of these.
_MANY_TERMS = range(16, 33)

Pads = Sequence[tuple[int, int]]
# A kernel's element and the row and column of the first pixel that it sees.
Tap = tuple[jax.Array, int, int]


def conv(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Convolves each channel of ``[N, H, W, C]`` with its own of ``[h, w, 1, C]``."""
    rows, columns = kernel.shape[:2]
    down, right = window.dilation
    size = output_size(x.shape, kernel.shape, window)
    taps = ((kernel[i, j, 0], i * down, j * right) for i in range(rows) for j in range(columns))
    return _sum_of_shifts(_pad(x, window.padding), taps, size, window.strides)


def input_gradient(
    gradient: jax.Array, kernel: jax.Array, window: Window, shape: Sequence[int]
) -> jax.Array:
    """Computes the gradient for an input of ``shape``.

    With a stride of 2 every second pixel is seen by the same elements of the kernel, and so there
    is one sum for each of four kinds of pixels, which are then put side by side.
    """
    images, *sizes, channels = shape
    seen, counts, around = _places(kernel.shape, window, sizes, gradient.shape)
    (top, _), (left, _) = around
    gradient = _pad(gradient, around)
    rows = []
    for by_row in seen[0]:
        row = []
        for by_column in seen[1]:
            taps = [
                (kernel[i, j, 0], down + top, right + left)
                for i, down in by_row
                for j, right in by_column
            ]
            row.append(_sum_of_shifts(gradient, taps, counts, (1, 1)))
        rows.append(jnp.stack(row, 3))
    full = [count * s for count, s in zip(counts, window.strides, strict=True)]
    return jnp.stack(rows, 2).reshape(images, *full, channels)[:, : sizes[0], : sizes[1]]


def kernel_gradient(
    x: jax.Array, gradient: jax.Array, window: Window, shape: Sequence[int]
) -> jax.Array:
    """Computes the gradient for a kernel of ``shape``.

    Of all the kernel's elements at once, one loop multiplies blocks of the gradient's rows by the
    input's and adds up the rows of each; what these leave is then added up.
    """
    images, height, width, channels = gradient.shape
    sizes, (down, across) = x.shape[1:3], window.strides
    block = height
    if height > _MOST_ROWS:
        some = range(_MOST_ROWS // 2, _MOST_ROWS + 1)
        block = min(some, key=lambda rows: (-height % rows, -rows))
    blocks = -(-height // block)
    # The zeros that the other directions have as well, so that they are made once; and below them
    # the rows that the last block may lack.
    lacking = blocks * block - height
    (low, high), columns = window.padding
    x_rows = (height + lacking - 1) * down + (shape[0] - 1) * window.dilation[0] + 1
    x = _pad(x, ((low, max(high, x_rows - sizes[0] - low)), columns))
    *_, ((top, bottom), (left, right)) = _places(shape, window, sizes, gradient.shape)
    gradient = _pad(gradient, ((top, max(bottom, lacking)), (left, right)))
    # By the kernel's row and column, the images as its element sees them.
    seen = _turned(x.reshape(-1, channels), shape[1], window.dilation[1])
    seen = _turned(seen.reshape(-1, channels), shape[0], window.dilation[0] * x.shape[2])
    seen = seen.reshape(*shape[:2], *x.shape)
    terms = (
        seen[:, :, :, _every(block * down, blocks, r * down), _every(across, width, 0)]
        * gradient[None, None, :, _every(block, blocks, top + r), left : left + width]
        for r in range(block)
    )
    sums = jax.lax.optimization_barrier(functools.reduce(jnp.add, terms))
    return _sum(sums.reshape(-1, images * blocks * width, channels)).reshape(shape)


def kernel_gradient_by_image(
    x: jax.Array, gradient: jax.Array, window: Window, shape: Sequence[int]
) -> jax.Array:
    """Computes ``kernel_gradient`` with all sums within images but the last.

    Where images are divided among devices, the rows of several are not to be brought together.
    """
    size = gradient.shape[1:3]
    x = _pad(x, window.padding)
    rows, columns = ((n - 1) * s + 1 for n, s in zip(size, window.strides, strict=True))
    down, right = window.dilation
    sums = [
        (_window(x, i * down, rows, j * right, columns, window.strides) * gradient).sum((1, 2))
        for i in range(shape[0])
        for j in range(shape[1])
    ]
    return jnp.stack(sums).sum(1).reshape(shape)


def _window(
    x: jax.Array, top: int, rows: int, left: int, columns: int, strides: Sequence[int]
) -> jax.Array:
    return x[:, top : top + rows : strides[0], left : left + columns : strides[1]]


def _every(distance: int, count: int, first: int) -> slice:
    """The places of ``count`` rows or columns, ``distance`` apart."""
    return slice(first, first + (count - 1) * distance + 1, distance)


def _places(
    kernel: Sequence[int], window: Window, sizes: Sequence[int], outputs: Sequence[int]
) -> tuple[list[list[list[tuple[int, int]]]], list[int], Pads]:
    """Returns what an input's pixels are seen by.

    Args:
      kernel: its shape.
      window: how it moves.
      sizes: the input's height and width.
      outputs: the output's shape.

    Returns:
      For both axes, for each of the places that a pixel can have between two windows, the kernel's
      elements that see it there and by how many outputs the window is further than the pixel's;
      how many pixels have each place; the zeros around the output that this takes.
    """
    seen, counts, around = [], [], []
    for axis, (low, _) in enumerate(window.padding):
        stride, step = window.strides[axis], window.dilation[axis]
        places = [
            [
                (i, (place + low - i * step) // stride)
                for i in range(kernel[axis])
                if (place + low - i * step) % stride == 0
            ]
            for place in range(stride)
        ]
        count = -(-sizes[axis] // stride)
        moves = [move for place in places for _, move in place]
        seen.append(places)
        counts.append(count)
        around.append((max(0, -min(moves)), max(0, max(moves) + count - outputs[1 + axis])))
    return seen, counts, around


def _pad(x: jax.Array, padding: Pads) -> jax.Array:
    """Returns the images with zeros around them, or less of them where a number is negative.

    Where there would be none of them there is one more column, for what has zeros around it XLA
    computes once. What made the images is else computed in the loop that reads them, at each shift.
    """
    above, (left, right) = padding
    right += not any((*above, left, right))
    pads = [(0, 0, 0), (*above, 0), (left, right, 0), (0, 0, 0)]
    # Nor is what makes them looked up behind the zeros.
    return jax.lax.optimization_barrier(jax.lax.pad(x, jnp.zeros((), x.dtype), pads))


def _sum_of_shifts(
    x: jax.Array, taps: Iterable[Tap], size: Sequence[int], strides: Sequence[int]
) -> jax.Array:
    """Adds up a map of ``size`` by one loop over shifted inputs, each times its element."""
    rows, columns = ((n - 1) * s + 1 for n, s in zip(size, strides, strict=True))
    terms = [
        _window(x, i, rows, j, columns, strides) * element.reshape(1, 1, 1, -1)
        for element, i, j in taps
    ]
    if not terms:
        return jnp.zeros((x.shape[0], *size, x.shape[3]), x.dtype)
    # Nor is the sum to be made again for each that it is used by.
    return written(functools.reduce(jnp.add, terms))


def _turned(x: jax.Array, count: int, step: int) -> jax.Array:
    """Returns ``[count, rows, ...]``: the ``i``-th begins ``i * step`` rows later, and goes round.

    Copies in a row, cut to longer rows than theirs: to a loop that reads them this is an index, and
    no copy is made.
    """
    rows, *rest = x.shape
    longer = rows + step
    copies = -(-count * longer // rows)
    flat = jnp.broadcast_to(x[None], (copies, *x.shape)).reshape(copies * rows, *rest)
    return flat[: count * longer].reshape(count, longer, *rest)[:, :rows]


def _sum(x: jax.Array) -> jax.Array:
    """Adds up ``[count, rows, C]`` over rows, by loops over some rows at a time."""
    count, rows, channels = x.shape
    while rows > 1:
        block = rows
        if rows > _MANY_TERMS[-1]:
            block = min(_MANY_TERMS, key=lambda size: (-rows % size, size))
        blocks = -(-rows // block)
        x = jnp.pad(x, ((0, 0), (0, blocks * block - rows), (0, 0)))
        x = x.reshape(count, blocks, block, channels)
        total = functools.reduce(jnp.add, (x[:, :, r] for r in range(block)))
        x, rows = jax.lax.optimization_barrier(total), blocks
    return x[:, 0]
