"""Attention of channels to each other, at a cost linear in the pixels, and its positions.

References:
  XCiT: https://arxiv.org/abs/2106.09681
"""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.layers.attention import head_width
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import FanIn, Normal, ones, plain_bias, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.pos_embed import Grid


class FourierPositions(Layer):
    """A layer over sines and cosines of a pixel's row and column, which are parts of the whole.

    Parameters are named as timm's ``PositionalEncodingFourier``: ``token_projection``.

    Attributes:
      features: the width of the positions.
      frequencies: the number of sines and cosines of each coordinate.
      kernel_init: the initialiser of the layer's kernel, by default that of PyTorch's layers.
      bias_init: that of its bias, likewise.
      dtype: the dtype of the computation; None promotes table and parameters.
    """

    features: int
    frequencies: int = 32
    kernel_init: Any = FanIn()
    bias_init: Any = plain_bias

    @nn.compact
    def __call__(self, grid: Grid) -> jax.Array:
        """Returns the positions of a grid's cells, ``[1, rows, columns, features]``."""
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options |= {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        options["use_bias"] = True
        return Conv(self.features, 1, name="token_projection", **options)(
            jnp.asarray(_fourier_table(grid, self.frequencies))
        )


@functools.lru_cache(maxsize=64)
def _fourier_table(grid: Grid, frequencies: int) -> np.ndarray:
    """The sines and cosines of each cell, ``[1, rows, columns, 2 * frequencies]`` float32."""
    number = np.arange(frequencies, dtype=np.float32)
    scale = np.float32(10000) ** (2 * np.floor(number / 2) / np.float32(frequencies))
    axes = []
    for length in grid:
        place = np.arange(1, length + 1, dtype=np.float32)
        place = place / (place[-1:] + np.float32(1e-6)) * np.float32(2 * math.pi)
        angles = place[:, None] / scale
        axes.append(np.where(number % 2 == 0, np.sin(angles), np.cos(angles)))
    rows = np.broadcast_to(axes[0][:, None], (*grid, frequencies))
    columns = np.broadcast_to(axes[1][None], (*grid, frequencies))
    table = np.concatenate([rows, columns], axis=-1)[None].astype(np.float32)
    # All who ask get the same one.
    table.flags.writeable = False
    return table


class CrossCovarianceAttention(Layer):
    """Attention of a head's channels to each other, by how they agree over all tokens.

    El-Nouby et al. 2021, https://arxiv.org/abs/2106.09681, section 3.2. Norms, logits and softmax
    are float32 at least. Parameters are named as timm's ``XCA``: ``temperature``, ``qkv``,
    ``proj``.

    Attributes:
      heads: the number of heads.
      qkv_bias: whether queries, keys and values have biases.
      attention_dropout: the rate at which attention's weights are dropped.
      dropout: the rate at which outputs are dropped.
      kernel_init: the initialiser of both layers' kernels.
    """

    heads: int = 8
    qkv_bias: bool = True
    attention_dropout: float = 0.0
    dropout: float = 0.0
    kernel_init: Any = Normal(0.02)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape."""
        width, head_dim = x.shape[-1], head_width(x, self.heads)
        dense: dict[str, Any] = {"kernel_init": self.kernel_init, "bias_init": zeros}
        dense |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
        qkv = Dense(3 * width, use_bias=self.qkv_bias, name="qkv", **dense)(x)
        q, k, v = (
            part.reshape(*x.shape[:2], self.heads, head_dim) for part in jnp.split(qkv, 3, axis=-1)
        )
        temperature = self.param("temperature", ones, (self.heads, 1, 1), self.param_dtype)
        logits = jnp.einsum("bnhc,bnhd->bhcd", _unit(q), _unit(k))
        logits = logits * temperature[None].astype(logits.dtype)
        weights = nn.softmax(logits).astype(v.dtype)
        if self.attention_dropout:
            drop = nn.Dropout(self.attention_dropout, name="attn_drop")
            weights = drop(weights, deterministic=not train)
        y = jnp.einsum("bhcd,bnhd->bnhc", weights, v).reshape(x.shape)
        y = Dense(width, name="proj", **dense)(y)
        if self.dropout:
            y = nn.Dropout(self.dropout, name="proj_drop")(y, deterministic=not train)
        return y


def _unit(x: jax.Array) -> jax.Array:
    """Each channel of ``[B, N, H, D]`` over all tokens, as a vector of length 1."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squares = jnp.square(wide).sum(1, keepdims=True)
    return wide * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))
