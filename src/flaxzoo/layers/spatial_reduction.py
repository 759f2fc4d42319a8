"""Attention of a map's pixels to fewer keys than there are pixels."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size
from flaxzoo.activations import as_activation
from flaxzoo.errors import ShapeError
from flaxzoo.layers.attention import attend, weight_hook
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import HeNormal, Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import LayerNorm
from flaxzoo.layers.pool import adaptive_avg_pool


class SpatialReductionAttention(Layer):
    """Attention of each pixel to a smaller copy of the map, of several heads.

    Wang et al. 2021 (PVT), https://arxiv.org/abs/2102.12122, equation 2; a copy of fixed size is
    the linear attention of PVT v2, https://arxiv.org/abs/2106.13797, section 3.2. Parameters are
    named as those of timm's ``Attention`` in ``pvt_v2`` and ``GlobalSubSampleAttn`` in ``twins``:
    ``q``, ``sr``, ``norm``, ``kv``, ``proj``.

    Attributes:
      heads: the number of heads.
      key_stride: by how much the copy is smaller along each side, by a convolution without overlap
        and a norm; 1 for the map itself.
      key_grid: the rows and the columns of the copy: the map is averaged to that size whatever its
        own, and ``key_stride`` plays no part; None for none.
      qkv_bias: whether queries, keys and values have biases.
      attention_dropout: the rate at which attention's weights are dropped.
      dropout: the rate at which outputs are dropped.
      implementation: ``"einsum"``, ``"xla"`` or ``"cudnn"`` (``flaxzoo.layers.attention.attend``).
    """

    heads: int = 8
    key_stride: int = 1
    key_grid: int | None = None
    qkv_bias: bool = True
    attention_dropout: float = 0.0
    dropout: float = 0.0
    implementation: str = "einsum"

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_size("heads", self.heads)
        check_size("key_stride", self.key_stride)
        check_size("key_grid", self.key_grid, optional=True)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape.

        Args:
          x: maps.
          train: whether weights and outputs are dropped.

        Raises:
          ShapeError: ``x`` is not of rank 4, its width no multiple of ``heads``, or smaller than
            one key.
        """
        if x.ndim != 4 or x.shape[-1] % self.heads:
            raise ShapeError(
                "maps must have shape [B, H, W, C] with C a multiple of "
                f"heads={self.heads}, got {list(x.shape)}"
            )
        width = x.shape[-1]
        q = self._dense(width, "q", self.qkv_bias)(x)
        kv = self._dense(2 * width, "kv", self.qkv_bias)(self._reduced(x))
        heads = (self.heads, width // self.heads)
        q, k, v = (
            part.reshape(len(part), math.prod(part.shape[1:3]), *heads)
            for part in (q, *jnp.split(kv, 2, axis=-1))
        )
        drop = weight_hook(self, self.attention_dropout, train)
        y = attend(q, k, v, drop=drop, implementation=self.implementation).reshape(x.shape)
        y = self._dense(width, "proj", True)(y)
        if self.dropout:
            y = nn.Dropout(self.dropout, name="proj_drop")(y, deterministic=not train)
        return y

    def _reduced(self, x: jax.Array) -> jax.Array:
        """Returns the map that keys and values are of."""
        size, dtypes = self.key_stride, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.key_grid is not None:
            x, size = adaptive_avg_pool(x, (self.key_grid, self.key_grid)), 1
        elif size == 1:
            return x
        if min(x.shape[1:3]) < size:
            raise ShapeError(
                f"a map of {x.shape[1]} x {x.shape[2]} has no key at key_stride={size}: images "
                f"must be larger, {-(-size // min(x.shape[1:3]))} times along the shorter side"
            )
        options: dict[str, Any] = {"use_bias": True, "kernel_init": HeNormal(), **dtypes}
        x = Conv(x.shape[-1], size, stride=size, padding=0, name="sr", **options)(x)
        x = LayerNorm(epsilon=1e-5, name="norm", **dtypes)(x)
        return x if self.key_grid is None else as_activation("gelu")(x)

    @nn.nowrap
    def _dense(self, features: int, name: str, use_bias: bool) -> Dense:
        return Dense(
            features,
            use_bias=use_bias,
            kernel_init=Normal(0.02),
            bias_init=zeros,
            name=name,
            **self.dtypes,
        )
