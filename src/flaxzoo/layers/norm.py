"""Normalisation with PyTorch's conventions."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._calls import call_module
from flaxzoo.errors import did_you_mean
from flaxzoo.layers.initializers import ones, zeros


class BatchNorm(nn.BatchNorm):
    """Flax's BatchNorm with the running variance of PyTorch, in fewer passes over memory.

    Both normalise a batch by its biased variance. PyTorch then averages the unbiased one,
    ``n / (n - 1)`` times that, into the running statistics; Flax the biased one. With small batches
    and small maps the two differ by percents, and a checkpoint fine-tuned here would drift from
    the same run there. ``momentum`` is what is kept: 0.9 is PyTorch's 0.1.

    Scale, bias and statistics are joined to one factor and one summand per feature before they meet
    the inputs, so that neither direction writes an intermediate of the inputs' size
    (https://arxiv.org/abs/1502.03167, algorithm 1 and its gradient).
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Any = ones
    bias_init: Any = zeros

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalises ``[B, ..., C]``; see ``flax.linen.BatchNorm``."""
        average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        kept = sorted(axis % x.ndim for axis in axes)
        reduced = tuple(i for i in range(x.ndim) if i not in kept)
        shape = [x.shape[i] for i in kept]
        kind = jnp.float32 if self.force_float32_reductions else self.param_dtype
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, kind)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, kind)
        scale = bias = None
        if self.use_scale:
            scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        arrays = (value for value in (x, scale, bias) if value is not None)
        dtype = nn.dtypes.canonicalize_dtype(*arrays, dtype=self.dtype)
        if average:
            mean, var = running_mean.value, running_var.value
            if not self.force_float32_reductions:
                mean, var = (jnp.asarray(value, self.param_dtype) for value in (mean, var))
        else:
            groups = self.axis_index_groups
            mean, var, unbiased = _statistics(
                x,
                mask,
                reduced=reduced,
                dtype=self.dtype,
                wide=self.force_float32_reductions,
                fast=self.use_fast_variance,
                axis_name=None if self.is_initializing() else self.axis_name,
                groups=None if groups is None else tuple(map(tuple, groups)),
            )
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        return _normalise(
            x, mean, var, scale, bias, reduced=reduced, epsilon=self.epsilon, dtype=dtype
        )


# Jitted, so that layers of one shape are traced once: a deep network has dozens.
@functools.partial(
    jax.jit, static_argnames=("reduced", "dtype", "wide", "fast", "axis_name", "groups")
)
def _statistics(
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
    """Mean, biased variance and unbiased variance of each feature.

    Args:
      x: inputs.
      mask: which of their elements count; None for all.
      reduced: the axes to average over.
      dtype: to compute in; None for that of ``x``.
      wide: whether in float32 at least.
      fast: whether by the mean of squares, in one pass over ``x``.
      axis_name: of the devices to average over as well; None for this one alone.
      groups: of these devices, as ``jax.lax.pmean`` takes them.
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


@functools.partial(jax.jit, static_argnames=("reduced", "epsilon", "dtype"))
def _normalise(
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
    """``(x - mean) / sqrt(var + epsilon) * scale + bias``, as one factor and one summand."""
    factor = jax.lax.rsqrt(var + epsilon)
    if scale is not None:
        factor = factor * scale
    summand = -mean * factor
    if bias is not None:
        summand = summand + bias
    y = x * jnp.expand_dims(factor, reduced) + jnp.expand_dims(summand, reduced)
    return y.astype(dtype)


class GroupNorm(nn.GroupNorm):
    """Flax's GroupNorm (https://arxiv.org/abs/1803.08494) with PyTorch's epsilon."""

    epsilon: float = 1e-5
    scale_init: Any = ones
    bias_init: Any = zeros


NORMS: dict[str, Callable[..., nn.Module]] = {"batch": BatchNorm, "group": GroupNorm}


def as_norm(norm: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A normalisation by name, ``"batch"`` or ``"group"``, or what was given instead.

    Args:
      norm: a name, or a Linen module class (or partial) that takes ``name``, ``dtype``,
        ``param_dtype`` and ``scale_init``.

    Raises:
      ValueError: no such name, or nothing that makes a module.
    """
    if not isinstance(norm, str) and callable(norm):
        return norm
    if norm not in NORMS:
        hint = did_you_mean(norm, NORMS) if isinstance(norm, str) else ""
        raise ValueError(f"norm must be one of {', '.join(NORMS)} or a module, got {norm!r}.{hint}")
    return NORMS[norm]


def call_norm(norm: nn.Module, x: jax.Array, *, train: bool) -> jax.Array:
    """Applies a normalisation that may be a BatchNorm, which names the mode in its own way."""
    if isinstance(norm, nn.BatchNorm):
        return norm(x, use_running_average=not train)
    return call_module(norm, x, train=train)
