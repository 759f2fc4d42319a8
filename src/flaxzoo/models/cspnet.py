"""CSPNet and DarkNet: stages of which half the channels pass by the blocks.

A cross stage partial network widens the map at the beginning of each stage, sends half of it
through the blocks, and joins both halves at its end. DarkNet, the backbone of YOLO, has the blocks
alone. Names and numbers are those of timm's ``cspnet`` module.

``csp`` before ``resnet50``, ``resnext50`` and ``darknet53`` are the paper's networks; ``cs3`` has
one convolution less at the end of a stage, as YOLO v5's; ``focus`` begins with one convolution of
6 x 6. ``edgenet`` has fused blocks, ``se`` gates, ``aa`` averages where the image shrinks.

References:
  CSPNet: https://arxiv.org/abs/1911.11929
  DarkNet-53: https://arxiv.org/abs/1804.02767
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_choice, check_lengths, check_number, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import SqueezeExcite, as_gate
from flaxzoo.layers.initializers import HeNormal, Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.pool import avg_pool, max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# Where timm's classes of configurations take the number of blocks: all are compared whole.
CUT: dict[str, str] = {}
# Behind a stage's first part: the half that passes by, and the one that goes through the blocks.
Halves = tuple[jax.Array, jax.Array]
_STAGES = ("csp", "cs3", "dark")
# What a block gets from the network as it is.
_PASSED_ON = ("gate", "activation", "norm", "zero_init_residual", "dtype", "param_dtype")


class DarkBlock(Layer):
    """A 1 x 1 and a 3 x 3 convolution, whose result is added to the input.

    Attributes:
      features: the output's channels.
      ratio: the share of them that the first convolution has.
      groups: of the 3 x 3 convolution.
      dilation: of the 3 x 3 convolution.
      gate: between the convolutions, by name or module (``flaxzoo.layers.gates``); None for none.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      zero_init_residual: whether the last norm begins with a scale of zero.
      drop_path: the rate at which an example's branch is dropped.
    """

    features: int
    ratio: float = 0.5
    groups: int = 1
    dilation: int = 1
    gate: Any = None
    activation: str | Callable[[jax.Array], jax.Array] = "leaky_relu"
    norm: Any = "batch"
    zero_init_residual: bool = True
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, features]`` to the same shape."""
        y = self.branch(x, train)
        return x + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)

    def branch(self, x: jax.Array, train: bool) -> jax.Array:
        """What is added to the input."""
        x = self.gated(self.conv(self.inner, "conv1")(x, train), "attn")
        return self.conv(self.features, "conv2", 3, **self.last)(x, train)

    @nn.nowrap
    def conv(self, features: int, name: str, size: int = 1, **options: Any) -> ConvNorm:
        """Makes a convolution with a norm and an activation behind it."""
        if size > 1:
            options |= {"groups": self.groups, "dilation": self.dilation}
        options = {"activation": self.activation, "kernel_init": HeNormal(), **options}
        options |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return ConvNorm(features, size, norm=self.norm, name=name, **options)

    def gated(self, x: jax.Array, name: str) -> jax.Array:
        """Scales the channels by the gate, where there is one."""
        gate = as_gate(self.gate)
        if gate is None:
            return x
        return gate(name=name, **self.dtypes)(x)

    @property
    def inner(self) -> int:
        """The channels of the first convolution."""
        return round(self.features * self.ratio)

    @property
    def last(self) -> dict[str, Any]:
        """The fields of the last convolution, whose norm may begin with a scale of zero."""
        return {"scale_init": zeros if self.zero_init_residual else ones}


class EdgeBlock(DarkBlock):
    """A 3 x 3 and a 1 x 1 convolution, whose result is added to the input."""

    def branch(self, x: jax.Array, train: bool) -> jax.Array:
        """What is added to the input."""
        x = self.gated(self.conv(self.inner, "conv1", 3)(x, train), "attn")
        return self.conv(self.features, "conv2", **self.last)(x, train)


class BottleneckBlock(DarkBlock):
    """1 x 1, 3 x 3 and 1 x 1 convolutions; the sum with the input is activated."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, features]`` to the same shape."""
        y = self.conv(self.inner, "conv1")(x, train)
        y = self.gated(self.conv(self.inner, "conv2", 3)(y, train), "attn2")
        y = self.conv(self.features, "conv3", activation=None, **self.last)(y, train)
        y = DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)
        return as_activation(self.activation)(x + y)


_BLOCKS: dict[str, type[DarkBlock]] = {
    "bottleneck": BottleneckBlock,
    "dark": DarkBlock,
    "edge": EdgeBlock,
}


@dataclasses.dataclass(frozen=True)
class _Stage:
    """Where a stage stands, and how wide it is.

    Attributes:
      name: of its submodules, before theirs.
      features: the output's channels.
      expanded: the channels of which half pass by.
      stride: of the convolution at its beginning.
      dilation: of the blocks.
      first_dilation: of the convolution at its beginning.
      groups: of all 3 x 3 convolutions.
    """

    name: str
    features: int
    expanded: int
    stride: int
    dilation: int
    first_dilation: int
    groups: int


class CspNet(Backbone):
    """A CSPNet or DarkNet without its classifier: a stem and stages of blocks.

    It maps images ``[B, H, W, C]`` to the last map, ``output_stride`` times smaller.

    Attributes:
      layers: number of blocks of each stage.
      widths: channels of the stages.
      stage: ``"csp"``, ``"cs3"`` for one convolution less at its end, or ``"dark"`` for blocks
        alone.
      block: ``"bottleneck"``, ``"dark"`` or ``"edge"``.
      first_stride: of the first stage, 1 or 2; the others have 2.
      groups: of the 3 x 3 convolutions; one number, or one for each stage.
      ratio: the channels inside a block as a multiple of its own; likewise.
      block_ratio: the channels of blocks as a multiple of the stage's; likewise.
      expand_ratio: the channels of which half pass by, as a multiple of the stage's; likewise.
      down_growth: whether the convolution that shrinks the image has the stage's channels, rather
        than those of the stage before; ``"dark"`` stages always do so.
      cross_linear: whether no activation stands before the halves part.
      avg_down: whether pixels are averaged in place of strided convolutions.
      stem_widths: channels of the stem's convolutions.
      stem_kernel_size: their kernels' size.
      stem_padding: of the first of them (``flaxzoo.layers.conv.Conv``).
      stem_stride: of the first of them, 1 or 2.
      stem_pool: whether the largest of neighbouring pixels are taken behind them.
      gate: inside blocks, by name or module (``flaxzoo.layers.gates``); None for none.
      activation: by name or callable.
      norm: by name or module (``flaxzoo.layers.norm``).
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later stages
        are dilated instead of strided, so that pretrained weights fit all three.
      zero_init_residual: whether each branch's last norm begins with a scale of zero.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 3, 5, 2)
    widths: Sequence[int] = (128, 256, 512, 1024)
    stage: str = "csp"
    block: str = "bottleneck"
    first_stride: int = 2
    groups: int | Sequence[int] = 1
    ratio: Any = 1.0
    block_ratio: Any = 1.0
    expand_ratio: Any = 1.0
    down_growth: bool = False
    cross_linear: bool = False
    avg_down: bool = False
    stem_widths: Sequence[int] = (32,)
    stem_kernel_size: int = 3
    stem_padding: int | None = None
    stem_stride: int = 2
    stem_pool: bool = False
    gate: Any = None
    activation: str | Callable[[jax.Array], jax.Array] = "leaky_relu"
    norm: Any = "batch"
    output_stride: int = 32
    zero_init_residual: bool = True
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem; for each stage its beginning, blocks ``stages_0_blocks_0`` ..., and its end."""
        reduction, dilation = self.stem_stride, 1
        owns = tuple(f"stem_conv{i + 1}" for i in range(len(self.stem_widths)))
        yield Part("stem", self._stem, owns, takes="images", map="stem", reduction=reduction)
        if self.stem_pool:
            yield Part("stem", _pool, owns=())
            reduction *= 2
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        every = [self._each(name) for name in ("groups", "ratio", "block_ratio", "expand_ratio")]
        stages = zip(self.layers, self.widths, *every, strict=True)
        for i, (count, features, groups, ratio, block_ratio, expand_ratio) in enumerate(stages):
            stride = 2 if i else self.first_stride
            if reduction >= self.output_stride:
                dilation, stride = dilation * stride, 1
            reduction *= stride
            first = 1 if dilation <= 2 else 2
            expanded, name = round(features * expand_ratio), f"stages_{i}"
            stage = _Stage(name, features, expanded, stride, dilation, first, groups)
            enter, leave = (functools.partial(run, stage) for run in (self._enter, self._leave))
            yield Part(f"{name}_blocks_0", enter, self._first(stage))
            for j in range(count):
                build = functools.partial(
                    _BLOCKS[self.block],
                    round(features * block_ratio),
                    ratio,
                    groups,
                    dilation,
                    drop_path=next(rates),
                    name=f"{name}_blocks_{j}",
                    **{field: getattr(self, field) for field in _PASSED_ON},
                )
                block = functools.partial(self._block, build)
                takes = "maps" if self.stage == "dark" else None
                yield Part(f"{name}_blocks_{j}", block, (f"{name}_blocks_{j}",), takes=takes)
            ends = {"csp": ("conv_transition_b", "conv_transition"), "cs3": ("conv_transition",)}
            owns = tuple(f"{name}_{end}" for end in ends.get(self.stage, ()))
            options: dict[str, Any] = {"map": name, "reduction": reduction}
            yield Part(f"{name}_blocks_{count - 1}", leave, owns, **options)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        for i, width in enumerate(self.stem_widths):
            own = {} if i else {"stride": self.stem_stride, "padding": self.stem_padding}
            x = self._conv(width, f"stem_conv{i + 1}", self.stem_kernel_size, **own)(x, train)
        return x

    def _enter(self, stage: _Stage, x: jax.Array, train: bool) -> jax.Array | Halves:
        """Shrinks the image and parts the channels."""
        down = self._first(stage)[0]
        if down.endswith("conv_down_1"):
            x = avg_pool(x, 2, 2) if stage.stride == 2 else x
            x = self._conv(stage.features, down, groups=stage.groups)(x, train)
        elif down.endswith("conv_down"):
            grows = self.down_growth or self.stage == "dark"
            options = {"stride": stage.stride, "dilation": stage.first_dilation}
            width = stage.features if grows else x.shape[-1]
            x = self._conv(width, down, 3, groups=stage.groups, **options)(x, train)
        if self.stage == "dark":
            return x
        act = None if self.cross_linear else self.activation
        x = self._conv(stage.expanded, f"{stage.name}_conv_exp", activation=act)(x, train)
        first, second = jnp.split(x, 2, -1)
        return (first, second) if self.stage == "csp" else (second, first)

    def _block(self, build: Any, x: Any, train: bool) -> Any:
        """Computes a block on the map, or on the half of it that goes through blocks."""
        kind = self.stored(build.func, self.remat)
        block = kind(*build.args, **build.keywords)
        return block(x, train) if self.stage == "dark" else (x[0], block(x[1], train))

    def _leave(self, stage: _Stage, x: Any, train: bool) -> jax.Array:
        """Joins the halves."""
        if self.stage == "dark":
            return x
        aside, x = x
        if self.stage == "csp":
            own = self._conv(stage.expanded // 2, f"{stage.name}_conv_transition_b")
            both = [aside, own(x, train)]
        else:
            both = [x, aside]
        joined = jnp.concatenate(both, -1)
        return self._conv(stage.features, f"{stage.name}_conv_transition")(joined, train)

    @nn.nowrap
    def _first(self, stage: _Stage) -> tuple[str, ...]:
        """The submodules at the beginning of a stage."""
        changes = stage.stride > 1 or stage.first_dilation != stage.dilation
        names = ["conv_down_1" if self.avg_down else "conv_down"]
        names = names if changes or self.stage == "dark" else []
        names += [] if self.stage == "dark" else ["conv_exp"]
        return tuple(f"{stage.name}_{name}" for name in names)

    @nn.nowrap
    def _conv(self, features: int, name: str, size: int = 1, **options: Any) -> ConvNorm:
        """Makes a convolution with a norm and an activation behind it."""
        options = {"activation": self.activation, "norm": self.norm, **self.dtypes, **options}
        return ConvNorm(features, size, kernel_init=HeNormal(), name=name, **options)

    @nn.nowrap
    def _each(self, name: str) -> Sequence[Any]:
        """One value of a field for each stage."""
        value = getattr(self, name)
        return value if isinstance(value, Sequence) else (value,) * len(self.layers)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), "kernel_init": Normal(0.01)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("layers", "widths", "stem_widths"):
            check_widths(name, getattr(self, name))
        ratios = ("ratio", "block_ratio", "expand_ratio")
        lengths = {name: self._each(name) for name in ("groups", *ratios)}
        check_lengths(layers=self.layers, widths=self.widths, **lengths)
        for size in lengths["groups"]:
            check_size("groups", size)
        for name in ratios:
            for value in lengths[name]:
                check_number(name, value, above=0)
        check_choice("stage", self.stage, _STAGES)
        shares = zip(self.widths, lengths["block_ratio"], lengths["expand_ratio"], strict=True)
        for width, block_ratio, expand_ratio in shares:
            inputs = width if self.stage == "dark" else round(width * expand_ratio) / 2
            if round(width * block_ratio) != inputs:
                # What goes through the blocks is added to what they compute.
                raise ArgumentError(
                    "block_ratio must be 1 where stage='dark', and else half of expand_ratio, so "
                    f"that blocks of a stage of {width} channels have {inputs:g}, got {block_ratio}"
                )
        check_choice("block", self.block, tuple(_BLOCKS))
        for name in ("first_stride", "stem_stride"):
            if getattr(self, name) not in (1, 2):
                raise ArgumentError(f"{name} must be 1 or 2, got {getattr(self, name)!r}")
        check_size("stem_kernel_size", self.stem_kernel_size)
        as_gate(self.gate)


def _pool(x: jax.Array, train: bool) -> jax.Array:
    del train
    return max_pool(x)


# One object each: partials of equal arguments are different keys to jit.
_SE = functools.partial(SqueezeExcite, activation="silu")
_SE_QUARTER = functools.partial(SqueezeExcite, ratio=0.25, activation="silu")
_SE_LEAKY = functools.partial(SqueezeExcite, activation="leaky_relu")
REFERENCE = Reference(
    stem=("stem_conv1/conv",), classifier="head.fc", renamed=((r"stem_(conv\d)", r"stem.\1"),)
)
_RESNET: dict[str, Any] = {"first_stride": 1, "cross_linear": True, "stem_pool": True}
_7X7: dict[str, Any] = {"stem_widths": (64,), "stem_kernel_size": 7, **_RESNET}
_DEEP: dict[str, Any] = {"stem_widths": (32, 32, 64), **_RESNET}
_DARK: dict[str, Any] = {
    "widths": (64, 128, 256, 512, 1024),
    "block": "dark",
    "stem_stride": 1,
}
_PLAIN: dict[str, Any] = {"stage": "dark", "ratio": 0.5, **_DARK}
_21, _53 = (1, 1, 1, 2, 2), (1, 2, 8, 8, 4)
_WIDE: dict[str, Any] = {"widths": (256, 512, 1024, 2048), "block_ratio": 0.5}
_CS3: dict[str, Any] = {"stage": "cs3", "block": "dark", "block_ratio": 0.5, "activation": "silu"}
_S: dict[str, Any] = {"layers": (1, 3, 4, 1), "widths": (64, 128, 256, 512), **_CS3}
_M: dict[str, Any] = {"layers": (2, 4, 6, 2), "widths": (96, 192, 384, 768), **_CS3}
_L: dict[str, Any] = {"layers": (3, 6, 9, 3), "widths": (128, 256, 512, 1024), **_CS3}
_X: dict[str, Any] = {"layers": (3, 7, 11, 3), "widths": (160, 320, 640, 1280), **_CS3}
_EDGE: dict[str, Any] = {**_X, "block": "edge", "ratio": 1.5, "stem_widths": (40, 80)}
_FOCUS: dict[str, Any] = {"stem_kernel_size": 6, "stem_padding": 2}

variants(
    CspNet,
    {
        "cspresnet50": row("CSPResNet-50", expand_ratio=2.0, ratio=0.5, **_7X7),
        "cspresnet50d": row(
            "CSPResNet-50 with three convolutions in the stem",
            expand_ratio=2.0,
            ratio=0.5,
            **_DEEP,
        ),
        "cspresnet50w": row("CSPResNet-50, wider", ratio=0.25, **_WIDE, **_DEEP),
        "cspresnext50": row("CSPResNeXt-50", groups=32, **_WIDE, **_7X7),
        "cspdarknet53": row(
            "CSPDarkNet-53",
            layers=_53,
            expand_ratio=(2.0, 1.0, 1.0, 1.0, 1.0),
            ratio=(0.5, 1.0, 1.0, 1.0, 1.0),
            block_ratio=(1.0, 0.5, 0.5, 0.5, 0.5),
            down_growth=True,
            **_DARK,
        ),
        "cs3darknet_s": row("CS3-DarkNet S", stem_widths=(16, 32), **_S),
        "cs3darknet_m": row("CS3-DarkNet M", stem_widths=(24, 48), **_M),
        "cs3darknet_l": row("CS3-DarkNet L", stem_widths=(32, 64), **_L),
        "cs3darknet_x": row("CS3-DarkNet X", stem_widths=(40, 80), **_X),
        "cs3darknet_focus_s": row("CS3-DarkNet S, 6 x 6", stem_widths=(32,), **_S, **_FOCUS),
        "cs3darknet_focus_m": row("CS3-DarkNet M, 6 x 6", stem_widths=(48,), **_M, **_FOCUS),
        "cs3darknet_focus_l": row("CS3-DarkNet L, 6 x 6", stem_widths=(64,), **_L, **_FOCUS),
        "cs3darknet_focus_x": row("CS3-DarkNet X, 6 x 6", stem_widths=(80,), **_X, **_FOCUS),
        "cs3sedarknet_l": row(
            "CS3-DarkNet L with gates", stem_widths=(32, 64), gate=_SE_QUARTER, **_L
        ),
        "cs3sedarknet_x": row("CS3-DarkNet X with gates", stem_widths=(40, 80), gate=_SE, **_X),
        "cs3sedarknet_xdw": row(
            "CSPNet with gates and depthwise convolutions",
            layers=(3, 6, 12, 4),
            stem_widths=(32, 64),
            groups=(1, 1, 256, 512),
            ratio=0.5,
            gate=_SE,
            activation="silu",
            **_WIDE,
        ),
        "cs3edgenet_x": row("CS3-EdgeNet X", **_EDGE),
        "cs3se_edgenet_x": row("CS3-EdgeNet X with gates", gate=_SE_QUARTER, **_EDGE),
    },
    paper="https://arxiv.org/abs/1911.11929",
    reference=REFERENCE,
)
variants(
    CspNet,
    {
        "darknet17": row("DarkNet-17", layers=(1, 1, 1, 1, 1), **_PLAIN),
        "darknet21": row("DarkNet-21", layers=_21, **_PLAIN),
        "sedarknet21": row("DarkNet-21 with gates", layers=_21, gate=_SE_LEAKY, **_PLAIN),
        "darknet53": row("DarkNet-53", layers=_53, **_PLAIN),
        "darknetaa53": row(
            "DarkNet-53 that averages before it drops pixels", layers=_53, avg_down=True, **_PLAIN
        ),
    },
    paper="https://arxiv.org/abs/1804.02767",
    reference=REFERENCE,
)
