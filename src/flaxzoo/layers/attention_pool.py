"""Pooling of tokens and maps by attention."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import as_choice, check_size
from flaxzoo.errors import ShapeError
from flaxzoo.layers.attention import attend, head_width
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import Normal, TruncatedNormal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.pos_embed import Grid, resample_positions

_POOLINGS = ("token", "avg")


class AttentionPoolLatent(Layer):
    """Pools tokens by the attention of learnt queries, and an ``Mlp`` on what they find.

    It is the head of SigLIP (Zhai et al. 2023, https://arxiv.org/abs/2303.15343), from Lee et al.
    2019, https://arxiv.org/abs/1810.00825. Parameters are named as timm's module of this name:
    ``latent``, ``q``, ``kv``, ``q_norm``, ``k_norm``, ``proj``, ``norm``, ``mlp``.

    Attributes:
      heads: the number of heads.
      features: the width of the output; None for that of the tokens.
      latents: the number of learnt queries.
      mlp_ratio: the width between the layers of ``mlp``, as a multiple of the output's.
      qkv_bias: whether queries, keys and values have biases.
      qk_norm: whether queries and keys are normalised, head by head.
      pooling: what is made of the queries' results: ``"token"`` takes the first, ``"avg"`` the
        mean, None all ``[B, latents, features]``.
      activation: the activation function of ``mlp``, by name or callable.
      norm: the normalisation, by name or module (``flaxzoo.layers.norm``); None for none before
        ``mlp``.
      norm_epsilon: the epsilon of the normalisations; None for their own.
      dropout: the rate at which the queries' results are dropped, before ``mlp``.
      implementation: ``"einsum"``, ``"xla"`` or ``"cudnn"`` (see ``flaxzoo.layers.attention``).
      kernel_init: the initialiser of all kernels.
    """

    heads: int = 8
    features: int | None = None
    latents: int = 1
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    qk_norm: bool = False
    pooling: str | None = "token"
    activation: Any = "gelu"
    norm: Any = "layer"
    norm_epsilon: float | None = None
    dropout: float = 0.0
    implementation: str = "einsum"
    kernel_init: Any = Normal(0.02)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Pools tokens ``[B, N, C]`` to ``[B, features]``.

        Args:
          x: tokens.
          train: whether units are dropped.
          mask: an array that broadcasts to ``[B, heads, latents, N]``, of the kinds that
            ``flaxzoo.layers.attention.attend`` takes.

        Raises:
          ShapeError: ``x`` is not of rank 3, or its width no multiple of ``heads``.
          ValueError: a field holds what it does not take.
        """
        check_size("latents", self.latents)
        pooling = as_choice("pooling", self.pooling, _POOLINGS)
        batch, tokens, width = x.shape[0], x.shape[1], x.shape[-1]
        head_dim = head_width(x, self.heads)
        start = TruncatedNormal(width**-0.5)
        latent = self.param("latent", start, (1, self.latents, width), self.param_dtype)
        dtype = nn.dtypes.canonicalize_dtype(x, latent, dtype=self.dtype)
        q = self.dense(width, "q", self.qkv_bias)(latent.astype(dtype))
        q = q.reshape(1, self.latents, self.heads, head_dim)
        kv = self.dense(2 * width, "kv", self.qkv_bias)(x)
        k, v = (
            part.reshape(batch, tokens, self.heads, head_dim) for part in jnp.split(kv, 2, axis=-1)
        )
        if self.qk_norm:
            # As timm's, queries and keys are normalised even where nothing else is.
            norm = "layer" if self.norm is None else self.norm
            q, k = self.normalise(q, "q_norm", norm), self.normalise(k, "k_norm", norm)
        q = jnp.broadcast_to(q, (batch, *q.shape[1:]))
        y = attend(q, k, v, mask=mask, implementation=self.implementation)
        features = width if self.features is None else self.features
        y = self.dense(features, "proj")(y)
        if self.dropout:
            y = nn.Dropout(self.dropout, name="proj_drop")(y, deterministic=not train)
        normed = y if self.norm is None else self.normalise(y, "norm", self.norm)
        mlp = Mlp(
            int(features * self.mlp_ratio),
            activation=self.activation,
            kernel_init=self.kernel_init,
            name="mlp",
            **self.dtypes,
        )
        y = y + mlp(normed)
        if pooling is None:
            return y
        return y[:, 0] if pooling == "token" else y.mean(1)

    @nn.nowrap
    def dense(self, features: int, name: str, use_bias: bool = True) -> Dense:
        """Makes a dense layer in the module's dtypes."""
        return Dense(
            features,
            use_bias=use_bias,
            kernel_init=self.kernel_init,
            bias_init=zeros,
            name=name,
            **self.dtypes,
        )

    def normalise(self, x: jax.Array, name: str, norm: Any) -> jax.Array:
        """Normalises the last axis."""
        module = make_norm(norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(module, x, train=False)


class AttentionPool2d(Layer):
    """Pools a map by attention, whose query is the mean of its pixels.

    It is the head of CLIP's ResNets (Radford et al. 2021, https://arxiv.org/abs/2103.00020, section
    2.4). Parameters are named as timm's module of this name: ``q``, ``k``, ``v`` and ``pos_embed``;
    what timm calls ``proj`` is the classifier.

    Attributes:
      grid: the height and width of maps that ``pos_embed`` is for; those of others are resampled.
        None for the first maps that are seen.
      head_width: the width of a head.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
    """

    grid: Grid | None = None
    head_width: int = 64
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools ``[B, H, W, C]`` to ``[B, C]``.

        Raises:
          ShapeError: ``C`` is no multiple of the heads' width.
        """
        batch, height, columns, width = x.shape
        if width % self.head_width:
            raise ShapeError(
                f"attention pooling with heads of head_width={self.head_width} takes maps of a "
                f"multiple of that many channels, got {width}"
            )
        rows, across = self.grid or (height, columns)
        tokens = x.reshape(batch, -1, width)
        tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
        shape, init = (1 + rows * across, width), Normal(width**-0.5)
        positions = self.param("pos_embed", init, shape, self.param_dtype)[None]
        positions = resample_positions(
            positions, (height, columns), prefix=1, old_grid=(rows, across)
        )
        tokens = tokens + positions.astype(tokens.dtype)
        dense = functools.partial(Dense, width, kernel_init=init, bias_init=zeros, **self.dtypes)
        # The mean alone asks: what pixels would find is not looked at.
        parts = dense(name="q")(tokens[:, :1]), dense(name="k")(tokens), dense(name="v")(tokens)
        q, k, v = (part.reshape(batch, part.shape[1], -1, self.head_width) for part in parts)
        return attend(q, k, v, implementation=self.implementation).reshape(batch, width)
