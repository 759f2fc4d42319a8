"""Attention of one token, the class token, to all."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.layers.attention import attend, head_width, weight_hook
from flaxzoo.layers.checked import Checked
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import Normal, zeros


class ClassAttention(Checked):
    """Attention of the first token to all tokens, itself included, of several heads.

    Touvron et al. 2021 (CaiT), https://arxiv.org/abs/2103.17239, section 3. Its cost grows with the
    number of tokens, not with its square. Parameters are named as timm's ``ClassAttn``: ``q``,
    ``k``, ``v``, ``proj``.

    Attributes:
      heads: the number of heads.
      qkv_bias: whether queries, keys and values have biases.
      attention_dropout: the rate at which attention's weights are dropped.
      dropout: the rate at which outputs are dropped.
      dtype: the dtype of the computation; None promotes inputs and parameters.
      param_dtype: the dtype of the parameters.
    """

    heads: int = 8
    qkv_bias: bool = True
    attention_dropout: float = 0.0
    dropout: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to what the first one finds, ``[B, 1, C]``.

        Args:
          x: tokens.
          train: whether weights and outputs are dropped.

        Raises:
          ShapeError: ``x`` is not of rank 3, or its width no multiple of ``heads``.
        """
        heads = (self.heads, head_width(x, self.heads))
        q, k, v = (
            self._dense(x.shape[-1], name, self.qkv_bias)(tokens).reshape(*tokens.shape[:2], *heads)
            for name, tokens in (("q", x[:, :1]), ("k", x), ("v", x))
        )
        y = attend(q, k, v, drop=weight_hook(self, self.attention_dropout, train))
        y = self._dense(x.shape[-1], "proj", True)(y)
        if self.dropout:
            y = nn.Dropout(self.dropout, name="proj_drop")(y, deterministic=not train)
        return y

    @nn.nowrap
    def _dense(self, features: int, name: str, use_bias: bool) -> Dense:
        return Dense(
            features,
            use_bias=use_bias,
            kernel_init=Normal(0.02),
            bias_init=zeros,
            name=name,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
