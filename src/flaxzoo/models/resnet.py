"""ResNet and its kin: ResNeXt, Wide ResNet, SE, ECA, SENet, ResNet-RS, -GN, -AA and -blur.

One backbone; the variants differ by what is put into it: the stem, the block, the norm, the
gate and how it is anti-aliased. Names and numbers are those of timm's ``resnet`` module.

Letters behind the depth are the stem: ``c``, three 3 x 3 convolutions for the 7 x 7 one; ``s``, the
same, wider; ``d``, ``c`` with shortcuts that average before they project; ``t``, ``d`` with a stem
that widens step by step. ``se`` and ``eca`` weigh the channels of each block, ``aa`` averages and
``blur`` blurs where the image shrinks, ``rs`` is scaled for larger images, ``32x4d`` has 32 groups
of 4 channels, ``gn`` normalises by groups. ``test_resnet`` is timm's tiny one for tests.

References:
  ResNet: https://arxiv.org/abs/1512.03385
  C and D variants: https://arxiv.org/abs/1812.01187
  ResNeXt: https://arxiv.org/abs/1611.05431
  Wide ResNet: https://arxiv.org/abs/1605.07146
  SE, SENet: https://arxiv.org/abs/1709.01507
  ECA: https://arxiv.org/abs/1910.03151
  Blur-pool: https://arxiv.org/abs/1904.11486
  ResNet-RS: https://arxiv.org/abs/2103.07579
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax

from flaxzoo._checks import (
    as_choice,
    check_choice,
    check_lengths,
    check_lists,
    check_size,
    check_widths,
)
from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.gates import EfficientChannelAttention, SqueezeExcite, as_gate
from flaxzoo.layers.initializers import PLAIN, plain_bias
from flaxzoo.layers.norm import as_norm, call_norm
from flaxzoo.layers.pool import anti_alias, max_pool
from flaxzoo.layers.residual import ResidualBlock
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm names the first convolution by its place in the stem.
REFERENCE = Reference(stem=("conv1", "conv1_0"))
_STEMS = ("conv7", "deep", "tiered")
_ANTI_ALIASING = ("avg", "blur")
# What a block gets from the network as it is.
_PASSED_ON = (
    "groups",
    "base_width",
    "reduce_first",
    "down_kernel_size",
    "avg_down",
    "activation",
    "norm",
    "zero_init_residual",
    "dtype",
    "param_dtype",
)


class BasicBlock(ResidualBlock):
    """Two 3 x 3 convolutions, as in ResNet-18 and -34."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        act = as_activation(self.activation)
        stride = 1 if self.low_pass else self.stride
        first = {"stride": stride, "dilation": self.first_dilation}
        y = self.conv(self.features // self.reduce_first, 3, "conv1", **first)(x)
        y = act(self.normalise(y, "bn1", train))
        if self.low_pass:
            y = anti_alias(y, self.low_pass, self.stride)
        y = self.conv(self.features, 3, "conv2", dilation=self.dilation)(y)
        y = self.normalise(y, "bn2", train, last=True)
        return self.add(x, y, train)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_basic(self)


def check_basic(block: ResidualBlock) -> None:
    """Raises ValueError for what a block of 3 x 3 convolutions alone does not take."""
    if block.groups != 1 or block.base_width != 64:
        raise ValueError(
            "a basic block takes groups=1 and base_width=64, "
            f"got {block.groups} and {block.base_width}; block='bottleneck' takes others"
        )


class Bottleneck(ResidualBlock):
    """1 x 1, 3 x 3 and 1 x 1 convolutions; the stride is in the 3 x 3 (ResNet v1.5).

    Attributes:
      channels: of the three, where no rule gives them, as after pruning; None for those that the
        other fields give.
    """

    expansion: ClassVar[int] = 4

    channels: Sequence[int] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H / stride, W / stride, 4 * features]``."""
        act = as_activation(self.activation)
        width = self.features * self.base_width // 64 * self.groups
        usual = (width // self.reduce_first, width, self.features * self.expansion)
        first, second, last = self.channels or usual
        y = self.conv(first, 1, "conv1")(x)
        y = act(self.normalise(y, "bn1", train))
        stride = 1 if self.low_pass else self.stride
        middle = {"stride": stride, "dilation": self.first_dilation, "groups": self.groups}
        y = self.conv(second, 3, "conv2", **middle)(y)
        y = act(self.normalise(y, "bn2", train))
        if self.low_pass:
            y = anti_alias(y, self.low_pass, self.stride)
        y = self.conv(last, 1, "conv3")(y)
        y = self.normalise(y, "bn3", train, last=True)
        return self.add(x, y, train)

    @property
    def outputs(self) -> int:
        """The channels of the output."""
        return super().outputs if self.channels is None else self.channels[-1]


class ResNet(Backbone):
    """A residual network without its classifier: a stem and four stages of blocks.

    Attributes:
      layers: number of blocks of each stage.
      block: ``"basic"``, ``"bottleneck"``, or a subclass of ``ResidualBlock`` (or a partial of
        one); or one for each stage.
      widths: ``features`` of the stages' blocks.
      stem: ``"conv7"``, one 7 x 7 convolution; ``"deep"``, three 3 x 3 of widths ``stem_width``,
        ``stem_width``, ``2 * stem_width``; ``"tiered"``, the first of them at three quarters.
      stem_width: of the deep stems; the 7 x 7 convolution has 64 channels.
      stem_pool: ``"max"``, or ``"conv"`` for a strided convolution (ResNet-RS).
      groups: of the 3 x 3 convolutions (ResNeXt's cardinality).
      base_width: channels of a group, per 64 of a stage's width.
      reduce_first: by how much the blocks' first convolution is narrower (SENet-154: 2).
      down_kernel_size: of the shortcuts' convolutions (SENet-154: 3).
      avg_down: whether shortcuts average instead of dropping pixels (the D variants).
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later
        stages are dilated instead of strided, so that pretrained weights fit all three.
      activation: by name or callable.
      norm: ``"batch"``, ``"group"``, or a Linen module (see ``flaxzoo.layers.norm.as_norm``).
      gate: ``"se"``, ``"eca"``, a Linen module or None, at the end of each block; or one for each
        stage.
      anti_aliasing: ``"avg"``, ``"blur"`` or None: low-pass before pixels are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the
        first. https://arxiv.org/abs/1603.09382
      zero_init_residual: whether each branch's last norm starts with a scale of zero.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
      channels: of the three convolutions of each bottleneck of each stage, where no rule gives
        them, as after pruning; None for those that the other fields give.
    """

    # What ``block`` may be called; a network of other blocks has its own.
    blocks: ClassVar[Mapping[str, type[ResidualBlock]]] = {
        "basic": BasicBlock,
        "bottleneck": Bottleneck,
    }

    layers: Sequence[int]
    block: Any = "bottleneck"
    widths: Sequence[int] = (64, 128, 256, 512)
    stem: str = "conv7"
    stem_width: int = 64
    stem_pool: str = "max"
    groups: int = 1
    base_width: int = 64
    reduce_first: int = 1
    down_kernel_size: int = 1
    avg_down: bool = False
    output_stride: int = 32
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    gate: Any = None
    anti_aliasing: str | None = None
    drop_path: float = 0.0
    zero_init_residual: bool = True
    remat: bool | str = False
    channels: Sequence[Sequence[Sequence[int]]] | None = None

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem and its pooling, then the blocks ``layer1_0``, ``layer1_1`` and so on."""
        convs = ("conv1",) if self.stem == "conv7" else tuple(f"conv1_{i}" for i in (0, 1, 3, 4, 6))
        owns = (*convs, "bn1")
        yield Part("stem", self._stem, owns=owns, takes="images", map="stem", reduction=2)
        pool = ("maxpool_0", self._pool_norm) if self.stem_pool == "conv" else ()
        yield Part("stem", self._pool, owns=pool)
        channels = 64 if self.stem == "conv7" else 2 * self.stem_width
        reduction, dilation, before = 4, 1, 1
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        kinds = zip(self._for_each(self.block), self._for_each(self.gate), strict=True)
        stages = zip(kinds, self.layers, self.widths, strict=True)
        for n, ((kind, gate), count, width) in enumerate(stages, 1):
            block = self.blocks[kind] if isinstance(kind, str) else kind
            stride = 1 if n == 1 else 2
            if reduction >= self.output_stride:
                dilation, stride = dilation * stride, 1
            reduction *= stride
            outputs = width * getattr(block, "func", block).expansion
            for i in range(count):
                own: dict[str, Any] = {}
                if self.channels is not None:
                    own["channels"] = tuple(self.channels[n - 1][i])
                build = functools.partial(
                    block,
                    features=width,
                    stride=stride if i == 0 else 1,
                    dilation=dilation,
                    first_dilation=before,
                    # Dilated stages keep the shortcut that they have when strided.
                    project=i == 0 and (n > 1 or channels != outputs),
                    anti_aliasing=self._low_pass,
                    gate=gate,
                    drop_path=next(rates),
                    **own,
                    **self.block_fields(),
                )
                complete = f"layer{n}" if i == count - 1 else None
                yield Part(
                    f"layer{n}_{i}", build, map=complete, reduction=reduction, remat=self.remat
                )
                channels, before = outputs, dilation

    @nn.nowrap
    def block_fields(self) -> dict[str, Any]:
        """The fields that all blocks have from the network as they are."""
        return {name: getattr(self, name) for name in _PASSED_ON}

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        act = as_activation(self.activation)
        if self.stem == "conv7":
            x = Conv(64, 7, stride=2, name="conv1", **self.dtypes)(x)
        else:
            width = self.stem_width
            first = width // 4 * 3 if self.stem == "tiered" else width
            for i, features in enumerate((first, width)):
                conv = Conv(features, 3, stride=2 - i, name=f"conv1_{3 * i}", **self.dtypes)
                x = act(self._norm(conv(x), f"conv1_{3 * i + 1}", train))
            x = Conv(2 * width, 3, name="conv1_6", **self.dtypes)(x)
        return act(self._norm(x, "bn1", train))

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        kind = self._low_pass
        if self.stem_pool == "conv":
            stride = 1 if kind else 2
            x = Conv(x.shape[-1], 3, stride=stride, name="maxpool_0", **self.dtypes)(x)
            if kind:
                x = anti_alias(x, kind, 2)
            x = self._norm(x, self._pool_norm, train)
            return as_activation(self.activation)(x)
        if kind == "avg":
            return anti_alias(x, "avg", 2)
        if kind == "blur":
            return anti_alias(max_pool(x, stride=1), "blur", 2)
        return max_pool(x)

    def _norm(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        return call_norm(as_norm(self.norm)(name=name, **self.dtypes), x, train=train)

    @property
    def _pool_norm(self) -> str:
        # The list of modules that the reference checkpoint names has the blur in between.
        return "maxpool_2" if self._low_pass else "maxpool_1"

    @property
    def _low_pass(self) -> str | None:
        return as_choice("anti_aliasing", self.anti_aliasing, _ANTI_ALIASING)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers, which begin as PyTorch's layers."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def _for_each(self, value: Any) -> tuple[Any, ...]:
        """What each stage has of a field that takes one value for all, or one for each."""
        values = _each(value)
        return values if len(values) > 1 else values * len(self.layers)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths")
        for name in ("block", "gate"):
            number = len(_each(getattr(self, name)))
            if number not in (1, len(self.layers)):
                raise ValueError(
                    f"{name} must be one, or one for each of {len(self.layers)} stages, "
                    f"got {number}"
                )
        for block in _each(self.block):
            kind = getattr(block, "func", block)
            if not (isinstance(kind, type) and issubclass(kind, ResidualBlock)):
                check_choice("block", block, tuple(self.blocks), " or a ResidualBlock class")
        self._check_channels()
        check_choice("stem", self.stem, _STEMS)
        check_choice("stem_pool", self.stem_pool, ("max", "conv"))
        for name in ("stem_width", "groups", "base_width", "reduce_first", "down_kernel_size"):
            check_size(name, getattr(self, name))
        as_choice("anti_aliasing", self.anti_aliasing, _ANTI_ALIASING)
        for gate in _each(self.gate):
            as_gate(gate)
        for part in self.parts():
            # A block knows what it takes; those of a stage take the same.
            if part.name.endswith("_0"):
                part.run(parent=None).check_fields()

    @nn.nowrap
    def _check_channels(self) -> None:
        if self.channels is None:
            return
        check_lengths(layers=self.layers, channels=self.channels)
        for kind in self._for_each(self.block):
            block = self.blocks[kind] if isinstance(kind, str) else getattr(kind, "func", kind)
            if not issubclass(block, Bottleneck):
                raise ValueError(f"channels are those of bottlenecks, got block={self.block!r}")
        for count, blocks in zip(self.layers, self.channels, strict=True):
            three = all(len(check_widths("channels", channels)) == 3 for channels in blocks)
            if len(blocks) < count or not three:
                raise ValueError(
                    "channels must have three numbers for each block, as many as "
                    f"layers={tuple(self.layers)} says, got {blocks} for {count} blocks"
                )


def _each(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


# What names have in common, in timm's letters.
_C: dict[str, Any] = {"stem": "deep", "stem_width": 32}
_S: dict[str, Any] = {"stem": "deep", "stem_width": 64}
_D: dict[str, Any] = {"stem": "deep", "stem_width": 32, "avg_down": True}
_T: dict[str, Any] = {"stem": "tiered", "stem_width": 32, "avg_down": True}
_32X4D: dict[str, Any] = {"groups": 32, "base_width": 4}
_32X8D: dict[str, Any] = {"groups": 32, "base_width": 8}
_64X4D: dict[str, Any] = {"groups": 64, "base_width": 4}
_SE: dict[str, Any] = {"gate": "se"}
_ECA: dict[str, Any] = {"gate": "eca"}
_AA: dict[str, Any] = {"anti_aliasing": "avg"}
_BLUR: dict[str, Any] = {"anti_aliasing": "blur"}
# The kernels are those of the channels before pruning.
_ECA_PRUNED: dict[str, Any] = {
    "gate": (
        *[functools.partial(EfficientChannelAttention, kernel_size=5)] * 3,
        functools.partial(EfficientChannelAttention, kernel_size=7),
    )
}


def _pruned(outputs: int, *inside: tuple[int, int]) -> tuple[tuple[int, int, int], ...]:
    """The channels of a stage's blocks, of which the last are the same."""
    return tuple((*pair, outputs) for pair in inside)


# The channels that pruning left to each convolution.
_50D_PRUNED = (
    _pruned(19, (47, 18), (52, 22), (64, 35)),
    _pruned(171, (85, 37), (107, 80), (120, 85), (125, 87)),
    _pruned(818, (198, 126), (255, 232), (256, 233), (253, 235), (256, 225), (256, 239)),
    _pruned(2022, (492, 237), (512, 500), (512, 490)),
)
_101D_PRUNED = (
    _pruned(26, (45, 25), (53, 20), (60, 27)),
    _pruned(142, (81, 24), (93, 49), (102, 54), (122, 78)),
    _pruned(
        278,
        (101, 25),
        (239, 160),
        (234, 156),
        (250, 176),
        (253, 191),
        (251, 175),
        (230, 128),
        (244, 154),
        (244, 159),
        (238, 97),
        (244, 149),
        (253, 181),
        (245, 119),
        (255, 216),
        (256, 201),
        (253, 149),
        (254, 141),
        (256, 190),
        (256, 217),
        (255, 156),
        (256, 155),
        (256, 232),
        (256, 214),
    ),
    _pruned(2042, (499, 289), (512, 512), (512, 502)),
)
# One object: partials of equal arguments are different keys to jit.
_SE_QUARTER = functools.partial(SqueezeExcite, ratio=0.25, bias_init=plain_bias)
_RS: dict[str, Any] = {**_D, "stem_pool": "conv", "gate": _SE_QUARTER}

_add = functools.partial(variants, ResNet, reference=REFERENCE, renamed={"attention": "gate"})
_add(
    {
        "resnet18": row("ResNet-18", block="basic", layers=(2, 2, 2, 2)),
        "resnet34": row("ResNet-34", block="basic", layers=(3, 4, 6, 3)),
        "resnet26": row("ResNet-26", layers=(2, 2, 2, 2)),
        "resnet50": row("ResNet-50", layers=(3, 4, 6, 3)),
        "resnet101": row("ResNet-101", layers=(3, 4, 23, 3)),
        "resnet152": row("ResNet-152", layers=(3, 8, 36, 3)),
        "resnet200": row("ResNet-200", layers=(3, 24, 36, 3)),
        "test_resnet": row(
            "A tiny network of both kinds of block",
            block=("basic", "basic", "bottleneck", "basic"),
            layers=(1, 1, 1, 1),
            widths=(32, 48, 48, 96),
            stem="deep",
            stem_width=16,
            avg_down=True,
        ),
    },
    paper="https://arxiv.org/abs/1512.03385",
)
_add(
    {
        "resnet50c": row("ResNet-50-C: deep stem", layers=(3, 4, 6, 3), **_C),
        "resnet101c": row("ResNet-101-C: deep stem", layers=(3, 4, 23, 3), **_C),
        "resnet152c": row("ResNet-152-C: deep stem", layers=(3, 8, 36, 3), **_C),
        "resnet50s": row("ResNet-50-S: wide deep stem", layers=(3, 4, 6, 3), **_S),
        "resnet101s": row("ResNet-101-S: wide deep stem", layers=(3, 4, 23, 3), **_S),
        "resnet152s": row("ResNet-152-S: wide deep stem", layers=(3, 8, 36, 3), **_S),
        "resnet18d": row(
            "ResNet-18-D: deep stem, averaging shortcuts", block="basic", layers=(2, 2, 2, 2), **_D
        ),
        "resnet34d": row(
            "ResNet-34-D: deep stem, averaging shortcuts", block="basic", layers=(3, 4, 6, 3), **_D
        ),
        "resnet26d": row("ResNet-26-D: deep stem, averaging shortcuts", layers=(2, 2, 2, 2), **_D),
        "resnet50d": row("ResNet-50-D: deep stem, averaging shortcuts", layers=(3, 4, 6, 3), **_D),
        "resnet101d": row(
            "ResNet-101-D: deep stem, averaging shortcuts", layers=(3, 4, 23, 3), **_D
        ),
        "resnet152d": row(
            "ResNet-152-D: deep stem, averaging shortcuts", layers=(3, 8, 36, 3), **_D
        ),
        "resnet200d": row(
            "ResNet-200-D: deep stem, averaging shortcuts", layers=(3, 24, 36, 3), **_D
        ),
        "resnet10t": row(
            "ResNet-10-T: tiered stem, averaging shortcuts",
            block="basic",
            layers=(1, 1, 1, 1),
            **_T,
        ),
        "resnet14t": row(
            "ResNet-14-T: tiered stem, averaging shortcuts", layers=(1, 1, 1, 1), **_T
        ),
        "resnet26t": row(
            "ResNet-26-T: tiered stem, averaging shortcuts", layers=(2, 2, 2, 2), **_T
        ),
        "resnet50t": row(
            "ResNet-50-T: tiered stem, averaging shortcuts", layers=(3, 4, 6, 3), **_T
        ),
    },
    paper="https://arxiv.org/abs/1812.01187",
)
_add(
    {
        "resnet50_gn": row("ResNet-50 with GroupNorm", layers=(3, 4, 6, 3), norm="group"),
    },
    paper="https://arxiv.org/abs/1803.08494",
)
_add(
    {
        "wide_resnet50_2": row(
            "Wide ResNet-50, twice as wide inside", layers=(3, 4, 6, 3), base_width=128
        ),
        "wide_resnet101_2": row(
            "Wide ResNet-101, twice as wide inside", layers=(3, 4, 23, 3), base_width=128
        ),
    },
    paper="https://arxiv.org/abs/1605.07146",
)
_add(
    {
        "resnext50_32x4d": row("ResNeXt-50, 32 groups of 4", layers=(3, 4, 6, 3), **_32X4D),
        "resnext101_32x4d": row("ResNeXt-101, 32 groups of 4", layers=(3, 4, 23, 3), **_32X4D),
        "resnext50d_32x4d": row(
            "ResNeXt-50-D, 32 groups of 4", layers=(3, 4, 6, 3), **_D, **_32X4D
        ),
        "resnext101_32x8d": row("ResNeXt-101, 32 groups of 8", layers=(3, 4, 23, 3), **_32X8D),
        "resnext101_32x16d": row(
            "ResNeXt-101, 32 groups of 16", layers=(3, 4, 23, 3), groups=32, base_width=16
        ),
        "resnext101_32x32d": row(
            "ResNeXt-101, 32 groups of 32", layers=(3, 4, 23, 3), groups=32, base_width=32
        ),
        "resnext101_64x4d": row("ResNeXt-101, 64 groups of 4", layers=(3, 4, 23, 3), **_64X4D),
    },
    paper="https://arxiv.org/abs/1611.05431",
)
_add(
    {
        "seresnet18": row("SE-ResNet-18", block="basic", layers=(2, 2, 2, 2), **_SE),
        "seresnet34": row("SE-ResNet-34", block="basic", layers=(3, 4, 6, 3), **_SE),
        "seresnet50": row("SE-ResNet-50", layers=(3, 4, 6, 3), **_SE),
        "seresnet101": row("SE-ResNet-101", layers=(3, 4, 23, 3), **_SE),
        "seresnet152": row("SE-ResNet-152", layers=(3, 8, 36, 3), **_SE),
        "seresnet50t": row(
            "SE-ResNet-50-T: tiered stem, averaging shortcuts", layers=(3, 4, 6, 3), **_T, **_SE
        ),
        "seresnet152d": row(
            "SE-ResNet-152-D: deep stem, averaging shortcuts", layers=(3, 8, 36, 3), **_D, **_SE
        ),
        "seresnet200d": row(
            "SE-ResNet-200-D: deep stem, averaging shortcuts", layers=(3, 24, 36, 3), **_D, **_SE
        ),
        "seresnet269d": row(
            "SE-ResNet-269-D: deep stem, averaging shortcuts", layers=(3, 30, 48, 8), **_D, **_SE
        ),
        "seresnext50_32x4d": row(
            "SE-ResNeXt-50, 32 groups of 4", layers=(3, 4, 6, 3), **_32X4D, **_SE
        ),
        "seresnext101_32x4d": row(
            "SE-ResNeXt-101, 32 groups of 4", layers=(3, 4, 23, 3), **_32X4D, **_SE
        ),
        "seresnext26d_32x4d": row(
            "SE-ResNeXt-26, 32 groups of 4, D variant", layers=(2, 2, 2, 2), **_D, **_32X4D, **_SE
        ),
        "seresnext26t_32x4d": row(
            "SE-ResNeXt-26, 32 groups of 4, T variant", layers=(2, 2, 2, 2), **_T, **_32X4D, **_SE
        ),
        "seresnext101_32x8d": row(
            "SE-ResNeXt-101, 32 groups of 8", layers=(3, 4, 23, 3), **_32X8D, **_SE
        ),
        "seresnext101d_32x8d": row(
            "SE-ResNeXt-101, 32 groups of 8, D variant", layers=(3, 4, 23, 3), **_D, **_32X8D, **_SE
        ),
        "seresnext101_64x4d": row(
            "SE-ResNeXt-101, 64 groups of 4", layers=(3, 4, 23, 3), **_64X4D, **_SE
        ),
        "senet154": row(
            "SENet-154",
            layers=(3, 8, 36, 3),
            down_kernel_size=3,
            reduce_first=2,
            **_S,
            **_64X4D,
            **_SE,
        ),
    },
    paper="https://arxiv.org/abs/1709.01507",
)
_add(
    {
        "ecaresnet26t": row(
            "ECA-ResNet-26-T: tiered stem, averaging shortcuts", layers=(2, 2, 2, 2), **_T, **_ECA
        ),
        "ecaresnet50t": row(
            "ECA-ResNet-50-T: tiered stem, averaging shortcuts", layers=(3, 4, 6, 3), **_T, **_ECA
        ),
        "ecaresnet50d": row(
            "ECA-ResNet-50-D: deep stem, averaging shortcuts", layers=(3, 4, 6, 3), **_D, **_ECA
        ),
        "ecaresnet101d": row(
            "ECA-ResNet-101-D: deep stem, averaging shortcuts", layers=(3, 4, 23, 3), **_D, **_ECA
        ),
        "ecaresnet200d": row(
            "ECA-ResNet-200-D: deep stem, averaging shortcuts", layers=(3, 24, 36, 3), **_D, **_ECA
        ),
        "ecaresnet269d": row(
            "ECA-ResNet-269-D: deep stem, averaging shortcuts", layers=(3, 30, 48, 8), **_D, **_ECA
        ),
        "ecaresnet50d_pruned": row(
            "ECA-ResNet-50-D with channels pruned away",
            layers=(3, 4, 6, 3),
            channels=_50D_PRUNED,
            **_D,
            **_ECA_PRUNED,
        ),
        "ecaresnet101d_pruned": row(
            "ECA-ResNet-101-D with channels pruned away",
            layers=(3, 4, 23, 3),
            channels=_101D_PRUNED,
            **_D,
            **_ECA_PRUNED,
        ),
        "ecaresnext26t_32x4d": row(
            "ECA-ResNeXt-26, 32 groups of 4, T variant", layers=(2, 2, 2, 2), **_T, **_32X4D, **_ECA
        ),
        "ecaresnext50t_32x4d": row(
            "ECA-ResNeXt-50, 32 groups of 4, T variant", layers=(3, 4, 6, 3), **_T, **_32X4D, **_ECA
        ),
        "ecaresnetlight": row(
            "ECA-ResNet with few early blocks", layers=(1, 1, 11, 3), avg_down=True, **_ECA
        ),
    },
    paper="https://arxiv.org/abs/1910.03151",
)
_add(
    {
        "resnetrs50": row("ResNet-RS-50", layers=(3, 4, 6, 3), **_RS),
        "resnetrs101": row("ResNet-RS-101", layers=(3, 4, 23, 3), **_RS),
        "resnetrs152": row("ResNet-RS-152", layers=(3, 8, 36, 3), **_RS),
        "resnetrs200": row("ResNet-RS-200", layers=(3, 24, 36, 3), **_RS),
        "resnetrs270": row("ResNet-RS-270", layers=(4, 29, 53, 4), **_RS),
        "resnetrs350": row("ResNet-RS-350", layers=(4, 36, 72, 4), **_RS),
        "resnetrs420": row("ResNet-RS-420", layers=(4, 44, 87, 4), **_RS),
    },
    paper="https://arxiv.org/abs/2103.07579",
)
_add(
    {
        "resnetaa50": row("ResNet-50, anti-aliased by averages", layers=(3, 4, 6, 3), **_AA),
        "resnetaa34d": row(
            "ResNet-34-D, anti-aliased by averages", block="basic", layers=(3, 4, 6, 3), **_D, **_AA
        ),
        "resnetaa50d": row(
            "ResNet-50-D, anti-aliased by averages", layers=(3, 4, 6, 3), **_D, **_AA
        ),
        "resnetaa101d": row(
            "ResNet-101-D, anti-aliased by averages", layers=(3, 4, 23, 3), **_D, **_AA
        ),
        "seresnetaa50d": row(
            "SE-ResNet-50-D, anti-aliased by averages", layers=(3, 4, 6, 3), **_D, **_SE, **_AA
        ),
        "seresnextaa101d_32x8d": row(
            "SE-ResNeXt-101, 32 groups of 8, anti-aliased by averages",
            layers=(3, 4, 23, 3),
            **_D,
            **_32X8D,
            **_SE,
            **_AA,
        ),
        "seresnextaa201d_32x8d": row(
            "SE-ResNeXt-201, 32 groups of 8, anti-aliased by averages",
            layers=(3, 24, 36, 4),
            avg_down=True,
            **_S,
            **_32X8D,
            **_SE,
            **_AA,
        ),
        "resnetblur18": row(
            "ResNet-18, anti-aliased by blurs", block="basic", layers=(2, 2, 2, 2), **_BLUR
        ),
        "resnetblur50": row("ResNet-50, anti-aliased by blurs", layers=(3, 4, 6, 3), **_BLUR),
        "resnetblur50d": row(
            "ResNet-50-D, anti-aliased by blurs", layers=(3, 4, 6, 3), **_D, **_BLUR
        ),
        "resnetblur101d": row(
            "ResNet-101-D, anti-aliased by blurs", layers=(3, 4, 23, 3), **_D, **_BLUR
        ),
    },
    paper="https://arxiv.org/abs/1904.11486",
)
