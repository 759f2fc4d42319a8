"""BatchNorm's arithmetic in few passes over memory, traced once for all layers of one shape."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxzoo.layers.lowering.switch import is_plain


# Jitted, so that layers of one shape are traced once: a deep network has dozens.
@functools.partial(
    jax.jit, static_argnames=("reduced", "dtype", "wide", "fast", "axis_name", "groups")
)
def statistics(
    x: jax.Array,
    mask: jax.Array | None,
    *,
    reduced: tuple[int, ...],
    dtype: Any,
    wide: bool,
    fast: bool,
    axis_name: Any,
    groups: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes mean, biased variance and unbiased variance of each feature.

    Args:
      x: inputs.
      mask: which of their elements count; None for all.
      reduced: the axes to average over.
      dtype: the dtype of the computation; None for that of ``x``.
      wide: whether the computation is float32 at least.
      fast: whether the variance is taken from the mean of squares, in one pass over ``x``.
      axis_name: the name of the devices to average over as well; None for this one alone.
      groups: the groups of these devices, as ``jax.lax.pmean`` takes them.
    """
    kind = x.dtype
    dtype = kind if dtype is None else dtype
    x = x.astype(jnp.promote_types(dtype, jnp.float32) if wide else dtype)
    where = None if mask is None else mask.astype(bool)

    def mean_of(*values: jax.Array) -> Any:
        means = jnp.stack([value.mean(reduced, where=where) for value in values])
        if axis_name is not None:
            means = jax.lax.pmean(means, axis_name, axis_index_groups=groups)
        return means

    if fast:
        mean, square = mean_of(x, x * x)
        # Rounding may take the difference below zero.
        var = jnp.maximum(0.0, square - mean * mean)
    else:
        (mean,) = mean_of(x)
        (var,) = mean_of(jnp.square(x - jnp.expand_dims(mean, reduced)))
    if where is None:
        count: Any = math.prod(x.shape[i] for i in reduced)
    else:
        # By feature, for masks that have them.
        count = jnp.broadcast_to(where, x.shape).sum(reduced, dtype=jnp.float32)
    if axis_name is not None:
        count = jax.lax.psum(count, axis_name, axis_index_groups=groups)
    count = jnp.asarray(count, jnp.promote_types(jnp.float32, kind))
    return mean, var, var * (count / jnp.maximum(count - 1, 1)).astype(var.dtype)


def normalise(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    reduced: tuple[int, ...],
    epsilon: float,
    dtype: Any,
) -> jax.Array:
    """Computes ``(x - mean) / sqrt(var + epsilon) * scale + bias`` in ``dtype``.

    Args:
      x: inputs.
      mean: the mean of each feature.
      var: the variance of each feature.
      scale: the scale of each feature; None for one.
      bias: the bias of each feature; None for zero.
      reduced: the axes of ``x`` that are no feature's.
      epsilon: a small number that is added to the variance.
      dtype: the dtype of the result.
    """
    if not is_plain():
        return _by_factor(x, mean, var, scale, bias, reduced=reduced, epsilon=epsilon, dtype=dtype)
    factor = jax.lax.rsqrt(jnp.expand_dims(var, reduced) + epsilon)
    if scale is not None:
        factor = factor * jnp.expand_dims(scale, reduced)
    y = (x - jnp.expand_dims(mean, reduced)) * factor
    if bias is not None:
        y = y + jnp.expand_dims(bias, reduced)
    return y.astype(dtype)


@functools.partial(jax.jit, static_argnames=("reduced", "epsilon", "dtype"))
def _by_factor(
    x: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    reduced: tuple[int, ...],
    epsilon: float,
    dtype: Any,
) -> jax.Array:
    """Normalises by one factor and one summand per feature.

    Neither direction writes an intermediate of the inputs' size.
    """
    factor = jax.lax.rsqrt(var + epsilon)
    if scale is not None:
        factor = factor * scale
    summand = -mean * factor
    if bias is not None:
        summand = summand + bias
    y = x * jnp.expand_dims(factor, reduced) + jnp.expand_dims(summand, reduced)
    return y.astype(dtype)
