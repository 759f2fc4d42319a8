"""Next-ViT: convolutions in groups for most blocks, and attention in a few.

Blocks of convolutions and of attention are both built as a mixer and an MLP. Those that attend also
convolve: attention makes three quarters of their channels, and a convolution of these the rest.
Names and numbers are those of timm's ``nextvit`` module.

References:
  Next-ViT: https://arxiv.org/abs/2207.05501
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_number, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import attend, weight_hook
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import divisible
from flaxzoo.layers.initializers import Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.pool import shortcut_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What blocks get from the network as it is.
_PASSED_ON = (
    *("head_width", "activation", "norm", "norm_epsilon", "block_dropout", "dtype", "param_dtype"),
)
_ATTENTION = ("attention_share", "attention_dropout", "implementation")
_INIT = Normal(0.02)
# timm's third stage has a multiple of five blocks, and at least one of these.
CUT: dict[str, str] = {}


class _Layers(Layer):
    """The fields that the modules of a Next-ViT share.

    Attributes:
      head_width: the width of a head, and of a group of convolutions.
      activation: by name or callable.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      block_dropout: the rate at which the units of attention and MLP are dropped.
    """

    head_width: int = 32
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float = 1e-5
    block_dropout: float = 0.0

    def normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Normalises maps or tokens."""
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)


class GroupAttention(_Layers):
    """A convolution in groups, which stand for heads, and a layer that mixes them.

    Li et al. 2022, https://arxiv.org/abs/2207.05501, section 3.2. Parameters are named as timm's
    ``ConvAttention``: ``group_conv3x3``, ``norm``, ``projection``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        options: dict[str, Any] = {"kernel_init": _INIT, **self.dtypes}
        groups = x.shape[-1] // self.head_width
        y = Conv(x.shape[-1], 3, groups=groups, name="group_conv3x3", **options)(x)
        y = as_activation(self.activation)(self.normalise(y, "norm", train))
        return Conv(x.shape[-1], 1, name="projection", **options)(y)


class ReducedAttention(_Layers):
    """Attention of each pixel to means of as many pixels in a row as ``key_stride`` squared.

    Parameters are named as timm's ``EfficientAttention``: ``q``, ``k``, ``v``, ``norm``, ``proj``.

    Attributes:
      key_stride: the root of how many pixels are averaged, row by row; 1 for none.
      attention_dropout: the rate at which attention's weights are dropped.
      implementation: ``"einsum"``, ``"xla"`` or ``"cudnn"`` (``flaxzoo.layers.attention.attend``).
    """

    key_stride: int = 1
    attention_dropout: float = 0.0
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape.

        Raises:
          ShapeError: the map has fewer pixels than are averaged.
        """
        batch, height, width, channels = x.shape
        tokens = x.reshape(batch, height * width, channels)
        q, keys = self._dense(channels, "q")(tokens), tokens
        if self.key_stride > 1:
            reach = self.key_stride**2
            count = height * width // reach
            if not count:
                raise ShapeError(
                    f"a map of {height} x {width} has no key at key_stride={self.key_stride}, "
                    f"which averages {reach} pixels: images must be larger"
                )
            keys = tokens[:, : count * reach].reshape(batch, count, reach, channels).mean(2)
            keys = self.normalise(keys, "norm", train)
        k, v = self._dense(channels, "k")(keys), self._dense(channels, "v")(keys)
        q, k, v = (part.reshape(*part.shape[:2], -1, self.head_width) for part in (q, k, v))
        drop = weight_hook(self, self.attention_dropout, train)
        y = attend(q, k, v, drop=drop, implementation=self.implementation)
        y = self._dense(channels, "proj")(y.reshape(x.shape))
        return nn.Dropout(self.block_dropout, name="proj_drop")(y, deterministic=not train)

    @nn.nowrap
    def _dense(self, features: int, name: str) -> Dense:
        options: dict[str, Any] = {"kernel_init": _INIT, "bias_init": zeros, **self.dtypes}
        return Dense(features, name=name, **options)


class ConvolutionBlock(_Layers):
    """A convolution in groups and an MLP, each added to its input.

    Parameters are named as timm's ``NextConvBlock``: ``patch_embed``, ``mhca``, ``norm``, ``mlp``.

    Attributes:
      features: the channels of the output.
      stride: by how much it is smaller.
      mlp_ratio: the hidden units of the MLP, as a multiple of ``features``.
      drop_path: the rate at which a branch is dropped for a whole example (stochastic depth).
    """

    features: int = 96
    stride: int = 1
    mlp_ratio: float = 3.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        x = self.embed(x, self.features, "patch_embed", train)
        x = self.convolved(x, 1.0, "attn_drop_path", train)
        return self.feed_forward(x, "norm", train)

    def embed(self, x: jax.Array, features: int, name: str, train: bool) -> jax.Array:
        """Maps a map to another number of channels, where it is one; averages 2 x 2 before."""
        stride = self.stride if name == "patch_embed" else 1
        if stride > 1:
            x = shortcut_pool(x, stride)
        elif x.shape[-1] == features:
            return x
        options: dict[str, Any] = {"norm": self.norm, "norm_epsilon": self.norm_epsilon}
        options |= {"names": ("conv", "norm"), "kernel_init": _INIT, **self.dtypes}
        return ConvNorm(features, name=name, **options)(x, train)

    def convolved(self, x: jax.Array, share: float, name: str, train: bool) -> jax.Array:
        """Adds the convolution in groups."""
        own = {field: getattr(self, field) for field in _PASSED_ON}
        return self.add(x, GroupAttention(name="mhca", **own)(x, train), share, name, train)

    def feed_forward(self, x: jax.Array, norm: str, train: bool) -> jax.Array:
        """Adds the MLP."""
        options: dict[str, Any] = {"activation": self.activation, "dropout": self.block_dropout}
        options |= {"as_conv": True, "kernel_init": _INIT, **self.dtypes}
        y = self.normalise(x, norm, train)
        y = Mlp(int(x.shape[-1] * self.mlp_ratio), name="mlp", **options)(y, train)
        return self.add(x, y, 1.0, "mlp_drop_path", train)

    def add(self, x: jax.Array, y: jax.Array, share: float, name: str, train: bool) -> jax.Array:
        """Adds a branch, which is dropped for some examples at a share of the rate."""
        return x + DropPath(self.drop_path * share, name=name)(y, deterministic=not train)


class AttentionBlock(ConvolutionBlock):
    """Attention makes most channels, a convolution of them the others; then an MLP of both.

    Parameters are named as timm's ``NextTransformerBlock``: ``patch_embed``, ``norm1``,
    ``e_mhsa``, ``projection``, ``mhca``, ``norm2``, ``mlp``.

    Attributes:
      attention_share: the share of the channels that attend, rounded to a multiple of 32.
      key_stride: of the attention, likewise its other fields.
      attention_dropout: the rate at which attention's weights are dropped.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
    """

    mlp_ratio: float = 2.0
    attention_share: float = 0.75
    key_stride: int = 1
    attention_dropout: float = 0.0
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        names = (*_PASSED_ON, "key_stride", "attention_dropout", "implementation")
        own = {field: getattr(self, field) for field in names}
        width = attending_width(self.features, self.attention_share)
        x = self.embed(x, width, "patch_embed", train)
        y = ReducedAttention(name="e_mhsa", **own)(self.normalise(x, "norm1", train), train)
        x = self.add(x, y, self.attention_share, "mhsa_drop_path", train)
        y = self.embed(x, self.features - width, "projection", train)
        y = self.convolved(y, 1 - self.attention_share, "mhca_drop_path", train)
        return self.feed_forward(jnp.concatenate([x, y], axis=-1), "norm2", train)


def attending_width(features: int, share: float) -> int:
    """Returns how many of a block's channels attend: at least 0.9 of the share, in 32s."""
    wanted = int(features * share)
    width = divisible(wanted, 32, 32)
    return width if width >= 0.9 * wanted else width + 32


class NextVit(Backbone):
    """A Next-ViT without its classifier: a stem, stages and the last norm.

    It maps images ``[B, H, W, C]`` to the last map, ``[B, H / 32, W / 32, C]`` for four stages,
    rounded up. Images may be of any size of at least ``key_stride`` squared pixels in each stage
    that attends.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each stage's blocks of convolutions.
      attention_widths: those of the blocks that attend.
      attention_every: every how many-th block of each stage attends; 0 for none.
      key_strides: the roots of how many pixels are averaged for a key, in each stage.
      attention_share: the share of the channels of blocks that attend which attention makes.
      stem_widths: the channels of the first convolutions; the last stand twice.
      head_width: the width of a head, and of a group of convolutions.
      mlp_ratio: the hidden units of the MLPs of convolutions' blocks, as a multiple of the width.
      attention_mlp_ratio: likewise in blocks that attend.
      activation: by name or callable.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLPs are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 4, 10, 3)
    widths: Sequence[int] = (96, 192, 384, 768)
    attention_widths: Sequence[int] = (96, 256, 512, 1024)
    attention_every: Sequence[int] = (0, 4, 5, 3)
    key_strides: Sequence[int] = (8, 4, 2, 1)
    attention_share: float = 0.75
    stem_widths: Sequence[int] = (64, 32, 64)
    head_width: int = 32
    mlp_ratio: float = 3.0
    attention_mlp_ratio: float = 2.0
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float = 1e-5
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, and the last norm."""
        names = tuple(f"stem_{i}" for i in range(len(self.stem_widths) + 1))
        yield Part("stem", self._stem, owns=names, takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        own: dict[str, Any] = {name: getattr(self, name) for name in _PASSED_ON}
        attention = {name: getattr(self, name) for name in _ATTENTION}
        for i, count in enumerate(self.layers):
            for j in range(count):
                fields = {"stride": 2 if i and not j else 1, "drop_path": next(rates), **own}
                kind: Any = ConvolutionBlock
                if self._attends(i, j):
                    kind, fields = AttentionBlock, {**fields, **attention}
                    fields |= {"key_stride": self.key_strides[i]}
                    fields |= {"mlp_ratio": self.attention_mlp_ratio}
                    fields |= {"features": self.attention_widths[i]}
                else:
                    fields |= {"features": self.widths[i], "mlp_ratio": self.mlp_ratio}
                options: dict[str, Any] = {"map": f"stages_{i}" if j == count - 1 else None}
                options |= {"reduction": 4 << i, "remat": self.remat}
                name = f"stages_{i}_blocks_{j}"
                yield Part(name, functools.partial(kind, **fields), **options)
        yield Part("norm", self._norm, owns=("norm",), depth=name)

    @nn.nowrap
    def _attends(self, stage: int, block: int) -> bool:
        every = self.attention_every[stage]
        return bool(every) and (block + 1) % every == 0

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        widths = (*self.stem_widths, self.stem_widths[-1])
        own = ("activation", "norm", "norm_epsilon", "dtype", "param_dtype")
        options: dict[str, Any] = {name: getattr(self, name) for name in own}
        options |= {"names": ("conv", "norm"), "kernel_init": _INIT}
        for i, width in enumerate(widths):
            stride = 2 if i in (0, len(widths) - 1) else 1
            x = ConvNorm(width, 3, stride, name=f"stem_{i}", **options)(x, train)
        return x

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), "kernel_init": _INIT}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        names = ("layers", "widths", "attention_widths", "attention_every", "key_strides")
        lists = {name: getattr(self, name) for name in names}
        for name in ("layers", "widths", "attention_widths", "key_strides"):
            check_widths(name, lists[name])
        check_lengths(**lists)
        check_widths("stem_widths", self.stem_widths)
        for every in self.attention_every:
            check_size("attention_every", every, minimum=0)
        check_size("head_width", self.head_width)
        for name in ("mlp_ratio", "attention_mlp_ratio"):
            check_number(name, getattr(self, name), above=0)
        check_number("attention_share", self.attention_share, above=0, below=1)
        self._check_widths()

    @nn.nowrap
    def _check_widths(self) -> None:
        """Raises ArgumentError for channels that heads do not divide."""
        size = self.head_width
        if any(width % size for width in self.widths):
            raise ArgumentError(
                f"widths must be multiples of head_width={size}, got {tuple(self.widths)}"
            )
        for width, every in zip(self.attention_widths, self.attention_every, strict=True):
            seen = attending_width(width, self.attention_share)
            if every and (seen >= width or seen % size or width % size):
                raise ArgumentError(
                    f"attention_widths must be multiples of head_width={size} of which "
                    f"attention_share={self.attention_share} leaves some, in multiples of 32, got "
                    f"{width}"
                )


def _convert(tensors: Mapping[str, Any], backbone: NextVit) -> Mapping[str, Any]:
    """Timm's names for the tensors of the authors' files, whose blocks stand in one list."""
    if "features.0.norm.weight" not in tensors:
        return tensors
    counts = enumerate(backbone.layers)
    places = [f"stages.{i}.blocks.{j}" for i, count in counts for j in range(count)]

    def name(old: str) -> str:
        old = re.sub(r"mlp\.conv(\d)", r"mlp.fc\1", old).replace("proj_head.0", "head.fc")
        match = re.match(r"features\.(\d+)\.(.*)", old)
        known = match is not None and int(match[1]) < len(places)
        return f"{places[int(match[1])]}.{match[2]}" if match and known else old

    return {name(old): value for old, value in tensors.items()}


REFERENCE = Reference(
    stem=("stem_0/conv",),
    classifier="head.fc",
    convert=_convert,
    # Branches are added to each other, and no norm stands between them.
    gain=0.5,
)
variants(
    NextVit,
    {
        "nextvit_small": row("Next-ViT-S"),
        "nextvit_base": row("Next-ViT-B", layers=(3, 4, 20, 3)),
        "nextvit_large": row("Next-ViT-L", layers=(3, 4, 30, 3)),
    },
    paper="https://arxiv.org/abs/2207.05501",
    reference=REFERENCE,
)
