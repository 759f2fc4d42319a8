"""Selective kernels: ResNets that weigh a 3 x 3 convolution against a dilated one, by channel.

In timm's ResNets each of the two sees half of the channels, so that they cost no more than one; in
``skresnext50_32x4d``, the paper's SKNet-50, both see all. Names and numbers are those of timm's
``sknet`` module.

Reference: https://arxiv.org/abs/1903.06586
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_number, check_size
from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.gates import divisible
from flaxzoo.layers.initializers import HeNormal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import normalise_and_activate
from flaxzoo.layers.pool import anti_alias
from flaxzoo.layers.residual import ResidualBlock
from flaxzoo.models.registry import row, variants
from flaxzoo.models.resnet import REFERENCE, ResNet, check_basic

# What a selective kernel gets from the network as it is.
_SELECTION = ("split_input", "ratio", "rounding")
_SHARED = ("activation", "norm", "dtype", "param_dtype")


class Selection(Layer):
    """The weight of each of several maps for each channel, of means over the image of their sum.

    Attributes:
      width: that between the two layers, ``fc_reduce`` and ``fc_select``.
      activation: by name or callable.
      norm: of what is between them, ``bn``, by name or module (``flaxzoo.layers.norm``).
    """

    width: int
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, N, H, W, C]``, N maps, to weights ``[B, N, 1, 1, C]`` of sum 1 over N."""
        images, count, channels = maps.shape[0], maps.shape[1], maps.shape[-1]
        x = Conv(self.width, 1, name="fc_reduce", **self.dtypes)(
            maps.sum(1).mean((1, 2), keepdims=True)
        )
        act = as_activation(self.activation)
        x = normalise_and_activate(self.norm, "bn", x, act, train=train, **self.dtypes)
        x = Conv(count * channels, 1, name="fc_select", **self.dtypes)(x)
        wide = x.reshape(images, count, 1, 1, channels)
        wide = wide.astype(jnp.promote_types(x.dtype, jnp.float32))
        return nn.softmax(wide, 1).astype(x.dtype)


class SelectiveKernel(Layer):
    """3 x 3 convolutions of two dilations, summed with weights computed from both.

    Parameters are named as timm's ``SelectiveKernel``: ``paths``, each with ``conv`` and ``bn``,
    and ``attn`` (``Selection``).

    Attributes:
      features: the channels of the output.
      stride: the stride of the convolutions.
      dilation: that of the first; the second, which is to be as large as 5 x 5, has twice as much.
      groups: of each convolution.
      split_input: whether each convolution sees half of the channels, rather than all.
      ratio: the width between the layers of the selection, as a part of ``features``.
      rounding: what divides this width.
      activation: by name or callable.
      norm: by name or module (``flaxzoo.layers.norm``).
      anti_aliasing: ``"avg"``, ``"blur"`` or None, in place of the stride.
    """

    features: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    split_input: bool = True
    ratio: float = 1 / 16
    rounding: int = 8
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    anti_aliasing: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        shared: dict[str, Any] = {"activation": self.activation, "norm": self.norm}
        shared |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"kernel_init": HeNormal(), **shared}
        stride = 1 if self.anti_aliasing else self.stride
        paths = []
        for i, share in enumerate(jnp.split(x, 2, -1) if self.split_input else (x, x)):
            dilation = self.dilation * (i + 1)
            path = ConvNorm(
                self.features,
                3,
                stride,
                self.groups,
                dilation=dilation,
                name=f"paths_{i}",
                **options,
            )
            y = path(share, train)
            if self.anti_aliasing and self.stride > 1:
                y = anti_alias(y, self.anti_aliasing, self.stride)
            paths.append(y)
        width = divisible(self.features * self.ratio, self.rounding, self.rounding, 0.9)
        maps = jnp.stack(paths, 1)
        return (maps * Selection(width, name="attn", **shared)(maps, train)).sum(1)


class SelectiveBlock(ResidualBlock):
    """What the blocks with a selective kernel share.

    Attributes:
      split_input: whether each of its convolutions sees half of the channels, rather than all.
      ratio: the width between the layers of the selection, as a part of the channels.
      rounding: what divides this width.
    """

    split_input: bool = True
    ratio: float = 1 / 16
    rounding: int = 8

    @nn.nowrap
    def selective(self, features: int, name: str) -> SelectiveKernel:
        """The selective kernel, which may be strided."""
        own = {key: getattr(self, key) for key in (*_SELECTION, *_SHARED)}
        return SelectiveKernel(
            features,
            stride=self.stride,
            dilation=self.first_dilation,
            groups=self.groups,
            anti_aliasing=self.anti_aliasing,
            name=name,
            **own,
        )

    @nn.nowrap
    def conv_norm(
        self, features: int, kernel_size: int, name: str, last: bool = False, dilation: int = 1
    ) -> ConvNorm:
        """A convolution with its norm, and the activation but behind the last of a branch."""
        own = {key: getattr(self, key) for key in _SHARED}
        own["activation"] = None if last else self.activation
        scale_init = zeros if last and self.zero_init_residual else ones
        own |= {"dilation": dilation, "scale_init": scale_init, "kernel_init": HeNormal()}
        return ConvNorm(features, kernel_size, name=name, **own)


class SelectiveBasicBlock(SelectiveBlock):
    """A selective kernel and a 3 x 3 convolution."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        y = self.selective(self.features // self.reduce_first, "conv1")(x, train)
        last = self.conv_norm(self.features, 3, "conv2", last=True, dilation=self.dilation)
        return self.add(x, last(y, train), train)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_basic(self)


class SelectiveBottleneck(SelectiveBlock):
    """A 1 x 1 convolution, a selective kernel and another 1 x 1 convolution."""

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H / stride, W / stride, 4 * features]``."""
        width = self.features * self.base_width // 64 * self.groups
        y = self.conv_norm(width // self.reduce_first, 1, "conv1")(x, train)
        y = self.selective(width, "conv2")(y, train)
        last = self.conv_norm(self.features * self.expansion, 1, "conv3", last=True)
        return self.add(x, last(y, train), train)


class SKNet(ResNet):
    """A ``ResNet`` of blocks with a selective kernel.

    Attributes:
      split_input: whether each convolution of a selective kernel sees half of the channels, rather
        than all.
      ratio: the width between the layers that select, as a part of the channels.
      rounding: what divides this width.
    """

    blocks: ClassVar[Mapping[str, type[ResidualBlock]]] = {
        "basic": SelectiveBasicBlock,
        "bottleneck": SelectiveBottleneck,
    }

    zero_init_residual: bool = False
    split_input: bool = True
    ratio: float = 1 / 16
    rounding: int = 8

    @nn.nowrap
    def block_fields(self) -> dict[str, Any]:
        """The fields that all blocks have from the network as they are."""
        own = {name: getattr(self, name) for name in _SELECTION}
        return {**super().block_fields(), **own}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_size("rounding", self.rounding)
        check_number("ratio", self.ratio, above=0)
        super().check_fields()


_BASIC: dict[str, Any] = {"block": "basic", "ratio": 1 / 8, "rounding": 16}

variants(
    SKNet,
    {
        "skresnet18": row("SK-ResNet-18", layers=(2, 2, 2, 2), **_BASIC),
        "skresnet34": row("SK-ResNet-34", layers=(3, 4, 6, 3), **_BASIC),
        "skresnet50": row("SK-ResNet-50", layers=(3, 4, 6, 3)),
        "skresnet50d": row(
            "SK-ResNet-50-D: deep stem, averaging shortcuts",
            layers=(3, 4, 6, 3),
            stem="deep",
            stem_width=32,
            avg_down=True,
        ),
        "skresnext50_32x4d": row(
            "SK-ResNeXt-50, 32 groups of 4: SKNet-50",
            layers=(3, 4, 6, 3),
            groups=32,
            base_width=4,
            split_input=False,
            rounding=32,
        ),
    },
    paper="https://arxiv.org/abs/1903.06586",
    reference=REFERENCE,
)
