"""GELU, softmax and the heart of LayerNorm with derivatives that read what the forward pass made.

Left to itself XLA computes parts of them anew for each of their uses on CPUs, and writes their
broadcast factors out in full: a ViT-S's block took an eighth longer. Derivatives of any order, in
both modes, and ``vmap`` work as ever. Under ``lowering.use("xla")`` nothing of this is used.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxzoo.layers.lowering.switch import is_plain


def is_ours(x: Any) -> bool:
    """Whether an array is one that these functions are for: of at least 32 bits."""
    return not is_plain() and jnp.result_type(x) in (jnp.float32, jnp.float64)


def gelu(x: jax.Array) -> jax.Array:
    """Returns ``x * Phi(x)``, by the error function as PyTorch computes it, elementwise."""
    return _gelu(x) if is_ours(x) else jax.nn.gelu(x, approximate=False)


def softmax(x: jax.Array) -> jax.Array:
    """Returns the softmax over the last axis, of the same shape."""
    return _softmax(x) if is_ours(x) else jax.nn.softmax(x)


@jax.custom_jvp
def _gelu(x: jax.Array) -> jax.Array:
    return x * _normal_cdf(x)


@_gelu.defjvp
def _gelu_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    cdf = _normal_cdf(x)
    density = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return x * cdf, dx * (cdf + x * density)


def _normal_cdf(x: jax.Array) -> jax.Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


@jax.custom_jvp
def _softmax(x: jax.Array) -> jax.Array:
    return jax.nn.softmax(x)


@_softmax.defjvp
def _softmax_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    y = jax.lax.optimization_barrier(_softmax(x))
    return y, y * (dx - jnp.sum(y * dx, -1, keepdims=True))


def standardise(x: jax.Array, epsilon: float) -> jax.Array:
    """Returns ``x`` less its mean, over its deviation, along the last axis.

    Args:
      x: of any shape.
      epsilon: is added to the variance, the mean of the squared distances from the mean.
    """
    return _standardise(epsilon, x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _standardise(epsilon: float, x: jax.Array) -> jax.Array:
    return _with_inverse(epsilon, x)[0]


@_standardise.defjvp
def _standardise_jvp(epsilon: float, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    y, inverse = jax.lax.optimization_barrier(_with_inverse(epsilon, x))
    shared = jnp.mean(dx, -1, keepdims=True) + y * jnp.mean(y * dx, -1, keepdims=True)
    return y, inverse * (dx - shared)


def _with_inverse(epsilon: float, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The standardised array, and the inverse of its deviation."""
    centred = x - jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), -1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return centred * inverse, inverse
