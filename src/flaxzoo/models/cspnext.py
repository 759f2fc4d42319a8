"""CSPNeXt: RTMDet's backbone, half of whose channels pass by blocks of large depthwise kernels.

A cross stage partial network, as CSPNet, of blocks of a 3 x 3 and a depthwise 5 x 5 convolution;
the last stage pools over three sizes of windows first. Names and numbers are those of timm's
``cspnext`` module.

References:
  RTMDet: https://arxiv.org/abs/2212.07784
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_flag, check_lengths, check_number, check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import EffectiveSqueezeExcite
from flaxzoo.layers.initializers import PLAIN
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.pool import max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}
# Inside a stage: what goes through the blocks, and what passes by.
Halves = tuple[jax.Array, jax.Array]
# What modules get from the network as it is.
_PASSED_ON = ("activation", "norm", "dtype", "param_dtype")


class CspNextLayers(Layer, kw_only=True):
    """What the modules share: convolutions with a norm and an activation behind each.

    Attributes:
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
    """

    activation: str | Callable[[jax.Array], jax.Array] = "silu"
    norm: Any = "batch"

    @property
    def passed_on(self) -> dict[str, Any]:
        """The shared fields."""
        return {name: getattr(self, name) for name in _PASSED_ON}


class SeparableConv(CspNextLayers):
    """A 5 x 5 convolution of each channel, and one of each pixel.

    Parameters are named as timm's ``DepthwiseSeparableConv``.

    Attributes:
      dilation: of the first.
    """

    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width, own = x.shape[-1], self.passed_on
        options = {"groups": width, "dilation": self.dilation, **own}
        x = ConvNorm(width, 5, name="depthwise_conv", **options)(x, train)
        return ConvNorm(width, name="pointwise_conv", **own)(x, train)


class CspNextBlock(CspNextLayers):
    """A 3 x 3 convolution and a separable one of 5 x 5, added to the input or alone.

    Attributes:
      residual: whether they are added to the input.
      dilation: of both.
      drop_path: the rate at which an example's branch is dropped, where the input is added.
    """

    residual: bool = True
    dilation: int = 1
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        own = {"dilation": self.dilation, **self.passed_on}
        y = ConvNorm(x.shape[-1], 3, name="conv1", **own)(x, train)
        y = SeparableConv(name="conv2", **own)(y, train)
        if not self.residual:
            return y
        return x + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)


class PyramidPool(CspNextLayers):
    """The largest pixels of windows of 5, 9 and 13 a side, joined between two layers on each pixel.

    He et al. 2014, https://arxiv.org/abs/1406.4729, in the form that YOLO has. Parameters are named
    as timm's ``SPPBottleneck``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width = x.shape[-1]
        maps = [ConvNorm(width // 2, name="conv1", **self.passed_on)(x, train)]
        for _ in range(3):
            # Windows of 5 over windows of 5 are windows of 9.
            maps.append(max_pool(maps[-1], 5, 1, 2))
        return ConvNorm(width, name="conv2", **self.passed_on)(jnp.concatenate(maps, -1), train)


class CspNext(Backbone):
    """A CSPNeXt without its classifier: a stem of three convolutions and stages of blocks.

    It maps images ``[B, H, W, C]`` to the last map, ``output_stride`` times smaller.

    Attributes:
      layers: number of blocks of each stage.
      widths: channels of the stages; the stem ends with half the first of them.
      ratio: the channels of the half that goes through the blocks, and of that which passes by, as
        a multiple of the stage's.
      gated: whether the joined halves' channels are scaled by a gate.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later stages
        are dilated instead of strided, so that pretrained weights fit all three.
      drop_path: rate of stochastic depth in the last block of the stage before the last one, which
        has no shortcuts; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 6, 6, 3)
    widths: Sequence[int] = (128, 256, 512, 1024)
    ratio: float = 0.5
    gated: bool = True
    activation: str | Callable[[jax.Array], jax.Array] = "silu"
    norm: Any = "batch"
    output_stride: int = 32
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem; for each stage its beginning, its blocks one by one, and its end."""
        owns = tuple(f"stem_{i}" for i in range(3))
        yield Part("stem", self._stem, owns, takes="images", map="stem", reduction=2)
        rates = (*drop_path_rates(self.drop_path, sum(self.layers[:-1])), *[0.0] * self.layers[-1])
        reduction, dilation, number = 2, 1, 0
        for i, (count, width) in enumerate(zip(self.layers, self.widths, strict=True)):
            last = i == len(self.layers) - 1
            down = {"stride": 2, "dilation": dilation}
            if reduction * 2 > self.output_stride:
                down["stride"], dilation = 1, dilation * 2
            reduction *= down["stride"]
            name, layer = f"stages_{i}", f"stages_{i}_{2 if last else 1}"
            enter = functools.partial(self._enter, name, layer, width, down, last)
            owns = (f"{name}_0", *[f"{name}_1"] * last)
            owns += tuple(f"{layer}_{half}_conv" for half in ("main", "short"))
            yield Part(f"{name}_blocks_0", enter, owns)
            for j in range(count):
                block = f"{layer}_blocks_{j}"
                fields = {"residual": not last, "dilation": dilation, "drop_path": rates[number]}
                build = functools.partial(self._block, block, fields)
                yield Part(f"{name}_blocks_{j}", build, (block,), takes=None)
                number += 1
            owns = (*[f"{layer}_attention"] * self.gated, f"{layer}_final_conv")
            leave = functools.partial(self._leave, layer, width)
            options: dict[str, Any] = {"map": name, "reduction": reduction, "takes": None}
            yield Part(f"{name}_blocks_{count - 1}", leave, owns, **options)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        half = self.widths[0] // 2
        for i, (width, stride) in enumerate(((half // 2, 2), (half // 2, 1), (half, 1))):
            x = self._conv(width, f"stem_{i}", 3, stride=stride)(x, train)
        return x

    def _enter(
        self, stage: str, layer: str, width: int, down: Any, pools: bool, x: jax.Array, train: bool
    ) -> Halves:
        """Shrinks the image and makes both halves."""
        x = self._conv(width, f"{stage}_0", 3, **down)(x, train)
        if pools:
            x = PyramidPool(name=f"{stage}_1", **self._own)(x, train)
        inside = int(width * self.ratio)
        main, short = (
            self._conv(inside, f"{layer}_{half}_conv")(x, train) for half in ("main", "short")
        )
        return main, short

    def _block(self, name: str, fields: Mapping[str, Any], x: Halves, train: bool) -> Halves:
        """Computes a block on the half that goes through blocks."""
        block = self.stored(CspNextBlock, self.remat)(name=name, **fields, **self._own)
        return block(x[0], train), x[1]

    def _leave(self, layer: str, width: int, x: Halves, train: bool) -> jax.Array:
        """Joins the halves."""
        joined = jnp.concatenate(x, -1)
        if self.gated:
            joined = EffectiveSqueezeExcite(name=f"{layer}_attention", **PLAIN, **self.dtypes)(
                joined
            )
        return self._conv(width, f"{layer}_final_conv")(joined, train)

    @nn.nowrap
    def _conv(self, features: int, name: str, size: int = 1, **options: Any) -> ConvNorm:
        """Makes a convolution with a norm and an activation behind it."""
        return ConvNorm(features, size, name=name, **self._own, **options)

    @property
    def _own(self) -> dict[str, Any]:
        """The fields that modules get as they are."""
        return {name: getattr(self, name) for name in _PASSED_ON}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map; the classifier begins as PyTorch's."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lengths(layers=self.layers, widths=self.widths)
        for name in ("layers", "widths"):
            check_widths(name, getattr(self, name))
        check_number("ratio", self.ratio, above=0)
        check_flag("gated", self.gated)
        if self.widths[0] < 4:
            raise ArgumentError(
                "widths must begin with 4 or more, of which the stem has a quarter, got "
                f"{self.widths[0]}"
            )


def _convert(tensors: Mapping[str, Any], backbone: Any) -> dict[str, Any]:
    """Today's names for the files of OpenMMLab, which counts stages from 1."""
    del backbone
    names = {name: name.removeprefix("backbone.") for name in tensors}
    return {
        re.sub(r"^stage(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.", name): tensors[old]
        for old, name in names.items()
    }


variants(
    CspNext,
    {
        "cspnext_tiny": row("CSPNeXt-tiny", layers=(1, 1, 1, 1), widths=(48, 96, 192, 384)),
        "cspnext_s": row("CSPNeXt-s", layers=(1, 2, 2, 1), widths=(64, 128, 256, 512)),
        "cspnext_m": row("CSPNeXt-m", layers=(2, 4, 4, 2), widths=(96, 192, 384, 768)),
        "cspnext_l": row("CSPNeXt-l"),
        "cspnext_x": row("CSPNeXt-x", layers=(4, 8, 8, 4), widths=(160, 320, 640, 1280)),
    },
    paper="https://arxiv.org/abs/2212.07784",
    reference=Reference(
        stem=("stem_0/conv",),
        classifier="head.fc",
        renamed=(
            (r"stages_(\d+)_(\d+)_blocks_(\d+)", r"stages.\1.\2.blocks.\3"),
            (r"stages_(\d+)_(\d+)_(\w+)", r"stages.\1.\2.\3"),
        ),
        convert=_convert,
    ),
)
