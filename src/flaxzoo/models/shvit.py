"""SHViT: attention of a single head, which a part of the channels goes through.

Patches of 16 pixels come from four strided convolutions, and a first stage without attention saves
memory. Names and numbers are those of timm's ``shvit`` module.

References:
  SHViT: https://arxiv.org/abs/2401.16456
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import attend, weight_hook
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import PLAIN, Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import make_norm
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What modules get from the network as it is.
_PASSED_ON = ("activation", "norm", "dtype", "param_dtype")
_STEM = ("patch_embed_0", "patch_embed_2", "patch_embed_4", "patch_embed_6")


class _Layers(Layer):
    """The fields that the modules of an SHViT share.

    Attributes:
      activation: by name or callable.
      norm: the kind of the convolutions' norms, by name or module (``flaxzoo.layers.norm``).
    """

    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"

    @nn.nowrap
    def layer(self, features: int, name: str, size: int = 1, **options: Any) -> ConvNorm:
        """Makes a convolution with its norm."""
        options |= {"norm": self.norm, **self.dtypes}
        return ConvNorm(features, size, names=("c", "bn"), name=name, **options)


class PixelMlp(_Layers):
    """Two layers on each pixel, ``pw1`` of twice the channels and ``pw2``, each with its norm."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        y = self.layer(2 * x.shape[-1], "pw1", activation=self.activation)(x, train)
        return self.layer(x.shape[-1], "pw2", scale_init=zeros)(y, train)


class SingleHeadAttention(_Layers):
    """Attention of one head among all pixels, which the first channels go through.

    Yun and Ro 2024, https://arxiv.org/abs/2401.16456, section 3.2. Parameters are named as timm's
    ``SHSA``: ``pre_norm``, ``qkv``, ``proj``.

    Attributes:
      key_width: the width of queries and keys.
      partial_width: how many channels attend.
    """

    key_width: int = 16
    partial_width: int = 32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        keys, dtypes = self.key_width, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        seen, rest = jnp.split(x, [self.partial_width], axis=-1)
        y = make_norm("group1", "pre_norm", **dtypes)(seen)
        qkv = self.layer(2 * keys + self.partial_width, "qkv")(y, train)
        qkv = qkv.reshape(len(x), x.shape[1] * x.shape[2], 1, qkv.shape[-1])
        q, k, v = jnp.split(qkv, [keys, 2 * keys], axis=-1)
        y = attend(q, k, v, drop=weight_hook(self, 0.0, train)).reshape(seen.shape)
        y = as_activation(self.activation)(jnp.concatenate([y, rest], axis=-1))
        return self.layer(x.shape[-1], "proj", scale_init=zeros)(y, train)


class PatchMerging(_Layers):
    """A strided depthwise convolution of four times the channels, gated.

    Attributes:
      features: the channels of the smaller map.
    """

    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        hidden, options = 4 * x.shape[-1], dict[str, Any](activation=self.activation)
        x = self.layer(hidden, "conv1", **options)(x, train)
        x = self.layer(hidden, "conv2", 3, stride=2, groups=hidden, **options)(x, train)
        x = SqueezeExcite(0.25, **PLAIN, name="se", **self.dtypes)(x)
        return self.layer(self.features, "conv3")(x, train)


class ShvitBlock(_Layers):
    """A depthwise convolution, attention in later stages, and an MLP, each added to its input.

    Parameters are named as timm's ``BasicBlock``: ``conv``, ``mixer``, ``ffn``.

    Attributes:
      attends: whether there is attention.
      key_width: the width of its queries and keys.
      partial_width: how many channels attend.
      drop_path: the rate at which a branch is dropped for a whole example (stochastic depth).
    """

    attends: bool = True
    key_width: int = 16
    partial_width: int = 32
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        own = {name: getattr(self, name) for name in _PASSED_ON}
        width = x.shape[-1]
        conv = self.layer(width, "conv", 3, groups=width, scale_init=zeros)
        x = x + self._drop(conv(x, train), "1", train)
        if self.attends:
            fields = {"key_width": self.key_width, "partial_width": self.partial_width, **own}
            y = SingleHeadAttention(name="mixer", **fields)(x, train)
            x = x + self._drop(y, "2", train)
        return x + self._drop(PixelMlp(name="ffn", **own)(x, train), "3", train)

    def _drop(self, y: jax.Array, number: str, train: bool) -> jax.Array:
        return DropPath(self.drop_path, name=f"drop_path{number}")(y, deterministic=not train)


class Shvit(Backbone):
    """An SHViT without its classifier: a stem of stride 16 and stages of blocks.

    It maps images ``[B, H, W, C]`` of any size to the last map, ``[B, H / 64, W / 64, C]`` for
    three stages, rounded up.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      partial_widths: how many of them attend, in each stage.
      attention: whether the blocks of each stage attend.
      key_width: the width of queries and keys.
      activation: by name or callable.
      norm: the kind of the convolutions' norms, by name or module (``flaxzoo.layers.norm``).
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (2, 4, 5)
    widths: Sequence[int] = (128, 224, 320)
    partial_widths: Sequence[int] = (32, 48, 68)
    attention: Sequence[bool] = (False, True, True)
    key_width: int = 16
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, with what leads to each."""
        yield Part("stem", self._stem, owns=_STEM, takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        fields: dict[str, Any] = {name: getattr(self, name) for name in (*_PASSED_ON, "key_width")}
        for i, count in enumerate(self.layers):
            stage = f"stages_{i}"
            if i:
                owns = tuple(f"{stage}_downsample_{j}" for j in range(5))
                yield Part(f"{stage}_blocks_0", functools.partial(self._down, i), owns=owns)
            own = {"attends": self.attention[i], "partial_width": self.partial_widths[i], **fields}
            for j in range(count):
                block = functools.partial(ShvitBlock, drop_path=next(rates), **own)
                options: dict[str, Any] = {"map": stage if j == count - 1 else None}
                options |= {"reduction": 16 << i, "remat": self.remat}
                yield Part(f"{stage}_blocks_{j}", block, **options)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        for i, name in enumerate(_STEM):
            activation = self.activation if i < 3 else None
            width = self.widths[0] * 2**i // 8
            x = self._layer(width, name, 3, stride=2, activation=activation)(x, train)
        return x

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        name, own = f"stages_{stage}_downsample", {key: getattr(self, key) for key in _PASSED_ON}
        x = x + self._layer(x.shape[-1], f"{name}_0", 3, groups=x.shape[-1])(x, train)
        x = x + PixelMlp(name=f"{name}_1", **own)(x, train)
        x = PatchMerging(features=self.widths[stage], name=f"{name}_2", **own)(x, train)
        x = x + self._layer(x.shape[-1], f"{name}_3", 3, groups=x.shape[-1])(x, train)
        return x + PixelMlp(name=f"{name}_4", **own)(x, train)

    @nn.nowrap
    def _layer(self, features: int, name: str, size: int, **options: Any) -> ConvNorm:
        options |= {"names": ("c", "bn"), "norm": self.norm, "scale_init": ones, **self.dtypes}
        return ConvNorm(features, size, name=name, **options)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers, which have a BatchNorm of their own."""
        options = {"classifier_norm": "batch", "kernel_init": Normal(0.02)}
        return {**super().head_options(), **options}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        names = ("layers", "widths", "partial_widths", "attention")
        lists = {name: getattr(self, name) for name in names}
        for name in names[:3]:
            check_widths(name, lists[name])
        check_lengths(**lists)
        if self.widths[0] % 8:
            raise ArgumentError(f"widths must begin with a multiple of 8, got {self.widths[0]}")
        if any(part > width for part, width in zip(self.partial_widths, self.widths, strict=True)):
            raise ArgumentError(
                f"partial_widths must be at most widths={tuple(self.widths)}, got "
                f"{tuple(self.partial_widths)}"
            )
        check_size("key_width", self.key_width)


REFERENCE = Reference(
    stem=("patch_embed_0/c",),
    classifier="head.l",
    head=(("fc_norm", "head.bn"),),
    renamed=(
        (r"stages_(\d+)_downsample_([0134])", r"stages.\1.downsample.\2.m"),
        ("(conv|mixer|ffn)", r"\1.m"),
        ("proj", "proj.1"),
    ),
    # Branches are added to each other, and no norm stands between them.
    gain=1.0,
)
variants(
    Shvit,
    {
        "shvit_s1": row("SHViT-S1"),
        "shvit_s2": row("SHViT-S2", widths=(128, 308, 448), partial_widths=(32, 66, 96)),
        "shvit_s3": row(
            "SHViT-S3", layers=(3, 5, 5), widths=(192, 352, 448), partial_widths=(48, 75, 96)
        ),
        "shvit_s4": row(
            "SHViT-S4", layers=(4, 7, 6), widths=(224, 336, 448), partial_widths=(48, 72, 96)
        ),
    },
    paper="https://arxiv.org/abs/2401.16456",
    reference=REFERENCE,
)
