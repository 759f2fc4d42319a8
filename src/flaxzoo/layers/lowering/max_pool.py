"""Max-pooling whose gradient goes the way the maximum came.

XLA's gradient of a pooled maximum searches each window again (select-and-scatter), on CPUs at a
twentieth of the speed of memory. Here the search keeps the index of what won.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.layers.lowering.switch import is_plain
from flaxzoo.layers.lowering.written import written

Pair = tuple[int, int]


def max_pool_2d(x: jax.Array, size: Pair, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    """Takes the maximum over windows of ``[..., H, W, C]``; NaN where a window holds one.

    Of equal values in a window the first one, by rows, takes the gradient: what PyTorch and XLA
    do, also. A window's last NaN takes it on CPUs, as in PyTorch; in XLA what comes after it may.

    Args:
      x: inputs ``[..., H, W, C]``.
      size: the windows' height and width.
      strides: the distances between windows, along height and width.
      padding: the numbers of positions, which never win, before and after each axis.

    Returns:
      ``[..., H', W', C]``.
    """
    *batch, height, width, channels = x.shape
    images = x.reshape(math.prod(batch), height, width, channels)
    out = jax.eval_shape(lambda x: nn.max_pool(x, size, strides, padding), images).shape
    if is_plain() or 0 in out or not jnp.issubdtype(x.dtype, jnp.floating):
        pooled = nn.max_pool(images, size, strides, padding)
    else:
        pooled = _max_pool(images, size, strides, padding)
    return pooled.reshape(*batch, *out[1:])


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, size: Pair, strides: Pair, padding: tuple[Pair, Pair]) -> jax.Array:
    return jax.lax.platform_dependent(
        x,
        cpu=lambda x: _search(x, size, strides, padding)[0],
        default=lambda x: _plain(x, size, strides, padding),
    )


@_max_pool.defjvp
def _max_pool_jvp(size: Pair, strides: Pair, padding: Any, primals: Any, tangents: Any) -> Any:
    def on_cpu(x: jax.Array, tangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        best, index = _search(x, size, strides, padding)
        index = written(index)
        taps = _taps(tangent, 0, best.shape, size, strides, padding)
        zero = jnp.zeros((), tangent.dtype)
        moved = (jnp.where(index == i, tap, zero) for i, tap in enumerate(taps))
        # So that the gradient that comes back is not made anew for each tap.
        return best, written(sum(moved, zero))

    def default(x: jax.Array, tangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(lambda x: _plain(x, size, strides, padding), (x,), (tangent,))

    return jax.lax.platform_dependent(*primals, *tangents, cpu=on_cpu, default=default)


def _plain(x: jax.Array, size: Pair, strides: Pair, padding: Any) -> jax.Array:
    pads = ((0, 0), *padding, (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, *size, 1), (1, *strides, 1), pads)


def _search(x: jax.Array, size: Pair, strides: Pair, padding: Any) -> tuple[jax.Array, jax.Array]:
    """Returns the maximum of each window and where in the window it stands."""
    shape = jax.eval_shape(lambda x: _plain(x, size, strides, padding), x).shape
    first, *others = _taps(x, -jnp.inf, shape, size, strides, padding)
    integer = jnp.int8 if len(others) < 128 else jnp.int32
    best, index = first, jnp.zeros(shape, integer)
    for i, tap in enumerate(others, 1):
        better = (tap > best) | (tap != tap)
        best = jnp.where(better, tap, best)
        index = jnp.where(better, jnp.array(i, integer), index)
    return best, index


def _taps(
    x: jax.Array, fill: float, shape: Any, size: Pair, strides: Pair, padding: Any
) -> list[jax.Array]:
    """Returns what each of a window's positions sees, in ``shape``, of the padded input."""
    low_high = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    x = jax.lax.pad(x, jnp.asarray(fill, x.dtype), low_high)
    stops = [(n - 1) * stride + 1 for n, stride in zip(shape[1:3], strides, strict=True)]
    return [
        jax.lax.slice(
            x,
            (0, i, j, 0),
            (x.shape[0], i + stops[0], j + stops[1], x.shape[3]),
            (1, *strides, 1),
        )
        for i in range(size[0])
        for j in range(size[1])
    ]
