"""RDNet: DenseNets of ConvNeXt's blocks, which append channels instead of adding to them.

A stage's blocks each see the maps of all blocks before them, side by side; between stages a
convolution halves the channels, and at some of them the map. Names and numbers are those of timm's
``rdnet`` module.

References:
  DenseNets Reloaded: https://arxiv.org/abs/2403.19588
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import (
    check_choice,
    check_flag,
    check_lengths,
    check_number,
    check_rate,
    check_size,
    check_widths,
)
from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import EffectiveSqueezeExcite, divisible
from flaxzoo.layers.initializers import FanIn, HeNormal, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm, scaled_channels
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# Where timm's functions of names take the number of blocks.
CUT = {"layers": "num_blocks_list"}
_INIT: dict[str, Any] = {"kernel_init": HeNormal("fan_in"), "bias_init": plain_bias}
# The submodules of each stem.
_STEMS = {
    "patch": ("stem_0", "stem_1"),
    "overlap": ("stem_0", "stem_1", "stem_2"),
    "overlap_tiered": ("stem_0", "stem_1", "stem_2"),
}
# What a block gets from the network as it is.
_PASSED_ON = (
    *("expansion", "layer_scale", "norm", "norm_epsilon", "activation", "block_dropout"),
    *("dtype", "param_dtype"),
)


class DenseLayers(Layer):
    """What blocks and stages share: their fields and layers.

    Attributes:
      growth: the channels of a block's output.
      gated: whether they are gated by their means over the image.
      expansion: the channels inside a block, as a multiple of its input's.
      layer_scale: what the scale of a block's output begins with; None for no scale.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      activation: by name or callable.
      block_dropout: the rate at which a block's outputs are dropped.
    """

    growth: int = 64
    gated: bool = False
    expansion: float = 4.0
    layer_scale: float | None = 1e-6
    norm: Any = "layer"
    norm_epsilon: float | None = None
    activation: Any = "gelu"
    block_dropout: float = 0.0

    def conv(self, x: jax.Array, features: int, size: int, name: str, **options: Any) -> jax.Array:
        """Convolves."""
        options = {"use_bias": True, **_INIT, **options, **self.dtypes}
        return Conv(features, size, name=name, **options)(x)

    def normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Normalises the last axis."""
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)


class DenseBlock(DenseLayers):
    """A depthwise convolution, a norm, two layers on each pixel, and perhaps a gate.

    Attributes:
      drop_path: the rate at which the output is dropped for a whole example.
    """

    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the channels to append, ``[B, H, W, growth]``."""
        width = x.shape[-1]
        y = self.conv(x, width, 7, "layers_0", groups=width)
        y = self.conv(
            self.normalise(y, "layers_1", train), _in_eights(width * self.expansion), 1, "layers_2"
        )
        y = self.conv(as_activation(self.activation)(y), self.growth, 1, "layers_4")
        if self.gated:
            y = EffectiveSqueezeExcite(name="layers_5", **_INIT, **self.dtypes)(y)
        y = scaled_channels(self, "gamma", y, self.layer_scale, param_dtype=self.param_dtype)
        y = DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)
        if not self.block_dropout:
            return y
        return nn.Dropout(self.block_dropout, name="drop")(y, deterministic=not train)


class DenseStage(DenseLayers):
    """Blocks that each see all maps so far, perhaps behind a norm and a convolution.

    Attributes:
      compression: the channels that this convolution gives, as a share of those it gets; None for
        none.
      stride: by which it reduces the image, and the size of its kernel.
      rates: of stochastic depth, one for each block.
    """

    compression: float | None = None
    stride: int = 1
    rates: Sequence[float] = (0.0, 0.0, 0.0)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, C' + blocks * growth]``."""
        if self.compression is not None:
            width = _in_eights(x.shape[-1] * self.compression)
            options: dict[str, Any] = {"stride": self.stride, "padding": 0}
            x = self.conv(self.normalise(x, "norm", train), width, self.stride, "conv", **options)
        own = {name: getattr(self, name) for name in (*_PASSED_ON, "growth", "gated")}
        for i, rate in enumerate(self.rates):
            block = DenseBlock(drop_path=rate, name=f"dense_block{i}", **own)
            x = jnp.concatenate([x, block(x, train)], axis=-1)
        return x


def _in_eights(width: float) -> int:
    """Returns the multiple of 8 that is no more than ``width``."""
    return int(width / 8) * 8


class RDNet(Backbone):
    """An RDNet without its classifier: a stem and stages of dense blocks.

    It maps images ``[B, H, W, C]`` to the last map. Maps are those before each halving, and the
    last one.

    Attributes:
      layers: the number of blocks of each stage.
      growths: how many channels each of them appends.
      halving: before which stages the map is halved; before the first one it never is.
      gated: in which stages a block's channels are gated by their means over the image.
      expansion: the channels inside a block, as a multiple of its input's.
      compression: the channels behind the convolution between stages, as a share of those before.
      stem: ``"patch"``, one convolution of ``patch_size`` and this stride; ``"overlap"``, two
        strided 3 x 3; ``"overlap_tiered"``, the first of them half as wide.
      stem_width: the channels of the stem.
      patch_size: the size of the patch stem's convolution.
      conv_bias: whether the stem's convolutions have biases.
      layer_scale: what the scale of each block's channels begins with; None for no scale.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      norm_first: whether a norm stands before the pooling, instead of one behind it.
      activation: by name or callable.
      block_dropout: the rate at which the outputs of blocks are dropped.
      drop_path: the rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether stages are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 3, 3, 3, 3, 3, 3)
    growths: Sequence[int] = (64, 104, 128, 128, 128, 128, 224)
    halving: Sequence[bool] = (False, True, True, False, False, False, True)
    gated: Sequence[bool] = (False, False, True, True, True, True, True)
    expansion: float = 4.0
    compression: float = 0.5
    stem: str = "patch"
    stem_width: int = 64
    patch_size: int = 4
    conv_bias: bool = True
    layer_scale: float | None = 1e-6
    norm: Any = "layer"
    norm_epsilon: float | None = None
    norm_first: bool = False
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    block_dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the stages ``dense_stages_0`` and so on."""
        yield Part("stem", self._stem, owns=_STEMS[self.stem], takes="images")
        own = {name: getattr(self, name) for name in _PASSED_ON}
        rates = drop_path_rates(self.drop_path, sum(self.layers))
        reduction = self.patch_size if self.stem == "patch" else 4
        for i, count in enumerate(self.layers):
            stride = 2 if i > 0 and self.halving[i] else 1
            reduction *= stride
            is_complete = i + 1 == len(self.layers) or self.halving[i + 1]
            yield Part(
                f"dense_stages_{i}",
                functools.partial(
                    DenseStage,
                    growth=self.growths[i],
                    gated=self.gated[i],
                    compression=self.compression if i > 0 else None,
                    stride=stride,
                    rates=tuple(rates[:count]),
                    **own,
                ),
                map=f"dense_stages_{i}" if is_complete else None,
                reduction=reduction,
                remat=self.remat,
            )
            rates = rates[count:]
        if self.norm_first:
            norm = functools.partial(self._norm, "norm_pre")
            yield Part("norm_pre", norm, owns=("norm_pre",), depth=f"dense_stages_{i}")

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        first, *second, norm = _STEMS[self.stem]
        width, size = self.stem_width, self.patch_size
        if not second:
            x = self._conv(first, width, size, stride=size, padding=0)(x)
            return self._norm(norm, x, train)
        half = divisible(width // 2) if self.stem == "overlap_tiered" else width
        x = self._conv(first, half, 3, stride=2)(x)
        x = self._conv(second[0], width, 3, stride=2)(x)
        return self._norm(norm, x, train)

    def _conv(self, name: str, width: int, size: int, **options: Any) -> Conv:
        options |= {"use_bias": self.conv_bias, **_INIT, **self.dtypes}
        return Conv(width, size, name=name, **options)

    def _norm(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The norm behind the pooling, unless it stands before it."""
        norm = {"norm": None if self.norm_first else self.norm, "norm_epsilon": self.norm_epsilon}
        return {**super().head_options(), **norm, "kernel_init": FanIn()}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("layers", "growths", "halving", "gated")}
        for name in ("layers", "growths"):
            check_widths(name, lists[name])
        for name in ("halving", "gated"):
            for value in lists[name]:
                check_flag(name, value)
        check_lengths(**lists)
        check_choice("stem", self.stem, _STEMS)
        for name in ("stem_width", "patch_size"):
            check_size(name, getattr(self, name))
        for name in ("expansion", "compression"):
            check_number(name, getattr(self, name), above=0)
        for name in ("block_dropout", "drop_path"):
            check_rate(name, getattr(self, name))


def _convert(tensors: Mapping[str, Any], _backbone: Any) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files."""
    return {name.replace("stem.stem.", "stem."): value for name, value in tensors.items()}


def _sizes(stem_width: int, growths: Sequence[int], halved: Sequence[int]) -> dict[str, Any]:
    """The fields of a network of three blocks a stage, gated from the third on."""
    stages = range(len(growths))
    return {
        "layers": (3,) * len(growths),
        "growths": tuple(growths),
        "halving": tuple(i in halved for i in stages),
        "gated": tuple(i >= 2 for i in stages),
        "stem_width": stem_width,
    }


variants(
    RDNet,
    {
        "rdnet_tiny": row("RDNet-T"),
        "rdnet_small": row("RDNet-S", **_sizes(72, (64, *(128,) * 8, 240, 240), (1, 2, 9))),
        "rdnet_base": row("RDNet-B", **_sizes(120, (96, 128, *(168,) * 7, 336, 336), (1, 2, 9))),
        "rdnet_large": row("RDNet-L", **_sizes(144, (128, 192, *(256,) * 8, 360, 360), (1, 2, 10))),
    },
    paper="https://arxiv.org/abs/2403.19588",
    reference=Reference(
        stem=("stem_0",),
        classifier="head.fc",
        head=(("norm", "head.norm"),),
        renamed=(
            (r"dense_stages_0/(dense_block\d+)", r"dense_stages.0.0.\1"),
            (r"dense_stages_(\d+)/(dense_block\d+)", r"dense_stages.\1.2.\2"),
            (r"dense_stages_(\d+)/norm", r"dense_stages.\1.0"),
            (r"dense_stages_(\d+)/conv", r"dense_stages.\1.1"),
            (r"layers_(\d)", r"layers.layers.\1"),
        ),
        convert=_convert,
    ),
)
