"""Seeds and keys: every ``rng`` argument of the library takes either."""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp


def as_key(rng: Any) -> jax.Array:
    """A raw ``uint32[2]`` key from an int seed, a typed key or a raw key.

    Raw keys are plain arrays, so that a training state that holds one can be serialised, donated
    and checkpointed like any other.

    Raises:
      TypeError: ``rng`` is none of the three.
    """
    if isinstance(rng, jax.Array) or hasattr(rng, "dtype"):
        if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key):
            data = jax.random.key_data(rng)
            # Keys of other generators than threefry are wider: draw one of ours from them.
            return data if data.shape == (2,) else jax.random.bits(rng, (2,), jnp.uint32)
        if jnp.issubdtype(rng.dtype, jnp.integer) and rng.ndim == 0:
            return jax.random.PRNGKey(rng)
        if rng.dtype == jnp.uint32 and rng.ndim == 1:
            return jnp.asarray(rng)
        raise TypeError(f"rng must be an int seed or a key, got {rng.dtype}{list(rng.shape)}")
    try:
        return jax.random.PRNGKey(operator.index(rng))
    except TypeError:
        raise TypeError(f"rng must be an int seed or a key, got {type(rng).__name__}") from None
