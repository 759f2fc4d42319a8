"""ReXNet: inverted residuals whose width grows from block to block, rather than by stages.

A block's input is added to the first of its output's channels. ``rexnetr`` rounds widths to
multiples of 8 or 16; the number is the width in percent. Names and numbers are those of timm's
``rexnet`` module.

References:
  ReXNet: https://arxiv.org/abs/2007.00992
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_number, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import FanOut, HeNormal
from flaxzoo.layers.layer import Layer
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.mobile_backbone import round_width
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What blocks get from the network as it is.
_PASSED_ON = ("activation", "inner_activation", "norm", "norm_epsilon", "dtype", "param_dtype")


class LinearBottleneck(Layer, kw_only=True):
    """Widens, convolves each channel and narrows; the input is added to the first channels.

    Parameters are named as timm's: ``conv_exp``, ``conv_dw``, ``se`` and ``conv_pwl``.

    Attributes:
      features: the channels of the output.
      hidden: the channels inside; None for those of the input, and no layer that widens.
      stride: by how much maps shrink.
      dilation: the distances between the elements of the kernels over the image.
      squeeze: the width inside the gate, which has a norm; 0 for no gate.
      skip: whether the input may be added at all: it is where the output has its size, and as many
        channels or more.
      activation: of the layer that widens, by name or callable.
      inner_activation: behind the gate.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      drop_path: rate at which the branch of an example is dropped.
    """

    features: int
    hidden: int | None = None
    stride: int = 1
    dilation: int = 1
    squeeze: int = 0
    skip: bool = True
    activation: str | Callable[[jax.Array], jax.Array] = "silu"
    inner_activation: str | Callable[[jax.Array], jax.Array] = "relu6"
    norm: Any = "batch"
    norm_epsilon: float | None = None
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        conv = functools.partial(
            ConvNorm, kernel_init=HeNormal(), norm=self.norm, norm_epsilon=self.norm_epsilon
        )
        y = x
        if self.hidden is not None:
            wide = conv(self.hidden, activation=self.activation, name="conv_exp", **self.dtypes)
            y = wide(y, train)
        groups = y.shape[-1]
        depthwise: dict[str, Any] = {"groups": groups, "kernel_init": HeNormal(groups=groups)}
        depthwise |= {"stride": self.stride, "dilation": self.dilation, **self.dtypes}
        y = conv(groups, kernel_size=3, name="conv_dw", **depthwise)(y, train)
        if self.squeeze:
            gate = SqueezeExcite(width=self.squeeze, norm=self.norm, name="se", **self.dtypes)
            y = gate(y, train)
        y = as_activation(self.inner_activation)(y)
        y = conv(self.features, name="conv_pwl", **self.dtypes)(y, train)
        width = x.shape[-1]
        if not self.skip or self.stride > 1 or width > self.features:
            return y
        y = DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)
        return jnp.concatenate([y[..., :width] + x, y[..., width:]], -1)


class ReXNet(Backbone):
    """A ReXNet without its classifier: a convolution, blocks and one more layer.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, 1280 * width_factor]``.
    The feature maps are those before the map is halved, and that of the last block.

    Attributes:
      layers: the number of blocks of each stage.
      strides: by how much each stage makes maps smaller.
      gated: whether a stage's blocks have gates.
      width_factor: what all channels are multiplied by.
      first_width: the channels of the first block.
      growth: how many channels the last block would have more than it, were there one more.
      expansion: how many times as many channels all blocks but those of the first stage have
        inside.
      squeeze_ratio: the width inside gates, as a part of the channels inside.
      divisor: what divides all channels.
      activation: by name or callable.
      inner_activation: between the layers of a block, behind the gate.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later stages
        are dilated instead of strided, so that pretrained weights fit all three.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (1, 2, 2, 3, 3, 5)
    strides: Sequence[int] = (1, 2, 2, 2, 1, 2)
    gated: Sequence[bool] = (False, False, True, True, True, True)
    width_factor: float = 1.0
    first_width: float = 16
    growth: float = 180
    expansion: float = 6.0
    squeeze_ratio: float = 1 / 12
    divisor: int = 1
    activation: str | Callable[[jax.Array], jax.Array] = "silu"
    inner_activation: str | Callable[[jax.Array], jax.Array] = "relu6"
    norm: Any = "batch"
    norm_epsilon: float | None = None
    output_stride: int = 32
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The first convolution, the blocks ``features_0``, ``features_1`` and so on, a layer."""
        layer: dict[str, Any] = {"activation": self.activation, "kernel_init": HeNormal()}
        layer |= {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.dtypes}
        # Narrow networks have the first convolution and the first block of the usual width.
        width = self._width(32 / min(self.width_factor, 1.0))
        stem = functools.partial(ConvNorm, width, 3, 2, **layer)
        yield Part("stem", stem, takes="images")
        own = {name: getattr(self, name) for name in _PASSED_ON}
        total = sum(self.layers)
        rates = drop_path_rates(self.drop_path, total)
        reduction, dilation = 2, 1
        blocks = [
            (stage, self.strides[stage] if i == 0 else 1)
            for stage, count in enumerate(self.layers)
            for i in range(count)
        ]
        for number, (stage, stride) in enumerate(blocks):
            hidden = self._rounded(width * self.expansion) if stage else None
            squeeze = self._rounded(int((hidden or width) * self.squeeze_ratio))
            next_dilation = dilation
            if stride > 1 and reduction >= self.output_stride:
                next_dilation, stride = dilation * stride, 1
            reduction *= stride
            first = self.first_width / min(self.width_factor, 1.0)
            width = self._width(first + self.growth * number / total)
            run = functools.partial(
                LinearBottleneck,
                features=width,
                hidden=hidden,
                stride=stride,
                dilation=dilation,
                squeeze=squeeze if self.gated[stage] else 0,
                skip=dilation == next_dilation,
                drop_path=rates[number],
                **own,
            )
            dilation = next_dilation
            complete = number == total - 1 or blocks[number + 1][1] > 1
            name = f"features_{number}"
            kept = name if complete else None
            yield Part(name, run, map=kept, reduction=reduction, remat=self.remat)
        last = functools.partial(ConvNorm, round_width(1280, self.width_factor, self.divisor))
        yield Part(f"features_{total}", functools.partial(last, **layer))

    @nn.nowrap
    def _width(self, channels: float) -> int:
        return self._rounded(channels * self.width_factor)

    @nn.nowrap
    def _rounded(self, channels: float) -> int:
        return round_width(round(channels), by=self.divisor)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The classifier begins as TensorFlow's."""
        return {**super().head_options(), "kernel_init": FanOut()}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("layers", self.layers)
        check_lengths(layers=self.layers, strides=self.strides, gated=self.gated)
        if not set(self.strides) <= {1, 2}:
            raise ArgumentError(f"strides must each be 1 or 2, got {tuple(self.strides)}")
        for name in ("width_factor", "first_width", "expansion", "squeeze_ratio"):
            check_number(name, getattr(self, name), above=0)
        check_number("growth", self.growth, minimum=0)
        check_size("divisor", self.divisor)
        as_activation(self.inner_activation)


variants(
    ReXNet,
    {
        "rexnet_100": row("ReXNet 1.0x"),
        "rexnet_130": row("ReXNet 1.3x", width_factor=1.3),
        "rexnet_150": row("ReXNet 1.5x", width_factor=1.5),
        "rexnet_200": row("ReXNet 2.0x", width_factor=2.0),
        "rexnet_300": row("ReXNet 3.0x", width_factor=3.0),
        "rexnetr_100": row("ReXNet-R 1.0x", divisor=8),
        "rexnetr_130": row("ReXNet-R 1.3x", width_factor=1.3, divisor=8),
        "rexnetr_150": row("ReXNet-R 1.5x", width_factor=1.5, divisor=8),
        "rexnetr_200": row("ReXNet-R 2.0x", width_factor=2.0, divisor=8),
        "rexnetr_300": row("ReXNet-R 3.0x", width_factor=3.0, divisor=16),
    },
    paper="https://arxiv.org/abs/2007.00992",
    reference=Reference(stem=("stem/conv",), classifier="head.fc"),
)
# timm's functions of these names take no numbers of blocks: all are compared whole.
CUT: dict[str, str] = {}
