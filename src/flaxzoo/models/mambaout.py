"""MambaOut: what is left of Mamba without its state space model, gated convolutions.

A block widens each pixel, convolves some of the channels by depthwise kernels of 7 x 7, and gates
all. Names ending in ``rw`` are timm's own, with learnt scales and another head. Names and numbers
are those of timm's ``mambaout`` module.

References:
  MambaOut: https://arxiv.org/abs/2405.07992
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
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import LayerScale, call_norm, make_norm
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

_INIT = Normal(0.02)
# What modules get from the network as it is.
_PASSED_ON = ("activation", "norm", "norm_epsilon", "dtype", "param_dtype")


class MambaOutLayers(Layer):
    """What modules of MambaOuts share: convolutions with biases, and norms.

    Attributes:
      activation: by name or callable.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
    """

    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float | None = None

    def conv(self, x: jax.Array, features: int, name: str, **options: Any) -> jax.Array:
        """Convolves, by default 3 x 3 pixels at a stride of 2."""
        options = {"kernel_size": 3, "stride": 2, **options, **self.dtypes}
        return Conv(features, use_bias=True, kernel_init=_INIT, name=name, **options)(x)

    def normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Normalises the last axis."""
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)


class Stem(MambaOutLayers, kw_only=True):
    """Two convolutions of stride 2, with norms.

    Attributes:
      features: the channels of the output.
      inner_norm: whether a norm stands between them, too.
    """

    features: int
    inner_norm: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 4, W / 4, features]``, rounded up."""
        x = self.conv(x, self.features // 2, "conv1")
        if self.inner_norm:
            x = self.normalise(x, "norm1", train)
        x = self.conv(as_activation(self.activation)(x), self.features, "conv2")
        return self.normalise(x, "norm2", train)


class Downsample(MambaOutLayers, kw_only=True):
    """A convolution of stride 2 and a norm.

    Attributes:
      features: the channels of the output.
      norm_first: whether the norm stands before the convolution.
    """

    features: int
    norm_first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        if self.norm_first:
            return self.conv(self.normalise(x, "norm", train), self.features, "conv")
        return self.normalise(self.conv(x, self.features, "conv"), "norm", train)


class GatedConvBlock(MambaOutLayers, kw_only=True):
    """A layer that widens, a depthwise convolution of its last channels, a gate of the first.

    Dauphin et al. 2016, https://arxiv.org/abs/1612.08083. Parameters are named as timm's: ``norm``,
    ``fc1``, ``conv``, ``fc2`` and ``ls``.

    Attributes:
      kernel_size: of the convolution.
      expansion: the channels that are gated, as a multiple of the input's.
      conv_ratio: those that are convolved, likewise.
      layer_scale: what the scale of the branch begins with; None for no scale.
      drop_path: the rate at which the branch is dropped for a whole example.
    """

    kernel_size: int = 7
    expansion: float = 8 / 3
    conv_ratio: float = 1.0
    layer_scale: float | None = None
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        channels = x.shape[-1]
        hidden, convolved = int(self.expansion * channels), int(self.conv_ratio * channels)
        options: dict[str, Any] = {"kernel_init": _INIT, **self.dtypes}
        y = self.normalise(x, "norm", train)
        y = Dense(2 * hidden, name="fc1", **options)(y)
        gate, kept, y = jnp.split(y, (hidden, 2 * hidden - convolved), axis=-1)
        over_image = {"kernel_size": self.kernel_size, "stride": 1, "groups": convolved}
        y = self.conv(y, convolved, "conv", **over_image)
        y = as_activation(self.activation)(gate) * jnp.concatenate([kept, y], -1)
        y = Dense(channels, name="fc2", **options)(y)
        if self.layer_scale is not None:
            y = LayerScale(self.layer_scale, name="ls", **self.dtypes)(y)
        return x + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)


class MambaOut(Backbone):
    """A MambaOut without its classifier: a stem and stages of blocks.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, widths[-1]]``. Its own
    head pools and normalises that, and has a hidden layer.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      kernel_size: of the depthwise convolutions.
      expansion: the channels that blocks gate, as a multiple of those of the stage.
      conv_ratio: those that they convolve, likewise: at most ``expansion``.
      stem_norm: whether a norm stands between the stem's two convolutions.
      norm_first: whether the norm that leads to a stage stands before its convolution.
      layer_scale: what the learnt scales of blocks begin with; None for no scales.
      head_norm: whether the hidden units of the head are normalised.
      activation: of the stem and of gates, by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 3, 9, 3)
    widths: Sequence[int] = (96, 192, 384, 576)
    kernel_size: int = 7
    expansion: float = 8 / 3
    conv_ratio: float = 1.0
    stem_norm: bool = True
    norm_first: bool = False
    layer_scale: float | None = None
    head_norm: bool = True
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, with what leads to each."""
        own = {name: getattr(self, name) for name in _PASSED_ON}
        first: dict[str, Any] = {"features": self.widths[0], "inner_norm": self.stem_norm}
        yield Part("stem", functools.partial(Stem, **first, **own), takes="images")
        fields = ("kernel_size", "expansion", "conv_ratio", "layer_scale")
        block = functools.partial(
            GatedConvBlock, **{name: getattr(self, name) for name in fields}, **own
        )
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for stage, count in enumerate(self.layers):
            if stage:
                down, owns = functools.partial(self._down, stage), (f"stages_{stage}_downsample",)
                yield Part(f"stages_{stage}_blocks_0", down, owns)
            for i in range(count):
                yield Part(
                    f"stages_{stage}_blocks_{i}",
                    functools.partial(block, drop_path=next(rates)),
                    map=f"stages_{stage}" if i == count - 1 else None,
                    reduction=4 << stage,
                    remat=self.remat,
                )

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        own = {name: getattr(self, name) for name in _PASSED_ON}
        down = functools.partial(Downsample, features=self.widths[stage], **own)
        return down(norm_first=self.norm_first, name=f"stages_{stage}_downsample")(x, train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """A norm and a hidden layer behind the pooling."""
        own: dict[str, Any] = {"norm": self.norm, "norm_epsilon": self.norm_epsilon}
        own |= {"hidden": (4 * self.widths[-1],), "activation": "gelu", "kernel_init": _INIT}
        if self.head_norm:
            own |= {"hidden_norm": self.norm, "hidden_norm_epsilon": self.norm_epsilon}
        return {**super().head_options(), **own}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("layers", "widths"):
            check_widths(name, getattr(self, name))
        check_lengths(layers=self.layers, widths=self.widths)
        check_size("kernel_size", self.kernel_size)
        check_number("expansion", self.expansion, above=0)
        check_number("conv_ratio", self.conv_ratio, above=0)
        if self.kernel_size % 2 == 0:
            raise ArgumentError(f"kernel_size must be odd, got {self.kernel_size}")
        if self.conv_ratio > self.expansion or int(self.conv_ratio * min(self.widths)) < 1:
            raise ArgumentError(
                f"conv_ratio must be at most expansion={self.expansion:g} and leave a channel of "
                f"widths={tuple(self.widths)}, got {self.conv_ratio:g}"
            )


def _convert(tensors: Mapping[str, Any], _backbone: MambaOut) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files."""
    if "stem.conv1.weight" in tensors:
        return tensors
    return {_today(name): value for name, value in tensors.items()}


def _today(name: str) -> str:
    """Returns timm's name for one of the authors'."""
    name = name.replace("downsample_layers.0.", "stem.")
    name = re.sub(r"^stages\.(\d+)\.(\d+)", r"stages.\1.blocks.\2", name)
    name = re.sub(r"^downsample_layers\.(\d+)", r"stages.\1.downsample", name)
    name = re.sub(r"^head\.(norm|fc1)\.", _hidden, name)
    return re.sub(r"^head\.fc2\.", "head.fc.", re.sub(r"^norm\.", "head.norm.", name))


def _hidden(match: re.Match[str]) -> str:
    return f"head.pre_logits.{match[1].removesuffix('1')}."


_RW: dict[str, Any] = {
    "stem_norm": False,
    "norm_first": True,
    # timm's function asks for 1e-6, which its LayerScale does not get.
    "layer_scale": 1e-5,
    "head_norm": False,
}
_BASE: dict[str, Any] = {"widths": (128, 256, 512, 768)}

variants(
    MambaOut,
    {
        "mambaout_femto": row("MambaOut-Femto", widths=(48, 96, 192, 288)),
        "mambaout_kobe": row("MambaOut-Kobe", layers=(3, 3, 15, 3), widths=(48, 96, 192, 288)),
        "mambaout_tiny": row("MambaOut-Tiny"),
        "mambaout_small": row("MambaOut-Small", layers=(3, 4, 27, 3)),
        "mambaout_base": row("MambaOut-Base", layers=(3, 4, 27, 3), **_BASE),
        "mambaout_small_rw": row("MambaOut-Small (timm's)", layers=(3, 4, 27, 3), **_RW),
        "mambaout_base_short_rw": row(
            "MambaOut-Base, short (timm's)",
            layers=(3, 3, 25, 3),
            expansion=3.0,
            conv_ratio=1.25,
            **_BASE,
            **_RW,
        ),
        "mambaout_base_tall_rw": row(
            "MambaOut-Base, tall (timm's)",
            layers=(3, 4, 30, 3),
            expansion=2.5,
            conv_ratio=1.25,
            **_BASE,
            **_RW,
        ),
        "mambaout_base_wide_rw": row(
            "MambaOut-Base, wide (timm's)",
            layers=(3, 4, 27, 3),
            expansion=3.0,
            conv_ratio=1.5,
            activation="silu",
            **_BASE,
            **_RW,
        ),
        "mambaout_base_plus_rw": row(
            "MambaOut-Base-Plus (timm's)",
            layers=(3, 4, 30, 3),
            expansion=3.0,
            conv_ratio=1.5,
            activation="silu",
            **_BASE,
            **_RW,
        ),
        "test_mambaout": row(
            "MambaOut, a tiny one for tests",
            layers=(1, 1, 3, 1),
            widths=(16, 32, 48, 64),
            expansion=3.0,
            activation="silu",
            **_RW,
        ),
    },
    paper="https://arxiv.org/abs/2405.07992",
    reference=Reference(
        stem=("stem/conv1",),
        classifier="head.fc",
        head=(
            ("norm_0", "head.pre_logits.norm"),
            ("norm", "head.norm"),
            ("dense_0", "head.pre_logits.fc"),
        ),
        convert=_convert,
        # Branches without scales would grow from block to block, and their rounding with them.
        scales=(("*.blocks.*.fc2.weight", 0.25),),
    ),
)
