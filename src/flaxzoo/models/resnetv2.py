"""ResNet V2: blocks that normalise and activate before each convolution, BiT among them.

BiT's convolutions have standardised kernels and its norms are of groups; the others have
BatchNorms, or norms that activate by themselves. Letters behind the depth are the stem, as of
``resnet``. Names and numbers are those of timm's ``resnetv2`` module.

References:
  ResNet V2: https://arxiv.org/abs/1603.05027
  BiT: https://arxiv.org/abs/1912.11370
  Its distillation: https://arxiv.org/abs/2106.05237
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_choice, check_lists, check_number, check_size
from flaxzoo.activations import as_activation
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import divisible
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.norm import EvoNormS0, normalise_and_activate
from flaxzoo.layers.pool import max_pool, shortcut_pool
from flaxzoo.layers.resnet_v2 import GROUPS, ResNetV2Layers
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# Of BiT's names, whose functions take no layers, and the others.
CUT = {"layers": "_create_resnetv2.layers"}
_STEMS = ("conv7", "deep", "tiered")
# What modules get from the network as it is.
_PASSED_ON = ("standardised", "norm", "activation", "dtype", "param_dtype")


class Stem(ResNetV2Layers, kw_only=True):
    """One 7 x 7 convolution ``conv``, or three of 3 x 3; no norm stands behind the last.

    Attributes:
      kind: ``"conv7"``, ``"deep"`` or ``"tiered"``, whose first is narrower than its second.
      width: channels of the output.
    """

    kind: str = "conv7"
    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, width]``, rounded up."""
        if self.kind == "conv7":
            return self.conv(x, self.width, 7, "conv", stride=2)
        first = 3 * self.width // 8 if self.kind == "tiered" else self.width // 2
        for i, width in enumerate((first, self.width // 2)):
            x = self.conv(x, width, 3, f"conv{i + 1}", stride=2 - i)
            x = self.normalise(x, f"norm{i + 1}", train)
        return self.conv(x, self.width, 3, "conv3")


class Shortcut(ResNetV2Layers, kw_only=True):
    """A 1 x 1 convolution ``conv`` where a block changes shapes.

    Attributes:
      features: channels of the output.
      stride: by which the image is reduced.
      dilation: of the stage.
      average: whether pixels are averaged before, in place of a stride.
    """

    features: int
    stride: int = 1
    dilation: int = 1
    average: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        if not self.average:
            return self.conv(x, self.features, 1, "conv", stride=self.stride)
        if self.stride > 1 or self.dilation > 1:
            x = shortcut_pool(x, self.stride if self.dilation == 1 else 1)
        return self.conv(x, self.features, 1, "conv")


class PreActBottleneck(ResNetV2Layers, kw_only=True):
    """1 x 1, 3 x 3 and 1 x 1 convolutions with a norm before each; the shortcut sees the first.

    He et al. 2016, https://arxiv.org/abs/1603.05027, with the stride in the 3 x 3.

    Attributes:
      features: channels of the output.
      ratio: the share of them that the convolutions between have.
      stride: by which the block reduces the image.
      dilation: of the stage.
      first_dilation: of the 3 x 3 convolution that may have the stride.
      project: whether the block is a stage's first, whose shortcut has a convolution.
      avg_down: whether this averages pixels before.
      drop_path: the rate at which the branch is dropped for a whole example.
    """

    features: int
    ratio: float = 0.25
    stride: int = 1
    dilation: int = 1
    first_dilation: int = 1
    project: bool = False
    avg_down: bool = False
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        y = self.normalise(x, "norm1", train)
        shortcut = self.shortcut(y) if self.projects(x) else x
        y = DropPath(self.drop_path, name="drop_path")(
            self.branch(y, train), deterministic=not train
        )
        return y + shortcut

    def branch(self, x: jax.Array, train: bool) -> jax.Array:
        """What is added to the shortcut."""
        middle = divisible(self.features * self.ratio)
        options = {"stride": self.stride, "dilation": self.first_dilation}
        x = self.normalise(self.conv(x, middle, 1, "conv1"), "norm2", train)
        x = self.normalise(self.conv(x, middle, 3, "conv2", **options), "norm3", train)
        return self.conv(x, self.features, 1, "conv3")

    def shortcut(self, x: jax.Array) -> jax.Array:
        """What the branch is added to, where shapes change."""
        options: dict[str, Any] = {"dilation": self.dilation, "average": self.avg_down}
        options |= {"features": self.features, "stride": self.stride, **self.shared}
        return Shortcut(name="downsample", **options)(x)

    @nn.nowrap
    def projects(self, x: jax.Array) -> bool:
        """Whether the shortcut has a convolution."""
        return self.project


class PreActBasic(PreActBottleneck, kw_only=True):
    """Two 3 x 3 convolutions with a norm before each."""

    def branch(self, x: jax.Array, train: bool) -> jax.Array:
        """What is added to the shortcut."""
        middle = divisible(self.features * self.ratio)
        options = {"stride": self.stride, "dilation": self.first_dilation}
        x = self.normalise(self.conv(x, middle, 3, "conv1", **options), "norm2", train)
        return self.conv(x, self.features, 3, "conv2", dilation=self.dilation)

    @nn.nowrap
    def projects(self, x: jax.Array) -> bool:
        """Whether the shortcut has a convolution: only where shapes or dilations change."""
        changes = self.stride > 1 or self.first_dilation != self.dilation
        return self.project and (changes or x.shape[-1] != self.features)


_BLOCKS: dict[str, type[PreActBottleneck]] = {"basic": PreActBasic, "bottleneck": PreActBottleneck}


class ResNetV2(Backbone):
    """A ResNet V2 without its classifier: a stem, stages of blocks and the last norm.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, widths[-1]]``.

    Attributes:
      layers: number of blocks of each stage.
      block: ``"bottleneck"`` or ``"basic"``.
      widths: channels of the stages.
      width_factor: a number that these and the stem's are multiplied by.
      ratio: the share of them that the convolutions inside a block have.
      stem: ``"conv7"``, one 7 x 7 convolution; ``"deep"``, three of 3 x 3; ``"tiered"``, the first
        of them narrower.
      stem_width: channels of the stem.
      zero_pool: whether zeros count in the stem's maximum, at the edges (BiT).
      avg_down: whether shortcuts average pixels in place of a stride (the D variants).
      standardised: whether kernels are standardised (``flaxzoo.layers.resnet_v2.StdConv``).
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image.
      activation: by name or callable; a norm that activates by itself goes without.
      norm: by name or module (``flaxzoo.layers.norm``).
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 4, 6, 3)
    block: str = "bottleneck"
    widths: Sequence[int] = (256, 512, 1024, 2048)
    width_factor: int = 1
    ratio: float = 0.25
    stem: str = "conv7"
    stem_width: int = 64
    zero_pool: bool = False
    avg_down: bool = False
    standardised: bool = False
    output_stride: int = 32
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem and its pooling, the blocks ``stages_0_blocks_0`` and so on, the last norm."""
        own: dict[str, Any] = {name: getattr(self, name) for name in _PASSED_ON}
        own["padding"] = None
        width = divisible(self.stem_width * self.width_factor)
        stem = functools.partial(Stem, kind=self.stem, width=width, **own)
        yield Part("stem", stem, takes="images", map="stem", reduction=2)
        yield Part("stem", self._pool, ())
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        own |= {"ratio": self.ratio, "avg_down": self.avg_down}
        reduction, dilation = 4, 1
        for i, (count, width) in enumerate(zip(self.layers, self.widths, strict=True)):
            stride = 2 if i else 1
            if reduction >= self.output_stride:
                dilation, stride = dilation * stride, 1
            reduction *= stride
            first = 1 if dilation <= 2 else 2
            for j in range(count):
                run = functools.partial(
                    _BLOCKS[self.block],
                    features=divisible(width * self.width_factor),
                    stride=1 if j else stride,
                    dilation=dilation,
                    first_dilation=dilation if j else first,
                    project=not j,
                    drop_path=next(rates),
                    **own,
                )
                name = f"stages_{i}_blocks_{j}"
                complete = f"stages_{i}" if j == count - 1 else None
                yield Part(name, run, map=complete, reduction=reduction, remat=self.remat)
        yield Part("norm", self._norm, owns=("norm",), depth=name)

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        if not self.zero_pool:
            return max_pool(x)
        return max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), padding=0)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        return normalise_and_activate(
            self.norm, "norm", x, as_activation(self.activation), train=train, **self.dtypes
        )

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), "kernel_init": Normal(0.01)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths")
        check_choice("block", self.block, tuple(_BLOCKS))
        check_choice("stem", self.stem, _STEMS)
        check_size("width_factor", self.width_factor)
        check_size("stem_width", self.stem_width)
        check_number("ratio", self.ratio, above=0)


REFERENCE = Reference(
    stem=("stem/conv", "stem/conv1"),
    classifier="head.fc",
    layouts=(("params/head/fc/kernel", "pointwise"),),
    # Branches as large as what they are added to would make rounding grow from block to block, of
    # standardised kernels above all, whose own size says nothing.
    scales=tuple((f"*.norm3.{leaf}", 0.25) for leaf in ("weight", "bias", "tau")),
)
_EVO = functools.partial(EvoNormS0, groups=32)
_50, _101, _152 = (3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3)
_BIT: dict[str, Any] = {"standardised": True, "zero_pool": True, "norm": GROUPS}
_BASIC: dict[str, Any] = {"block": "basic", "widths": (64, 128, 256, 512), "ratio": 1.0}
_18: dict[str, Any] = {"layers": (2, 2, 2, 2), **_BASIC}
_34: dict[str, Any] = {"layers": (3, 4, 6, 3), **_BASIC}
_D: dict[str, Any] = {"stem": "deep", "avg_down": True}

variants(
    ResNetV2,
    {
        "resnetv2_50x1_bit": row("BiT-R50x1", layers=_50, **_BIT),
        "resnetv2_50x3_bit": row("BiT-R50x3", layers=_50, width_factor=3, **_BIT),
        "resnetv2_101x1_bit": row("BiT-R101x1", layers=_101, **_BIT),
        "resnetv2_101x3_bit": row("BiT-R101x3", layers=_101, width_factor=3, **_BIT),
        "resnetv2_152x2_bit": row("BiT-R152x2", layers=_152, width_factor=2, **_BIT),
        "resnetv2_152x4_bit": row("BiT-R152x4", layers=_152, width_factor=4, **_BIT),
    },
    paper="https://arxiv.org/abs/1912.11370",
    reference=REFERENCE,
)
variants(
    ResNetV2,
    {
        "resnetv2_18": row("ResNet-18 V2", **_18),
        "resnetv2_18d": row("ResNet-18-D V2", **_18, **_D),
        "resnetv2_34": row("ResNet-34 V2", **_34),
        "resnetv2_34d": row("ResNet-34-D V2", **_34, **_D),
        "resnetv2_50": row("ResNet-50 V2", layers=_50),
        "resnetv2_50d": row("ResNet-50-D V2", layers=_50, **_D),
        "resnetv2_50t": row("ResNet-50-T V2", layers=_50, stem="tiered", avg_down=True),
        "resnetv2_101": row("ResNet-101 V2", layers=_101),
        "resnetv2_101d": row("ResNet-101-D V2", layers=_101, **_D),
        "resnetv2_152": row("ResNet-152 V2", layers=_152),
        "resnetv2_152d": row("ResNet-152-D V2", layers=_152, **_D),
        "resnetv2_50d_gn": row("ResNet-50-D V2 with GroupNorm", layers=_50, norm=GROUPS, **_D),
        "resnetv2_50d_evos": row("ResNet-50-D V2 with EvoNorm", layers=_50, norm=_EVO, **_D),
        "resnetv2_50d_frn": row(
            "ResNet-50-D V2 with filter response norms", layers=_50, norm="frn", **_D
        ),
    },
    paper="https://arxiv.org/abs/1603.05027",
    reference=REFERENCE,
)
