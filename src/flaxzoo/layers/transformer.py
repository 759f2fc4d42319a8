"""Blocks of transformers: what mixes tokens, and what maps each by itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_choice, check_rate, check_size
from flaxzoo.activations import as_activation
from flaxzoo.layers.attention import IMPLEMENTATIONS, Attention, attend, weight_hook
from flaxzoo.layers.channels import per_channel
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.differential_attention import (
    DifferentialAttention,
    attend_differentially,
    halved,
)
from flaxzoo.layers.drop_path import DropPath
from flaxzoo.layers.initializers import Constant, Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import GluMlp, Mlp, SwiGLU
from flaxzoo.layers.norm import LayerScale, as_norm, call_norm, make_norm, scaled_channels
from flaxzoo.layers.rotary import Rotation

MLPS: dict[str, Callable[..., nn.Module]] = {
    "mlp": Mlp,
    "glu": functools.partial(GluMlp, gate_last=False),
    "swiglu": SwiGLU,
}


class TransformerBlock(Layer):
    """Attention, then an MLP on each token; each stands behind a norm and is added to its input.

    Xiong et al. 2020 (https://arxiv.org/abs/2002.04745) call it the pre-norm block. Parameters are
    named as timm's ``Block``: ``norm1``, ``attn``, ``ls1``, ``norm2``, ``mlp``, ``ls2``.

    Attributes:
      heads: the number of heads of the attention.
      mlp_ratio: the hidden units of the MLP, as a multiple of the tokens' width.
      mlp: ``"mlp"``, ``"glu"`` (one layer for the hidden units and their gates, the first half
        through the activation) or ``"swiglu"`` (two layers).
      activation: of the MLP, by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      proj_bias: whether the other layers have biases.
      qk_norm: whether queries and keys are normalised, head by head.
      scale_norm: whether a norm stands before the last layers of attention and MLP, too (BEiT-3).
      layer_scale: what the learnt scales of the branches begin with; None for no scales.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      attention_dropout: the rate at which attention's weights are dropped.
      block_dropout: the rate at which the units of attention and MLP are dropped.
      drop_path: the rate at which a branch is dropped for a whole example (stochastic depth).
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      open_gates: whether the gates of a gated MLP begin open, with next to nothing of the tokens.
    """

    heads: int
    mlp_ratio: float = 4.0
    mlp: str = "mlp"
    activation: Any = "gelu"
    qkv_bias: bool = True
    proj_bias: bool = True
    qk_norm: bool = False
    scale_norm: bool = False
    layer_scale: float | None = None
    norm: Any = "layer"
    norm_epsilon: float | None = None
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    open_gates: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, positions: Rotation | None = None
    ) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape.

        Args:
          x: tokens.
          train: whether weights, units and branches are dropped.
          positions: by what queries and keys are turned (``flaxzoo.layers.rotary``).
        """
        y = self.attention(self.normalise(x, "norm1"), "attn", train, **_given(positions))
        x = x + self.branch(y, "ls1", "drop_path1", train)
        y = self.feed_forward(self.normalise(x, "norm2"), "mlp", train)
        return x + self.branch(y, "ls2", "drop_path2", train)

    def normalise(self, x: jax.Array, name: str, scale_init: Any = ones) -> jax.Array:
        """Normalises the last axis."""
        options = {"scale_init": scale_init, **self.dtypes}
        return call_norm(
            make_norm(self.norm, name, epsilon=self.norm_epsilon, **options), x, train=False
        )

    def attention(self, x: jax.Array, name: str, train: bool, **positions: Any) -> jax.Array:
        """Mixes the tokens."""
        return self.attention_module(name)(x, train, **positions)

    @nn.nowrap
    def attention_module(self, name: str) -> Attention:
        """Makes the attention."""
        return self.attention_kind(name=name, **self.attention_fields())

    @nn.nowrap
    def attention_fields(self) -> dict[str, Any]:
        """Returns the fields of the attention but its name."""
        own = (
            *("heads", "qkv_bias", "proj_bias", "qk_norm", "scale_norm", "norm", "norm_epsilon"),
            *("attention_dropout", "implementation"),
        )
        fields: dict[str, Any] = {field: getattr(self, field) for field in own}
        return {**fields, "dropout": self.block_dropout, **self.attention_options(), **self.dtypes}

    @property
    def attention_kind(self) -> type[Attention]:
        """The class of the attention, for blocks of a kind of their own."""
        return Attention

    @nn.nowrap
    def attention_options(self) -> dict[str, Any]:
        """Returns other fields of the ``Attention``, for blocks of a kind of their own."""
        return {}

    @nn.nowrap
    def mlp_options(self) -> dict[str, Any]:
        """Returns other fields of the MLP, likewise."""
        return {}

    def feed_forward(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Maps each token by itself."""
        fields = {
            "activation": self.activation,
            "use_bias": self.proj_bias,
            "norm": self.norm if self.scale_norm else None,
            "norm_epsilon": self.norm_epsilon,
            "dropout": self.block_dropout,
            **({"open_gates": True} if self.open_gates and self.mlp != "mlp" else {}),
            **self.mlp_options(),
            **self.dtypes,
        }
        return MLPS[self.mlp](int(x.shape[-1] * self.mlp_ratio), name=name, **fields)(x, train)

    def branch(self, y: jax.Array, scale: str, drop: str, train: bool) -> jax.Array:
        """Scales what is added to the tokens, and drops it for some examples."""
        if self.layer_scale is not None:
            y = LayerScale(self.layer_scale, name=scale, **self.dtypes)(y)
        return DropPath(self.drop_path, name=drop)(y, deterministic=not train)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_size("heads", self.heads)
        for name in ("attention_dropout", "block_dropout", "drop_path"):
            check_rate(name, getattr(self, name))
        for name, choices in (("mlp", MLPS), ("implementation", IMPLEMENTATIONS)):
            check_choice(name, getattr(self, name), choices)
        as_activation(self.activation)
        as_norm(self.norm)


class NumberedBlock(TransformerBlock):
    """A block whose last layers begin the smaller the later it stands, as in BEiT and EVA.

    Scales of the branches are parameters of its own, ``gamma_1`` and ``gamma_2``.

    Attributes:
      number: the block's number, from 1.
      mlp_scale: whether the MLP's branch is scaled, too, where attention's is.
    """

    number: int = 1
    mlp_scale: bool = True

    @nn.nowrap
    def attention_options(self) -> dict[str, Any]:
        """Returns how its attention begins."""
        return {"proj_init": self._last_init}

    @nn.nowrap
    def mlp_options(self) -> dict[str, Any]:
        """Returns how its MLP begins."""
        return {"last_init": self._last_init}

    def branch(self, y: jax.Array, scale: str, drop: str, train: bool) -> jax.Array:
        """Scales what is added to the tokens, by the block's own parameters."""
        if self.mlp_scale or scale == "ls1":
            name = scale.replace("ls", "gamma_")
            y = scaled_channels(self, name, y, self.layer_scale, param_dtype=self.param_dtype)
        return DropPath(self.drop_path, name=drop)(y, deterministic=not train)

    @property
    def _last_init(self) -> Normal:
        return Normal(0.02 / math.sqrt(2 * self.number))


class PostNormBlock(TransformerBlock):
    """A block whose norms stand behind attention and MLP, and whose scales ``layer_scale`` begins.

    Parameters are named as timm's ``ResPostBlock``.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, positions: Rotation | None = None
    ) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape, as ``TransformerBlock``."""
        scale = ones if self.layer_scale is None else Constant(self.layer_scale)
        y = self.normalise(self.attention(x, "attn", train, **_given(positions)), "norm1", scale)
        x = x + DropPath(self.drop_path, name="drop_path1")(y, deterministic=not train)
        y = self.normalise(self.feed_forward(x, "mlp", train), "norm2", scale)
        return x + DropPath(self.drop_path, name="drop_path2")(y, deterministic=not train)


class PairsBlock(TransformerBlock):
    """Two attentions side by side, then two MLPs side by side.

    Touvron et al. 2022, https://arxiv.org/abs/2203.09795. Parameters are named as timm's
    ``ParallelThingsBlock``.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, positions: Rotation | None = None
    ) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape, as ``TransformerBlock``."""
        attend_to: Any = functools.partial(self.attention, **_given(positions))
        for group, run, kind in (
            ("attns", attend_to, "attn"),
            ("ffns", self.feed_forward, "mlp"),
        ):
            branches = []
            for name in (f"{group}_0", f"{group}_1"):
                y = run(self.normalise(x, f"{name}_norm"), f"{name}_{kind}", train)
                branches.append(self.branch(y, f"{name}_ls", f"{name}_drop_path", train))
            x = x + sum(branches)
        return x


class ParallelBlock(TransformerBlock):
    """Attention and MLP side by side, with one layer before both.

    Dehghani et al. 2023, https://arxiv.org/abs/2302.05442. Parameters are named as timm's
    ``ParallelScalingBlock``. It has no ``scale_norm`` and no other ``mlp``.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, positions: Rotation | None = None
    ) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape, as ``TransformerBlock``."""
        width, hidden = x.shape[-1], int(x.shape[-1] * self.mlp_ratio)
        y = self.dense(hidden + 3 * width, "in_proj", self.qkv_bias)(self.normalise(x, "in_norm"))
        y, q, k, v = jnp.split(y, [hidden, hidden + width, hidden + 2 * width], axis=-1)
        q, k, v = (part.reshape(*part.shape[:2], self.heads, -1) for part in (q, k, v))
        attended = self.attended(q, k, v, train, positions)
        if not self.qkv_bias:
            bias = self.param("mlp_bias", zeros, (hidden,), self.param_dtype)
            y = y + per_channel(bias, y).astype(y.dtype)
        y = as_activation(self.activation)(y)
        y = nn.Dropout(self.block_dropout, name="mlp_drop")(y, deterministic=not train)
        return x + self.branch(self.joined(attended, y), "ls", "drop_path", train)

    def attended(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        train: bool,
        positions: Rotation | None = None,
    ) -> jax.Array:
        """Returns what is attended to, ``[B, N, C]``."""
        if self.qk_norm:
            q, k = self.normalise(q, "q_norm"), self.normalise(k, "k_norm")
        if positions is not None:
            q, k = positions.turn(q), positions.turn(k)
        drop = weight_hook(self, self.attention_dropout, train)
        return attend(q, k, v, drop=drop, implementation=self.implementation)

    def joined(self, attended: jax.Array, hidden: jax.Array) -> jax.Array:
        """Returns the sum of both ways, as wide as the tokens."""
        width = attended.shape[-1]
        return self.dense(width, "attn_out_proj", self.proj_bias)(attended) + self.dense(
            width, "mlp_out_proj", self.proj_bias
        )(hidden)

    @nn.nowrap
    def dense(self, features: int, name: str, use_bias: bool) -> Dense:
        """Makes a dense layer."""
        options = {"kernel_init": Normal(0.02), "bias_init": zeros, **self.dtypes}
        return Dense(features, use_bias=use_bias, name=name, **options)


def _given(positions: Rotation | None) -> dict[str, Any]:
    """The keyword of an attention that takes positions; none for those that have none."""
    return {} if positions is None else {"positions": positions}


class DifferentialBlock(TransformerBlock):
    """A ``TransformerBlock`` of differential attention.

    Attributes:
      number: how many blocks stand before it, as ``DifferentialAttention`` takes it.
    """

    number: int = 0

    @property
    def attention_kind(self) -> type[Attention]:
        """Differential attention."""
        return DifferentialAttention

    @nn.nowrap
    def attention_options(self) -> dict[str, Any]:
        """Returns what differential attention has."""
        return {"number": self.number}


class DifferentialParallelBlock(ParallelBlock):
    """A ``ParallelBlock`` of differential attention, with one layer behind both ways, too.

    Parameters are named as timm's ``DiffParallelScalingBlock``.

    Attributes:
      number: how many blocks stand before it, as ``DifferentialAttention`` takes it.
    """

    number: int = 0

    def attended(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        train: bool,
        positions: Rotation | None = None,
    ) -> jax.Array:
        """Returns what is attended to, ``[B, N, C]``."""
        q, k = halved(q), halved(k)
        if self.qk_norm:
            q, k = self.normalise(q, "q_norm"), self.normalise(k, "k_norm")
        if positions is not None:
            q, k = positions.turn(q), positions.turn(k)
        return attend_differentially(self, q, k, v, train=train)

    def joined(self, attended: jax.Array, hidden: jax.Array) -> jax.Array:
        """Returns the sum of both ways, as wide as the tokens."""
        both = jnp.concatenate([attended, hidden], axis=-1)
        return self.dense(attended.shape[-1], "out_proj", self.proj_bias)(both)


BLOCKS: dict[str, type[TransformerBlock]] = {
    "pre": TransformerBlock,
    "post": PostNormBlock,
    "pairs": PairsBlock,
    "parallel": ParallelBlock,
    "differential": DifferentialBlock,
    "differential_parallel": DifferentialParallelBlock,
}
