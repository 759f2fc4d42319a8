"""Attention of one token, the class token, to all, and the block of it."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.layers.attention import attend, head_width, weight_hook
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.transformer import TransformerBlock


class ClassAttention(Layer):
    """Attention of the first token to all tokens, itself included, of several heads.

    Touvron et al. 2021 (CaiT), https://arxiv.org/abs/2103.17239, section 3. Its cost grows with the
    number of tokens, not with its square. Parameters are named as timm's ``ClassAttn``: ``q``,
    ``k``, ``v``, ``proj``; those of VOLO's ``ClassAttention`` are ``q``, ``kv``, ``proj``.

    Attributes:
      heads: the number of heads.
      qkv_bias: whether queries, keys and values have biases.
      joint: whether one layer, ``kv``, makes both keys and values.
      attention_dropout: the rate at which attention's weights are dropped.
      dropout: the rate at which outputs are dropped.
    """

    heads: int = 8
    qkv_bias: bool = True
    joint: bool = False
    attention_dropout: float = 0.0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to what the first one finds, ``[B, 1, C]``.

        Args:
          x: tokens.
          train: whether weights and outputs are dropped.

        Raises:
          ShapeError: ``x`` is not of rank 3, or its width no multiple of ``heads``.
        """
        width, heads = x.shape[-1], (self.heads, head_width(x, self.heads))
        if self.joint:
            both = self._dense(2 * width, "kv", self.qkv_bias)(x)
            layers = (self._dense(width, "q", self.qkv_bias)(x[:, :1]), *jnp.split(both, 2, -1))
            q, k, v = (part.reshape(*part.shape[:2], *heads) for part in layers)
        else:
            q, k, v = (
                self._dense(width, name, self.qkv_bias)(tokens).reshape(*tokens.shape[:2], *heads)
                for name, tokens in (("q", x[:, :1]), ("k", x), ("v", x))
            )
        y = attend(q, k, v, drop=weight_hook(self, self.attention_dropout, train))
        y = self._dense(width, "proj", True)(y)
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
            **self.dtypes,
        )


class ClassBlock(TransformerBlock):
    """A block that changes the class token alone, the first one, which looks at all tokens.

    Touvron et al. 2021 (CaiT), https://arxiv.org/abs/2103.17239, section 3. The others stand behind
    it as they came.

    Attributes:
      joint: as ``ClassAttention``'s.
    """

    joint: bool = False

    # Its positions are the tokens' own.
    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: jax.Array, train: bool = False
    ) -> jax.Array:
        """Maps tokens ``[B, 1 + N, C]`` to the same shape."""
        y = self.attention(self.normalise(x, "norm1"), "attn", train)
        token = x[:, :1] + self.branch(y, "ls1", "drop_path1", train)
        y = self.feed_forward(self.normalise(token, "norm2"), "mlp", train)
        token = token + self.branch(y, "ls2", "drop_path2", train)
        return jnp.concatenate([token, x[:, 1:]], axis=1)

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Returns what the class token finds."""
        own = ("heads", "qkv_bias", "joint", "attention_dropout")
        fields: dict[str, Any] = {field: getattr(self, field) for field in own}
        fields |= {"dropout": self.block_dropout, **self.dtypes}
        return ClassAttention(name=name, **fields)(x, train)
