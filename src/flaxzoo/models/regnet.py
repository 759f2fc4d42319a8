"""RegNet: networks whose blocks become wider along a line, in four kinds.

X is plain, Y has gates in its blocks, Z widens inside them, V normalises and activates before each
convolution. An image costs ``regnety_032`` 3.2 GFLOPs; ``_tv`` rounds widths as torchvision does.
Names and numbers are those of timm's ``regnet`` module.

References:
  RegNet X and Y: https://arxiv.org/abs/2003.13678
  RegNet Z: https://arxiv.org/abs/2103.06877
  SEER, of images without labels: https://arxiv.org/abs/2103.01988
  SWAG, of hashtags: https://arxiv.org/abs/2201.08371
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flaxzoo._checks import as_choice, check_lists, check_number, check_size
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import SqueezeExcite, divisible
from flaxzoo.layers.initializers import HeNormal, Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import GroupNorm, normalise_and_activate
from flaxzoo.layers.pool import shortcut_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

_SHORTCUTS = ("conv", "avg")
# What blocks get from the network as it is.
_PASSED_ON = (
    "ratio",
    "squeeze_ratio",
    "shortcut",
    "activation",
    "norm",
    "dtype",
    "param_dtype",
)


def design(
    depth: int,
    width: int,
    slope: float,
    factor: float,
    group_size: int,
    *,
    ratio: float = 1.0,
    limit: float | None = None,
) -> dict[str, Any]:
    """The stages of a network of the design space, section 3.3 of the paper.

    Block ``j`` is ``width + slope * j`` wide, rounded to a power of ``factor`` times ``width`` and
    then to a multiple of 8. Blocks of one width are a stage, whose width is rounded once more, to
    whole groups.

    Args:
      depth: the number of blocks, ``d``.
      width: that of the first block, ``w_0``.
      slope: by how much each block is wider than the last one, ``w_a``.
      factor: between the widths of two stages, ``w_m``.
      group_size: the channels of a group, ``g``.
      ratio: the channels inside a block as a multiple of its width.
      limit: the least part of the exact width that rounding may leave (torchvision's 0.9); None for
        the nearest.

    Returns:
      The fields ``layers``, ``widths``, ``group_size`` and ``ratio`` of a ``RegNet``.

    Example:
      >>> design(13, 24, 36.44, 2.49, 8)["widths"]
      (24, 56, 152, 368)
    """
    exact = width + slope * np.arange(depth)
    powers = np.round(np.log(exact / width) / np.log(factor))
    rounded = np.round(width * factor**powers / 8).astype(int) * 8
    widths, layers = np.unique(rounded, return_counts=True)
    return {
        "layers": tuple(map(int, layers)),
        "widths": tuple(_whole_groups(int(n), group_size, ratio, limit) for n in widths),
        "group_size": group_size,
        "ratio": ratio,
    }


def _whole_groups(width: int, group_size: int, ratio: float, limit: float | None) -> int:
    """The width whose inside is whole groups."""
    inside = int(width * ratio)
    size = min(group_size, inside)
    if limit is None:
        return int(round(inside / size) * size / ratio)
    return int(divisible(inside, size, size, limit) / ratio)


class RegNetBlock(Layer):
    """1 x 1, grouped 3 x 3 and 1 x 1 convolutions with a norm each, and a gate before the last.

    Attributes:
      features: channels of the output.
      ratio: the channels inside as a multiple of these.
      group_size: the channels of each group of the 3 x 3 convolution.
      stride: by which the block reduces the image.
      dilation: of the 3 x 3 convolution.
      project: whether the shortcut changes shapes, or there is none.
      squeeze_ratio: the width inside the gate as a part of the input's channels; 0 for no gate.
      shortcut: where shapes change, ``"conv"``, ``"avg"``, which averages before it convolves, or
        None for no shortcut.
      linear: whether the sum is not activated.
      activation: by name or callable.
      norm: by name or module (``flaxzoo.layers.norm``).
      drop_path: rate at which an example's branch is dropped.
      zero_init_residual: whether the branch starts as zero.
    """

    features: int
    ratio: float = 1.0
    group_size: int = 1
    stride: int = 1
    dilation: int = 1
    project: bool = False
    squeeze_ratio: float = 0.0
    shortcut: str | None = "conv"
    linear: bool = False
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    drop_path: float = 0.0
    zero_init_residual: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        y = self._conv(self.inside, 1, "conv1")(x, train)
        y = self._conv(self.inside, 3, "conv2", **self.middle)(y, train)
        y = self.gated(y, x.shape[-1])
        init = zeros if self.zero_init_residual else ones
        y = self._conv(self.features, 1, "conv3", activation=None, scale_init=init)(y, train)
        y = self.add(x, y, train)
        return y if self.linear else as_activation(self.activation)(y)

    @property
    def inside(self) -> int:
        """The channels inside."""
        return round(self.features * self.ratio)

    @property
    def middle(self) -> dict[str, Any]:
        """The fields of the 3 x 3 convolution, which begins by the fan-out of a group."""
        groups = self.inside // self.group_size
        options = {"stride": self.stride, "dilation": self.dilation, "groups": groups}
        return {**options, "kernel_init": HeNormal(groups=groups)}

    @nn.nowrap
    def _conv(self, features: int, size: int, name: str, **options: Any) -> ConvNorm:
        own = {"norm": self.norm, "activation": self.activation, "kernel_init": HeNormal()}
        return ConvNorm(features, size, name=name, **{**own, **self.dtypes, **options})

    @nn.nowrap
    def gated(self, x: jax.Array, inputs: int) -> jax.Array:
        """Scales the channels by the gate ``se``, where there is one.

        Args:
          x: ``[B, H, W, C]``.
          inputs: the channels of the block's input.
        """
        if not self.squeeze_ratio:
            return x
        width = round(inputs * self.squeeze_ratio)
        return SqueezeExcite(width=width, activation=self.activation, name="se", **self.dtypes)(x)

    @nn.nowrap
    def add(self, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
        """Drops the branch ``y``, and adds it to the shortcut, where there is one."""
        if self.project and self.shortcut is None:
            return y
        y = DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)
        return y + (self.shortened(x, train) if self.project else x)

    @nn.nowrap
    def shortened(self, x: jax.Array, train: bool) -> jax.Array:
        """The input in the shape of the output."""
        if self.shortcut == "conv":
            return self.convolved(x, "downsample", train, self.stride)
        if self.stride > 1 or self.dilation > 1:
            x = shortcut_pool(x, self.stride if self.dilation == 1 else 1)
        return self.convolved(x, "downsample_1", train)

    @nn.nowrap
    def convolved(self, x: jax.Array, name: str, train: bool, stride: int = 1) -> jax.Array:
        """The convolution of the shortcut, with its norm."""
        return self._conv(self.features, 1, name, stride=stride, activation=None)(x, train)


class PreActRegNetBlock(RegNetBlock):
    """The same with a norm and an activation before each convolution; the shortcut sees the first.

    A sum is never activated, and no norm ends the branch.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        x = self._normalise(x, "norm1", train)
        options: dict[str, Any] = {"kernel_init": HeNormal(), **self.dtypes}
        y = Conv(self.inside, 1, name="conv1", **options)(x)
        y = self._normalise(y, "norm2", train)
        y = Conv(self.inside, 3, name="conv2", **self.middle, **self.dtypes)(y)
        y = self._normalise(self.gated(y, x.shape[-1]), "norm3", train)
        return self.add(x, Conv(self.features, 1, name="conv3", **options)(y), train)

    @nn.nowrap
    def _normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        act = as_activation(self.activation)
        return normalise_and_activate(self.norm, name, x, act, train=train, **self.dtypes)

    @nn.nowrap
    def convolved(self, x: jax.Array, name: str, train: bool, stride: int = 1) -> jax.Array:
        """The convolution of the shortcut, which has no norm."""
        del train
        return Conv(self.features, 1, stride, name=name, **self.dtypes)(x)


class RegNet(Backbone):
    """A RegNet without its classifier: a stem of stride 2 and stages that halve the map each.

    It maps images ``[B, H, W, C]`` to the last map, ``output_stride`` times smaller.

    Attributes:
      layers: number of blocks of each stage.
      widths: channels of each stage; ``design`` computes both.
      group_size: channels of each group of the 3 x 3 convolutions, at most all.
      ratio: the channels inside a block as a multiple of its width.
      squeeze_ratio: the width inside the gates as a part of their block's input; 0 for no gates.
      stem_width: channels of the stem.
      shortcut: where shapes change, ``"conv"``, ``"avg"``, which averages before it convolves, or
        None for no shortcut.
      linear: whether sums of blocks are not activated, but the last map is (RegNet Z).
      pre_activation: whether norms and activations stand before convolutions (RegNet V).
      head_width: channels of another convolution behind the last stage, on each pixel; None for
        none.
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later stages
        are dilated instead of strided, so that pretrained weights fit all three.
      activation: by name or callable.
      norm: by name or module (``flaxzoo.layers.norm``).
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      zero_init_residual: whether each branch's last norm starts with a scale of zero.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int]
    widths: Sequence[int]
    group_size: int = 8
    ratio: float = 1.0
    squeeze_ratio: float = 0.0
    stem_width: int = 32
    shortcut: str | None = "conv"
    linear: bool = False
    pre_activation: bool = False
    head_width: int | None = None
    output_stride: int = 32
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    drop_path: float = 0.0
    zero_init_residual: bool = True
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, the blocks ``s1_b1``, ``s1_b2`` and so on, what follows the last."""
        yield Part("stem", self._stem(), takes="images", map="stem", reduction=2)
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        channels, reduction, dilation = self.stem_width, 2, 1
        for i, (count, width) in enumerate(zip(self.layers, self.widths, strict=True), 1):
            stride = 2
            if reduction >= self.output_stride:
                dilation, stride = dilation * 2, 1
            reduction *= stride
            for j in range(count):
                # A stage that is dilated begins with what the one before has.
                own = dilation if j else max(1, dilation // 2)
                run = self._block(
                    features=width,
                    stride=1 if j else stride,
                    dilation=own,
                    project=channels != width or own != dilation or (stride > 1 and not j),
                    drop_path=next(rates),
                )
                complete = f"s{i}" if j == count - 1 else None
                yield Part(
                    f"s{i}_b{j + 1}", run, map=complete, reduction=reduction, remat=self.remat
                )
                channels = width
        if self.head_width is not None:
            last = functools.partial(ConvNorm, self.head_width, **self._norm_and_activation())
            yield Part("final_conv", last, depth="head")
        elif self.linear or self.pre_activation:
            yield Part(f"s{i}_b{count}", self._activate, ())

    @nn.nowrap
    def _block(self, features: int, **fields: Any) -> Callable[..., RegNetBlock]:
        own = {name: getattr(self, name) for name in _PASSED_ON}
        fields |= {"group_size": min(self.group_size, int(features * self.ratio)), **own}
        if self.pre_activation:
            return functools.partial(PreActRegNetBlock, features, **fields)
        fields |= {"linear": self.linear, "zero_init_residual": self.zero_init_residual}
        return functools.partial(RegNetBlock, features, **fields)

    @nn.nowrap
    def _norm_and_activation(self) -> dict[str, Any]:
        shared = {"norm": self.norm, "activation": self.activation}
        return {**shared, "kernel_init": HeNormal(), **self.dtypes}

    @nn.nowrap
    def _stem(self) -> Callable[..., nn.Module]:
        if self.pre_activation:
            return functools.partial(Conv, self.stem_width, 3, 2, **self.dtypes)
        return functools.partial(ConvNorm, self.stem_width, 3, 2, **self._norm_and_activation())

    def _activate(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return as_activation(self.activation)(x)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), "kernel_init": Normal(0.01)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths")
        for name in ("group_size", "stem_width"):
            check_size(name, getattr(self, name))
        check_size("head_width", self.head_width, optional=True)
        check_number("ratio", self.ratio, above=0)
        check_number("squeeze_ratio", self.squeeze_ratio, minimum=0)
        for width in self.widths:
            inside = round(width * self.ratio)
            if inside % min(self.group_size, int(width * self.ratio)):
                raise ArgumentError(
                    f"widths={tuple(self.widths)} with ratio={self.ratio:g} must be multiples of "
                    f"group_size={self.group_size}, got {inside} channels inside a block; "
                    "flaxzoo.models.regnet.design rounds widths"
                )
        as_choice("shortcut", self.shortcut, _SHORTCUTS)


# From the names of torchvision, and of the authors' classy-vision, to timm's.
_OTHERS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^(?:trunk\.)?_feature_blocks\.", ""),
    (r"^(?:conv1\.)?stem\.0\.", "stem.conv."),
    (r"^(?:conv1\.)?stem\.1\.", "stem.bn."),
    (
        r"^(?:trunk_output\.block|res)\d\.block(\d)-(\d+)\.",
        lambda match: f"s{match[1]}.b{int(match[2]) + 1}.",
    ),
    (r"\.f\.final_bn\.", ".conv3.bn."),
    (r"\.f\.c\.0\.", ".conv3.conv."),
    (r"\.f\.c\.1\.", ".conv3.bn."),
    (r"\.f\.c\.", ".conv3.conv."),
    (r"\.f\.a\.0\.", ".conv1.conv."),
    (r"\.f\.a\.1\.", ".conv1.bn."),
    (r"\.f\.b\.0\.", ".conv2.conv."),
    (r"\.f\.b\.1\.", ".conv2.bn."),
    (r"\.f\.se\.excitation\.0\.", ".se.fc1."),
    (r"\.f\.se\.excitation\.2\.", ".se.fc2."),
    (r"\.f\.se\.", ".se."),
    (r"\.proj\.(?:0\.)?(?=\w+$)", ".downsample.conv."),
    (r"\.proj\.1\.", ".downsample.bn."),
    (r"^(s\d\.b\d+)\.bn\.", r"\1.downsample.bn."),
    (r"^(?:(?:heads\.)?0\.clf\.0|fc)\.", "head.fc."),
)


def _convert(tensors: Mapping[str, Any], _backbone: RegNet) -> Mapping[str, Any]:
    """Today's names for the tensors of torchvision's files and of SEER's."""
    if not any(re.match(r"trunk_output\.|(?:trunk\.)?_feature_blocks\.", key) for key in tensors):
        return tensors
    renamed = {}
    for name, value in tensors.items():
        # What SEER learnt by is no part of the network.
        if "projection_head" in name or "prototypes" in name:
            continue
        for pattern, other in _OTHERS:
            name = re.sub(pattern, other, name)
        renamed[name] = value
    return renamed


def _few_blocks(timm: Any, layers: Sequence[int]) -> dict[str, Any]:
    """What computes the widths of timm's blocks, for a network of so many in each stage."""
    designed = timm.generate_regnet

    def of_layers(*args: Any, **options: Any) -> Any:
        widths, *others = designed(*args, **options)
        stages = zip(sorted(set(widths)), layers, strict=True)
        return [width for width, count in stages for _ in range(count)], *others

    return {"generate_regnet": of_layers}


# timm computes layers and widths from a few numbers.
CUT = {"layers": _few_blocks}
REFERENCE = Reference(
    stem=("stem/conv", "stem"),
    classifier="head.fc",
    renamed=((r"s(\d)_b(\d+)", r"s\1.b\2"),),
    convert=_convert,
)
_SIXTEENS = functools.partial(GroupNorm, num_groups=None, group_size=16, use_fast_variance=False)


_Y: dict[str, Any] = {"squeeze_ratio": 0.25}
_V: dict[str, Any] = {"pre_activation": True, "activation": "silu", **_Y}
_Z: dict[str, Any] = {
    "shortcut": None,
    "linear": True,
    "activation": "silu",
    "zero_init_residual": False,
    **_Y,
}
_add = functools.partial(variants, RegNet, reference=REFERENCE)

_add(
    {
        "regnetx_002": row("RegNetX-200MF", **design(13, 24, 36.44, 2.49, 8)),
        "regnetx_004": row("RegNetX-400MF", **design(22, 24, 24.48, 2.54, 16)),
        "regnetx_004_tv": row(
            "RegNetX-400MF, widths as torchvision's", **design(22, 24, 24.48, 2.54, 16, limit=0.9)
        ),
        "regnetx_006": row("RegNetX-600MF", **design(16, 48, 36.97, 2.24, 24)),
        "regnetx_008": row("RegNetX-800MF", **design(16, 56, 35.73, 2.28, 16)),
        "regnetx_016": row("RegNetX-1.6GF", **design(18, 80, 34.01, 2.25, 24)),
        "regnetx_032": row("RegNetX-3.2GF", **design(25, 88, 26.31, 2.25, 48)),
        "regnetx_040": row("RegNetX-4GF", **design(23, 96, 38.65, 2.43, 40)),
        "regnetx_064": row("RegNetX-6.4GF", **design(17, 184, 60.83, 2.07, 56)),
        "regnetx_080": row("RegNetX-8GF", **design(23, 80, 49.56, 2.88, 120)),
        "regnetx_120": row("RegNetX-12GF", **design(19, 168, 73.36, 2.37, 112)),
        "regnetx_160": row("RegNetX-16GF", **design(22, 216, 55.59, 2.1, 128)),
        "regnetx_320": row("RegNetX-32GF", **design(23, 320, 69.86, 2.0, 168)),
        "regnety_002": row("RegNetY-200MF", **design(13, 24, 36.44, 2.49, 8), **_Y),
        "regnety_004": row("RegNetY-400MF", **design(16, 48, 27.89, 2.09, 8), **_Y),
        "regnety_006": row("RegNetY-600MF", **design(15, 48, 32.54, 2.32, 16), **_Y),
        "regnety_008": row("RegNetY-800MF", **design(14, 56, 38.84, 2.4, 16), **_Y),
        "regnety_008_tv": row(
            "RegNetY-800MF, widths as torchvision's",
            **design(14, 56, 38.84, 2.4, 16, limit=0.9),
            **_Y,
        ),
        "regnety_016": row("RegNetY-1.6GF", **design(27, 48, 20.71, 2.65, 24), **_Y),
        "regnety_032": row("RegNetY-3.2GF", **design(21, 80, 42.63, 2.66, 24), **_Y),
        "regnety_040": row("RegNetY-4GF", **design(22, 96, 31.41, 2.24, 64), **_Y),
        "regnety_064": row("RegNetY-6.4GF", **design(25, 112, 33.22, 2.27, 72), **_Y),
        "regnety_080": row("RegNetY-8GF", **design(17, 192, 76.82, 2.19, 56), **_Y),
        "regnety_080_tv": row(
            "RegNetY-8GF, widths as torchvision's",
            **design(17, 192, 76.82, 2.19, 56, limit=0.9),
            **_Y,
        ),
        "regnety_120": row("RegNetY-12GF", **design(19, 168, 73.36, 2.37, 112), **_Y),
        "regnety_160": row("RegNetY-16GF", **design(18, 200, 106.23, 2.48, 112), **_Y),
        "regnety_320": row("RegNetY-32GF", **design(20, 232, 115.89, 2.53, 232), **_Y),
        "regnety_640": row("RegNetY-64GF", **design(20, 352, 147.48, 2.4, 328), **_Y),
        "regnety_1280": row("RegNetY-128GF", **design(27, 456, 160.83, 2.52, 264), **_Y),
        "regnety_2560": row("RegNetY-256GF", **design(27, 640, 230.83, 2.53, 373), **_Y),
        "regnety_040_sgn": row(
            "RegNetY-4GF with norms of groups of 16 channels",
            **design(22, 96, 31.41, 2.24, 64),
            norm=_SIXTEENS,
            activation="silu",
            **_Y,
        ),
        "regnetv_040": row(
            "RegNetV-4GF, activated before convolutions", **design(22, 96, 31.41, 2.24, 64), **_V
        ),
        "regnetv_064": row(
            "RegNetV-6.4GF, activated before convolutions",
            **design(25, 112, 33.22, 2.27, 72),
            shortcut="avg",
            **_V,
        ),
    },
    paper="https://arxiv.org/abs/2003.13678",
)
_add(
    {
        "regnetz_005": row(
            "RegNetZ-500MF",
            **design(21, 16, 10.7, 2.51, 4, ratio=4.0),
            head_width=1024,
            **_Z,
        ),
        "regnetz_040": row("RegNetZ-4GF", **design(28, 48, 14.5, 2.226, 8, ratio=4.0), **_Z),
        "regnetz_040_h": row(
            "RegNetZ-4GF with a layer before the pooling",
            **design(28, 48, 14.5, 2.226, 8, ratio=4.0),
            head_width=1536,
            **_Z,
        ),
    },
    paper="https://arxiv.org/abs/2103.06877",
)
