"""XCiT: vision transformers whose channels attend to each other, at a cost linear in the patches.

Attention is of a few channels by a few channels, whatever the size of the image; small depthwise
convolutions let neighbouring patches see each other, and the class token looks at all of them in
the last blocks. Names and numbers are those of timm's ``xcit`` module.

References:
  XCiT: https://arxiv.org/abs/2106.09681
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.class_attention import ClassAttention
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.cross_covariance import CrossCovarianceAttention, FourierPositions
from flaxzoo.layers.drop_path import DropPath
from flaxzoo.layers.initializers import PLAIN, FanIn
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import BatchNorm, as_norm, scaled_channels
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Part
from flaxzoo.models.patch_backbone import LateTokenBackbone
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is; drop_path is for the patches' alone.
_PASSED_ON = (
    *("heads", "mlp_ratio", "activation", "qkv_bias", "layer_scale", "norm", "norm_epsilon"),
    *("attention_dropout", "block_dropout", "dtype", "param_dtype"),
)
# The sizes of a patch: each convolution of the stem halves the image.
_PATCHES = (8, 16)


class ConvolutionalStem(Layer):
    """Images to patches by strided convolutions, each behind the other with a BatchNorm.

    Parameters are named as timm's ``ConvPatchEmbed``.

    Attributes:
      width: the channels of the last one; each has twice those of the one before.
      patch_size: the height and width of a patch, 8 or 16.
      activation: between the convolutions, by name or callable.
    """

    width: int
    patch_size: int = 16
    activation: Any = "gelu"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / patch_size, W / patch_size, width]``, rounded up."""
        count = int(math.log2(self.patch_size))
        for i in range(count):
            if i:
                x = as_activation(self.activation)(x)
            name, width = f"proj_{2 * i}", self.width >> (count - 1 - i)
            x = Conv(width, 3, 2, kernel_init=FanIn(), name=f"{name}_0", **self.dtypes)(x)
            x = BatchNorm(use_running_average=not train, name=f"{name}_1", **self.dtypes)(x)
        return x


class LocalPatchInteraction(Layer):
    """Two depthwise convolutions of 3 x 3 over the patches, an activation and a BatchNorm between.

    Parameters are named as timm's ``LPI``: ``conv1``, ``bn``, ``conv2``.

    Attributes:
      activation: by name or callable.
    """

    activation: Any = "gelu"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width = x.shape[-1]
        options: dict[str, Any] = {"groups": width, "use_bias": True, **self.dtypes}
        options |= PLAIN
        conv = functools.partial(Conv, width, 3, **options)
        x = as_activation(self.activation)(conv(name="conv1")(x))
        x = BatchNorm(use_running_average=not train, name="bn", **self.dtypes)(x)
        return conv(name="conv2")(x)


class XcitBlock(TransformerBlock):
    """Cross-covariance attention, local patch interaction and an MLP, each behind a norm.

    Parameters are named as timm's ``XCABlock``; the scales are the block's own parameters.
    """

    # Its positions are the tokens' own.
    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: jax.Array, train: bool = False
    ) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        y = self.normalise(x, "norm1").reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])
        y = self.attention(y, "attn", train).reshape(x.shape)
        x = x + self.branch(y, "gamma1", "drop_path1", train)
        local = LocalPatchInteraction(self.activation, name="local_mp", **self.dtypes)
        # The third norm stands before the second, as the authors' files have them.
        y = local(self.normalise(x, "norm3"), train)
        x = x + self.branch(y, "gamma3", "drop_path3", train)
        y = self.feed_forward(self.normalise(x, "norm2"), "mlp", train)
        return x + self.branch(y, "gamma2", "drop_path2", train)

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Mixes the channels of tokens."""
        return CrossCovarianceAttention(**self.attention_fields(), name=name)(x, train)

    @nn.nowrap
    def attention_fields(self) -> dict[str, Any]:
        """Returns the fields of the attention."""
        own = ("heads", "qkv_bias", "attention_dropout")
        fields = {name: getattr(self, name) for name in own}
        return {**fields, "dropout": self.block_dropout, **self.dtypes}

    def branch(self, y: jax.Array, scale: str, drop: str, train: bool) -> jax.Array:
        """Scales what is added, by the block's own parameters, and drops it for some examples."""
        y = scaled_channels(self, scale, y, self.layer_scale, param_dtype=self.param_dtype)
        return DropPath(self.drop_path, name=drop)(y, deterministic=not train)


class ClassBlock(XcitBlock):
    """A block in which the class token, the first one, looks at all tokens.

    Parameters are named as timm's ``ClassAttentionBlock``. The other tokens are normalised and
    scaled on their way, as in the authors' network.

    Attributes:
      norm_tokens: whether the second norm is for all tokens, or for the class token alone.
    """

    norm_tokens: bool = True

    # Its positions are the tokens' own.
    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: jax.Array, train: bool = False
    ) -> jax.Array:
        """Maps tokens ``[B, 1 + N, C]`` to the same shape."""
        y = self.normalise(x, "norm1")
        y = jnp.concatenate([self.attention(y, "attn", train), y[:, 1:]], axis=1)
        x = x + self.branch(y, "gamma1", "drop_path1", train)
        if self.norm_tokens:
            x = self.normalise(x, "norm2")
        else:
            x = jnp.concatenate([self.normalise(x[:, :1], "norm2"), x[:, 1:]], axis=1)
        token = self.branch(
            self.feed_forward(x[:, :1], "mlp", train), "gamma2", "drop_path2", train
        )
        # The others are added to themselves.
        return x + jnp.concatenate([token, x[:, 1:]], axis=1)

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Returns what the class token finds."""
        return ClassAttention(**self.attention_fields(), name=name)(x, train)


class Xcit(LateTokenBackbone):
    """An XCiT without its classifier: stem, blocks, those of the class token, and the last norm.

    It maps images ``[B, H, W, C]`` of any size to tokens ``[B, 1 + rows * columns, width]``, the
    class token first. Maps are the patches behind each of the blocks before it comes in, without
    the last norm.

    Attributes:
      patch_size: height and width of a patch, 8 or 16.
      width: of a token.
      depth: number of blocks of the patches.
      class_depth: number of blocks of the class token, behind them.
      heads: number of heads of each block.
      mlp_ratio: the hidden units of each MLP, as a multiple of ``width``.
      activation: of the MLPs and convolutions, by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      layer_scale: what the learnt scales of the branches begin with.
      norm_tokens: whether the class token's blocks normalise all tokens behind their attention.
      norm: the kind of the norms but those of convolutions, by name or module
        (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      position_dropout: rate at which units are dropped before the blocks.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the patches' blocks, the same in all of them.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    patch_size: int = 16
    width: int = 768
    depth: int = 12
    class_depth: int = 2
    heads: int = 12
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    qkv_bias: bool = True
    layer_scale: float = 1.0
    norm_tokens: bool = True
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    position_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def grid_of(self, shape: tuple[int, ...]) -> Grid:
        """The rows and columns of patches of images ``[H, W, ...]``."""
        return -(-shape[0] // self.patch_size), -(-shape[1] // self.patch_size)

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, ``blocks_0`` and so on, the class token, its blocks, and the last norm."""
        yield Part("stem", self._stem, owns=("patch_embed", "pos_embed"), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        for i in range(self.depth):
            yield Part(
                f"blocks_{i}",
                functools.partial(XcitBlock, drop_path=self.drop_path, **fields),
                map=f"blocks_{i}",
                reduction=self.patch_size,
                remat=self.remat,
            )
        yield Part("cls_token", self.with_class_token, owns=("cls_token",), depth="stem")
        for i in range(self.class_depth):
            yield Part(
                f"cls_attn_blocks_{i}",
                functools.partial(ClassBlock, norm_tokens=self.norm_tokens, **fields),
                takes="tokens",
                remat=self.remat,
            )
        last = f"cls_attn_blocks_{self.class_depth - 1}"
        yield Part("norm", self._norm, owns=("norm",), takes="tokens", depth=last)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        fields = (self.width, self.patch_size, self.activation)
        x = ConvolutionalStem(*fields, name="patch_embed", **self.dtypes)(x, train)
        positions = FourierPositions(self.width, name="pos_embed", **self.dtypes)
        x = x + positions((x.shape[1], x.shape[2])).astype(x.dtype)
        return nn.Dropout(self.position_dropout, name="pos_drop")(x, deterministic=not train)

    def _norm(self, x: jax.Array, _train: bool) -> jax.Array:
        return as_norm(self.norm)(epsilon=self.norm_epsilon, name="norm", **self.dtypes)(x)

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("pos_embed/*", "cls_token")

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("width", "depth", "class_depth"):
            check_size(name, getattr(self, name))
        if self.patch_size not in _PATCHES:
            raise ArgumentError(f"patch_size must be 8 or 16, got {self.patch_size!r}")
        next(part for part in self.parts() if part.map).run(parent=None).check_fields()
        if self.width % self.heads:
            raise ArgumentError(f"width must be a multiple of heads={self.heads}, got {self.width}")
        if self.width % (self.patch_size // 2):
            raise ArgumentError(
                f"width must be a multiple of {self.patch_size // 2}, by which the stem of patches "
                f"of {self.patch_size} x {self.patch_size} begins narrower, got {self.width}"
            )


def _convert(tensors: Mapping[str, Any], _backbone: Xcit) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files, whose class attention is one layer."""
    converted: dict[str, Any] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(cls_attn_blocks\.\d+\.attn\.)qkv(\..*)", name)
        if match is None:
            converted[name.replace("pos_embeder.", "pos_embed.")] = tensor
            continue
        parts = tensor.reshape(3, -1, *tensor.shape[1:])
        converted |= {
            f"{match[1]}{letter}{match[2]}": part for letter, part in zip("qkv", parts, strict=True)
        }
    return converted


# What names have in common: sizes.
_NANO_12: dict[str, Any] = {"width": 128, "depth": 12, "heads": 4, "norm_tokens": False}
_TINY_12: dict[str, Any] = {"width": 192, "depth": 12, "heads": 4}
_SMALL_12: dict[str, Any] = {"width": 384, "depth": 12, "heads": 8}
_TINY_24: dict[str, Any] = {"width": 192, "depth": 24, "heads": 4, "layer_scale": 1e-5}
_SMALL_24: dict[str, Any] = {"width": 384, "depth": 24, "heads": 8, "layer_scale": 1e-5}
_MEDIUM_24: dict[str, Any] = {"width": 512, "depth": 24, "heads": 8, "layer_scale": 1e-5}
_LARGE_24: dict[str, Any] = {"width": 768, "depth": 24, "heads": 16, "layer_scale": 1e-5}
_384 = (384, 384, 3)

variants(
    Xcit,
    {
        "xcit_nano_12_p16_224": row("XCiT-N12/16", patch_size=16, **_NANO_12),
        "xcit_nano_12_p16_384": row("XCiT-N12/16", patch_size=16, input_shape=_384, **_NANO_12),
        "xcit_tiny_12_p16_224": row("XCiT-T12/16", patch_size=16, **_TINY_12),
        "xcit_tiny_12_p16_384": row("XCiT-T12/16", patch_size=16, input_shape=_384, **_TINY_12),
        "xcit_small_12_p16_224": row("XCiT-S12/16", patch_size=16, **_SMALL_12),
        "xcit_small_12_p16_384": row("XCiT-S12/16", patch_size=16, input_shape=_384, **_SMALL_12),
        "xcit_tiny_24_p16_224": row("XCiT-T24/16", patch_size=16, **_TINY_24),
        "xcit_tiny_24_p16_384": row("XCiT-T24/16", patch_size=16, input_shape=_384, **_TINY_24),
        "xcit_small_24_p16_224": row("XCiT-S24/16", patch_size=16, **_SMALL_24),
        "xcit_small_24_p16_384": row("XCiT-S24/16", patch_size=16, input_shape=_384, **_SMALL_24),
        "xcit_medium_24_p16_224": row("XCiT-M24/16", patch_size=16, **_MEDIUM_24),
        "xcit_medium_24_p16_384": row("XCiT-M24/16", patch_size=16, input_shape=_384, **_MEDIUM_24),
        "xcit_large_24_p16_224": row("XCiT-L24/16", patch_size=16, **_LARGE_24),
        "xcit_large_24_p16_384": row("XCiT-L24/16", patch_size=16, input_shape=_384, **_LARGE_24),
        "xcit_nano_12_p8_224": row("XCiT-N12/8", patch_size=8, **_NANO_12),
        "xcit_nano_12_p8_384": row("XCiT-N12/8", patch_size=8, input_shape=_384, **_NANO_12),
        "xcit_tiny_12_p8_224": row("XCiT-T12/8", patch_size=8, **_TINY_12),
        "xcit_tiny_12_p8_384": row("XCiT-T12/8", patch_size=8, input_shape=_384, **_TINY_12),
        "xcit_small_12_p8_224": row("XCiT-S12/8", patch_size=8, **_SMALL_12),
        "xcit_small_12_p8_384": row("XCiT-S12/8", patch_size=8, input_shape=_384, **_SMALL_12),
        "xcit_tiny_24_p8_224": row("XCiT-T24/8", patch_size=8, **_TINY_24),
        "xcit_tiny_24_p8_384": row("XCiT-T24/8", patch_size=8, input_shape=_384, **_TINY_24),
        "xcit_small_24_p8_224": row("XCiT-S24/8", patch_size=8, **_SMALL_24),
        "xcit_small_24_p8_384": row("XCiT-S24/8", patch_size=8, input_shape=_384, **_SMALL_24),
        "xcit_medium_24_p8_224": row("XCiT-M24/8", patch_size=8, **_MEDIUM_24),
        "xcit_medium_24_p8_384": row("XCiT-M24/8", patch_size=8, input_shape=_384, **_MEDIUM_24),
        "xcit_large_24_p8_224": row("XCiT-L24/8", patch_size=8, **_LARGE_24),
        "xcit_large_24_p8_384": row("XCiT-L24/8", patch_size=8, input_shape=_384, **_LARGE_24),
    },
    paper="https://arxiv.org/abs/2106.09681",
    reference=Reference(stem=("patch_embed/proj_0_0",), classifier="head", convert=_convert),
)
