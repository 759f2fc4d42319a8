"""Average-pooling by windows that do not overlap."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.layers.lowering.switch import is_plain
from flaxzoo.layers.lowering.written import written


def mean_of_tiles(x: jax.Array, size: int) -> jax.Array:
    """Averages ``[B, H, W, C]`` over tiles of ``size x size``; what is left at the ends is cut."""
    if is_plain():
        return nn.avg_pool(x, (size, size), strides=(size, size))
    return _differentiated(x, size)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _differentiated(x: jax.Array, size: int) -> jax.Array:
    return nn.avg_pool(x, (size, size), strides=(size, size))


@_differentiated.defjvp
def _differentiated_jvp(size: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    # XLA's CPU backend is quicker at windows alone, and at slices where they have a gradient.
    def mean(x: jax.Array) -> jax.Array:
        height, width = (length // size * size for length in x.shape[1:3])
        tiles = [x[:, i:height:size, j:width:size] for i in range(size) for j in range(size)]
        return functools.reduce(jnp.add, tiles) / size**2

    # The gradient that comes back is read at four places and more, whatever it is the sum of.
    return mean(*primals), written(mean(*tangents))
