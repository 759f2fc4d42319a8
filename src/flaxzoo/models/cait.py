"""CaiT: deep vision transformers in whose last blocks the class token alone looks at the patches.

Heads exchange their attention before and after the softmax, and learnt scales on all branches let
48 blocks train. Names and numbers are those of timm's ``cait`` module.

References:
  CaiT: https://arxiv.org/abs/2103.17239
  Talking heads: https://arxiv.org/abs/2003.02436
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import head_width, weight_hook
from flaxzoo.layers.checked import Checked
from flaxzoo.layers.class_attention import ClassBlock
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath
from flaxzoo.layers.initializers import Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import scaled_channels
from flaxzoo.layers.patch_embed import PatchEmbed, resample_kernel
from flaxzoo.layers.pos_embed import learnt_positions
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Part, tokens_to_map
from flaxzoo.models.patch_backbone import GridBackbone, LateTokenBackbone, resize_positions
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is; that of the class token alone drops nothing.
_PASSED_ON = (
    *("heads", "mlp_ratio", "activation", "qkv_bias", "layer_scale", "norm", "norm_epsilon"),
    *("dtype", "param_dtype"),
)
_DROPPED = ("attention_dropout", "block_dropout", "drop_path")


class HeadMixing(Checked):
    """A linear layer over the heads of attention's logits or weights.

    Attributes:
      param_dtype: the dtype of ``kernel`` ``[H, H]`` and ``bias``.
    """

    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, Q, K]`` to the same shape, in its dtype."""
        heads = x.shape[1]
        kernel = self.param("kernel", Normal(0.02), (heads, heads), self.param_dtype)
        bias = self.param("bias", zeros, (heads,), self.param_dtype)
        y = jnp.einsum("bhqk,hg->bgqk", x, kernel.astype(x.dtype))
        return y + bias.astype(x.dtype).reshape(1, heads, 1, 1)


class TalkingHeadsAttention(Layer):
    """Self-attention whose heads are mixed before the softmax and behind it.

    Shazeer et al. 2020, https://arxiv.org/abs/2003.02436. Logits, softmax and both mixings are
    float32 at least. Parameters are named as timm's ``TalkingHeadAttn``: ``qkv``, ``proj_l``,
    ``proj_w``, ``proj``.

    Attributes:
      heads: the number of heads.
      qkv_bias: whether queries, keys and values have biases.
      attention_dropout: the rate at which attention's weights are dropped.
      dropout: the rate at which outputs are dropped.
    """

    heads: int = 8
    qkv_bias: bool = True
    attention_dropout: float = 0.0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape."""
        width, head_dim = x.shape[-1], head_width(x, self.heads)
        dense = {"kernel_init": Normal(0.02), "bias_init": zeros, "dtype": self.dtype}
        dense["param_dtype"] = self.param_dtype
        qkv = Dense(3 * width, use_bias=self.qkv_bias, name="qkv", **dense)(x)
        q, k, v = (
            part.reshape(*x.shape[:2], self.heads, head_dim) for part in jnp.split(qkv, 3, axis=-1)
        )
        q = q * jnp.asarray(head_dim**-0.5, q.dtype)
        wide = jnp.promote_types(q.dtype, jnp.float32)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=wide)
        logits = HeadMixing(self.param_dtype, name="proj_l")(logits)
        weights = nn.softmax(logits)
        # Those that are shown sum to 1; mixed over the heads, they need not.
        show = weight_hook(self, 0.0, train)
        weights = weights if show is None else show(weights)
        weights = HeadMixing(self.param_dtype, name="proj_w")(weights).astype(v.dtype)
        if self.attention_dropout:
            drop = nn.Dropout(self.attention_dropout, name="attn_drop")
            weights = drop(weights, deterministic=not train)
        y = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
        y = Dense(width, name="proj", **dense)(y)
        if self.dropout:
            y = nn.Dropout(self.dropout, name="proj_drop")(y, deterministic=not train)
        return y


class CaitBlock(TransformerBlock):
    """A block of talking heads, whose scales are its own parameters.

    Parameters are named as timm's ``LayerScaleBlock``.
    """

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Mixes the tokens."""
        return TalkingHeadsAttention(**self.attention_fields(), name=name)(x, train)

    @nn.nowrap
    def attention_fields(self) -> dict[str, Any]:
        """Returns the fields of the attention."""
        own = ("heads", "qkv_bias", "attention_dropout")
        fields = {name: getattr(self, name) for name in own}
        return {**fields, "dropout": self.block_dropout, **self.dtypes}

    def branch(self, y: jax.Array, scale: str, drop: str, train: bool) -> jax.Array:
        """Scales what is added to the tokens, and drops it for some examples."""
        name = scale.replace("ls", "gamma_")
        y = scaled_channels(self, name, y, self.layer_scale, param_dtype=self.param_dtype)
        return DropPath(self.drop_path, name=drop)(y, deterministic=not train)


class CaitClassBlock(ClassBlock, CaitBlock):
    """A block that changes the class token alone, with scales of its own.

    Parameters are named as timm's ``LayerScaleBlockClassAttn``.
    """


class Cait(LateTokenBackbone, GridBackbone):
    """A CaiT without its classifier: patches, blocks, those of the class token, and the last norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, 1 + rows * columns, width]``, the class token
    first. Maps are the patches' tokens behind each of the blocks before it comes in, without the
    last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the positions are for.
      patch_size: height and width of a patch.
      width: of a token.
      depth: number of blocks of the patches.
      class_depth: number of blocks of the class token, behind them.
      heads: number of heads of each block.
      mlp_ratio: the hidden units of each MLP, as a multiple of ``width``.
      activation: of the MLPs, by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      layer_scale: what the learnt scales of the branches begin with.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      position_dropout: rate at which units are dropped before the blocks.
      attention_dropout: rate at which attention's weights are dropped, in the patches' blocks.
      block_dropout: rate at which the units of attention and MLP are dropped there.
      drop_path: rate of stochastic depth there, the same in all blocks.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    class_depth: int = 2
    heads: int = 12
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    qkv_bias: bool = True
    layer_scale: float = 1e-4
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    position_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool | str = False

    # No fields: the class token comes in behind the positions.
    position_prefix = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The patches, ``blocks_0`` and so on, the class token, its blocks, and the last norm."""
        yield Part("embed", self._embed, owns=("patch_embed", "pos_embed"), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        rates = {name: getattr(self, name) for name in _DROPPED}
        rows, columns = self.grid
        for i in range(self.depth):
            yield Part(
                f"blocks_{i}",
                functools.partial(CaitBlock, **fields, **rates),
                takes="tokens",
                map=f"blocks_{i}",
                reduction=self.patch_size,
                view=functools.partial(tokens_to_map, height=rows, width=columns),
                remat=self.remat,
            )
        names = ("cls_token",)
        yield Part("cls_token", self.with_class_token, owns=names, takes="tokens", depth="embed")
        for i in range(self.class_depth):
            yield Part(
                f"blocks_token_only_{i}",
                functools.partial(CaitClassBlock, **fields),
                takes="tokens",
                # The last of them is as deep as the last of the patches'.
                depth=f"blocks_{max(self.depth - self.class_depth + i, 0)}",
                remat=self.remat,
            )
        last = f"blocks_{self.depth - 1}"
        yield Part("norm", self.normalise, owns=("norm",), takes="tokens", depth=last)

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.whole_patches(x)
        x = PatchEmbed(self.width, self.patch_size, name="patch_embed", **self.dtypes)(x, train)
        x = x.reshape(x.shape[0], math.prod(self.grid), self.width)
        positions = learnt_positions(
            self, self.grid, self.width, old_grid=self.grid, dtype=self.param_dtype
        )
        x = x + positions.astype(x.dtype)
        return nn.Dropout(self.position_dropout, name="pos_drop")(x, deterministic=not train)

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("pos_embed", "cls_token")

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        check_size("class_depth", self.class_depth)
        next(part for part in self.parts() if part.map).run(parent=None).check_fields()
        if self.width % self.heads:
            raise ArgumentError(f"width must be a multiple of heads={self.heads}, got {self.width}")


def _convert(tensors: Mapping[str, Any], _backbone: Cait) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files, saved from a wrapper."""
    return {name.replace("module.", ""): tensor for name, tensor in tensors.items()}


# What names have in common: sizes, of images as well.
_XXS: dict[str, Any] = {"width": 192, "heads": 4}
_XS: dict[str, Any] = {"width": 288, "heads": 6}
_S: dict[str, Any] = {"width": 384, "heads": 8}
_M: dict[str, Any] = {"width": 768, "heads": 16, "layer_scale": 1e-6}
_24: dict[str, Any] = {"depth": 24, "layer_scale": 1e-5}
_384, _448 = (384, 384, 3), (448, 448, 3)

variants(
    Cait,
    {
        "cait_xxs24_224": row("CaiT-XXS24", **_XXS, **_24),
        "cait_xxs24_384": row("CaiT-XXS24", input_shape=_384, **_XXS, **_24),
        "cait_xxs36_224": row("CaiT-XXS36", depth=36, layer_scale=1e-5, **_XXS),
        "cait_xxs36_384": row("CaiT-XXS36", depth=36, layer_scale=1e-5, input_shape=_384, **_XXS),
        "cait_xs24_384": row("CaiT-XS24", input_shape=_384, **_XS, **_24),
        "cait_s24_224": row("CaiT-S24", **_S, **_24),
        "cait_s24_384": row("CaiT-S24", input_shape=_384, **_S, **_24),
        "cait_s36_384": row("CaiT-S36", depth=36, layer_scale=1e-6, input_shape=_384, **_S),
        "cait_m36_384": row("CaiT-M36", depth=36, input_shape=_384, **_M),
        "cait_m48_448": row("CaiT-M48", depth=48, input_shape=_448, **_M),
    },
    paper="https://arxiv.org/abs/2103.17239",
    reference=Reference(
        stem=("patch_embed/proj",),
        classifier="head",
        convert=_convert,
        resized=(("params/backbone/pos_embed", resize_positions),),
        patches=("patch_embed/proj", resample_kernel),
    ),
)
