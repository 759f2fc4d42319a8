"""Normalisation with PyTorch's conventions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._calls import call_module
from flaxzoo.errors import did_you_mean
from flaxzoo.layers.initializers import ones, zeros
from flaxzoo.layers.lowering.batch_norm import normalise, statistics


class BatchNorm(nn.BatchNorm):
    """Flax's BatchNorm with the running variance of PyTorch.

    Both normalise a batch by its biased variance. PyTorch then averages the unbiased one,
    ``n / (n - 1)`` times that, into the running statistics; Flax the biased one. With small batches
    and small maps the two differ by percents, and a checkpoint fine-tuned here would drift from
    the same run there. ``momentum`` is what is kept: 0.9 is PyTorch's 0.1.
    https://arxiv.org/abs/1502.03167
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
            mean, var, unbiased = statistics(
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
        return normalise(
            x, mean, var, scale, bias, reduced=reduced, epsilon=self.epsilon, dtype=dtype
        )


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
