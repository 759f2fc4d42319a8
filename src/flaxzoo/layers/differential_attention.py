"""Differential attention: one map of weights less a learnt multiple of another."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import Attention, attend, weight_hook
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.norm import RMSNorm

_INIT = Normal(0.1)


class DifferentialAttention(Attention):
    """Self-attention whose heads are the differences of two maps of weights.

    Ye et al. 2024, https://arxiv.org/abs/2410.05258: each head splits its queries and keys in two,
    and noise that both maps have in common cancels out. Parameters are named as timm's
    ``DiffAttention``: those of ``Attention`` and ``lambda_q1``, ``lambda_k1``, ``lambda_q2``,
    ``lambda_k2`` and ``sub_norm``. ``Attention`` says what the other fields are; there is no
    ``grid``.

    Attributes:
      number: how many blocks stand before it, on which the multiple of the second map depends.
    """

    number: int = 0

    def comparable(self, q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns queries and keys ``[B, N, 2 * heads, D / 2]`` as they are multiplied."""
        return super().comparable(halved(q), halved(k))

    def attended(
        self, q: jax.Array, k: jax.Array, v: jax.Array, train: bool, **options: Any
    ) -> jax.Array:
        """Returns what is attended to, ``[B, N, heads * D]``."""
        return attend_differentially(self, q, k, v, train=train, **options)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        if self.grid is not None:
            raise ArgumentError(f"grid must be None of differential attention, got {self.grid}")


def halved(x: jax.Array) -> jax.Array:
    """Returns the two halves of each head: ``[B, N, heads, D]`` as ``[B, N, 2 * heads, D / 2]``.

    Raises:
      ShapeError: the width of a head is odd.
    """
    if x.shape[3] % 2:
        raise ShapeError(
            f"a head of differential attention must be of even width, got {x.shape[3]}"
        )
    return x.reshape(*x.shape[:2], 2 * x.shape[2], x.shape[3] // 2)


def attend_differentially(
    module: Any, q: jax.Array, k: jax.Array, v: jax.Array, *, train: bool, **options: Any
) -> jax.Array:
    """Attention whose heads are the differences of two maps, normalised one by one.

    The parameters ``lambda_q1``, ``lambda_k1``, ``lambda_q2``, ``lambda_k2`` and ``sub_norm`` are
    the module's own. The multiple of the second map is computed in float32, as in timm.

    Args:
      module: a bound module with the fields ``number``, ``attention_dropout``, ``implementation``,
        ``dtype`` and ``param_dtype``.
      q: queries ``[B, N, 2 * H, D / 2]``, the two halves of each head side by side.
      k: keys, likewise.
      v: values ``[B, N, H, D]``.
      train: whether weights are dropped.
      **options: other arguments of ``attend``.

    Returns:
      ``[B, N, H * D]``.
    """
    drop = weight_hook(module, module.attention_dropout, train)
    # Both halves of a head see the same values. JAX's own attention has one width for all three.
    v = jnp.repeat(v, 2, axis=2)
    parts = [v] if module.implementation == "einsum" else jnp.split(v, 2, axis=-1)
    options = {"drop": drop, "implementation": module.implementation, **options}
    maps = [
        attend(q, k, part, **options).reshape(*part.shape[:2], -1, 2, part.shape[-1])
        for part in parts
    ]
    first, second = jnp.moveaxis(jnp.concatenate(maps, axis=-1), 3, 0)
    initial = 0.8 - 0.6 * math.exp(-0.3 * module.number)
    y = first - (_multiple(module, q.shape[-1]) + initial).astype(q.dtype) * second
    norm = RMSNorm(
        epsilon=1e-5, name="sub_norm", dtype=module.dtype, param_dtype=module.param_dtype
    )
    y = norm(y) * (1 - initial)
    return y.reshape(*y.shape[:2], -1)


def _multiple(module: Any, width: int) -> jax.Array:
    """Returns what is learnt of the multiple of the second map, float32."""
    q1, k1, q2, k2 = (
        jnp.asarray(module.param(f"lambda_{name}", _INIT, (width,), module.param_dtype))
        for name in ("q1", "k1", "q2", "k2")
    )
    first, second = (
        jnp.exp(jnp.sum(q * k, -1).astype(jnp.float32)) for q, k in ((q1, k1), (q2, k2))
    )
    return first - second
