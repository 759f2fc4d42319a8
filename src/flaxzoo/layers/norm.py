"""Normalisation with PyTorch's conventions."""

from __future__ import annotations

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
    """Flax's BatchNorm with the running variance of PyTorch.

    Both normalise a batch by its biased variance. PyTorch then averages the unbiased one,
    ``n / (n - 1)`` times that, into the running statistics; Flax the biased one. With small batches
    and small maps the two differ by percents, and a checkpoint fine-tuned here would drift from
    the same run there. ``momentum`` is what is kept: 0.9 is PyTorch's 0.1.
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
        update = not average and not self.is_initializing()
        # Without statistics yet, Flax starts from ones.
        before: Any = self.get_variable("batch_stats", "var", 1.0) if update else None
        y = super().__call__(x, use_running_average, mask=mask)
        if update:
            count = self._count(x, mask)
            kept = self.momentum * before
            added = self.get_variable("batch_stats", "var") - kept
            unbiased = kept + added * (count / jnp.maximum(count - 1, 1))
            self.put_variable("batch_stats", "var", unbiased)
        return y

    def _count(self, x: jax.Array, mask: jax.Array | None) -> Any:
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        kept = {axis % x.ndim for axis in axes}
        reduced = tuple(i for i in range(x.ndim) if i not in kept)
        if mask is None:
            count: Any = math.prod(x.shape[i] for i in reduced)
        else:
            # By feature, for masks that have them.
            count = jnp.broadcast_to(mask, x.shape).sum(reduced, dtype=jnp.float32)
        if self.axis_name is not None:
            count = jax.lax.psum(count, self.axis_name, axis_index_groups=self.axis_index_groups)
        return jnp.asarray(count, jnp.promote_types(jnp.float32, x.dtype))


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
