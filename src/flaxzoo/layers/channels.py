"""Numbers by channel, the last axis."""

from __future__ import annotations

import jax


def per_channel(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Returns ``[C]`` in the rank of ``x`` ``[..., C]``, since users may forbid its promotion."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)
