"""Backbones of mobile networks: stages of blocks that are written down in a line each.

A line is that of the papers' code (MnasNet, https://arxiv.org/abs/1807.11626): the kind of block,
then options of a letter or two and a number, joined by ``_``. ``"ir_r2_k3_s2_e6_c24_se0.25"`` is
two inverted residuals with kernels of 3 x 3, the first of stride 2, that are six times as wide
inside as outside, of 24 channels, with gates of a quarter of their input's width.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax

from flaxzoo._checks import as_choice, check_size
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.gates import EfficientChannelAttention, as_gate, divisible
from flaxzoo.layers.initializers import FanOut, HeNormal
from flaxzoo.layers.inverted_residual import (
    ConvBlock,
    FusedResidual,
    InvertedResidual,
    MobileBlock,
    SeparableBlock,
)
from flaxzoo.layers.norm import normalise_and_activate
from flaxzoo.layers.universal_residual import MobileAttention, UniversalResidual
from flaxzoo.models.backbone import Backbone, Part

# timm's names in the gates.
RENAMED = (("se/fc1", "se.conv_reduce"), ("se/fc2", "se.conv_expand"))
# As TensorFlow's implementations, for weights from there.
TF: dict[str, Any] = {"padding": "SAME", "norm_epsilon": 1e-3}
_ACTIVATIONS = {"re": "relu", "r6": "relu6", "hs": "hard_swish", "sw": "silu", "mi": "mish"}
_ANTI_ALIASING = ("avg", "blur", "blur_zeros")
_OPTION = re.compile(r"(?!n[a-z])([a-z]+)(\d[\d.]*)")
# What a block gets from the network as it is.
_PASSED_ON = (
    "norm",
    "norm_epsilon",
    "padding",
    "gate_activation",
    "squeeze_activation",
    "anti_aliasing",
    "dtype",
    "param_dtype",
)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("."))


# From an option's letters to the field of a Line and how its number is read.
_OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "r": ("repeats", int),
    "k": ("kernel_sizes", _sizes),
    "s": ("stride", int),
    "e": ("expansion", float),
    "c": ("width", int),
    "se": ("squeeze_ratio", float),
    "a": ("expand_kernel_sizes", _sizes),
    "p": ("project_kernel_sizes", _sizes),
    "fc": ("expanded_width", int),
    "gs": ("group_size", int),
    "cc": ("experts", int),
    "d": ("stacked", int),
    "m": ("hidden", int),
    "q": ("squeeze", int),
    "h": ("heads", int),
    "v": ("key_stride", int),
}
KINDS: Mapping[str, type[MobileBlock]] = {
    "cn": ConvBlock,
    "ds": SeparableBlock,
    "dsa": SeparableBlock,
    "ir": InvertedResidual,
    "er": FusedResidual,
    "uir": UniversalResidual,
    "mqa": MobileAttention,
}


@dataclasses.dataclass(frozen=True)
class Line:
    """The blocks of a line.

    Attributes:
      kind: ``"ir"``, an inverted residual; ``"er"``, a fused one; ``"ds"``, a depthwise separable
        one, ``"dsa"`` with an activation at its end and no shortcut; ``"cn"``, a convolution;
        ``"uir"``, a universal inverted residual; ``"mqa"``, attention.
      width: ``c``, the channels of the output.
      repeats: ``r``, the number of blocks.
      kernel_sizes: ``k``, of the convolution over the image; several, ``k3.5.7``, share the
        channels.
      stride: ``s``, of the first block.
      expansion: ``e``, the channels inside as a multiple of the input's.
      squeeze_ratio: ``se``, the width inside the gate as a part of the input's channels.
      expand_kernel_sizes: ``a``, of the convolution that widens; of a ``"uir"``, of the depthwise
        one before it. None for what the kind does.
      project_kernel_sizes: ``p``, of the one that makes the output; of a ``"uir"``, of the
        depthwise one behind it. None for what the kind does.
      expanded_width: ``fc``, the channels of which the first block's are a multiple, in place of
        its input's.
      group_size: ``gs``, the channels of each group of the convolution over the image.
      experts: ``cc``, the kernels that are mixed for each image.
      stacked: ``d``, whether 2 x 2 pixels become one until the next stride.
      head_dim: ``d`` of an ``"mqa"``, the channels of each head.
      heads: ``h``, their number.
      key_stride: ``v``, by how much the map of keys and values is smaller.
      hidden: ``m``, the channels inside, in place of ``e``.
      squeeze: ``q``, the width inside the gate, in place of ``se``.
      skip: ``skip`` and ``noskip``: whether the input is added; None for what the kind does.
      activation: ``nre``, ``nr6``, ``nhs``, ``nsw``, ``nmi``: of these blocks; None for the
        network's.
    """

    kind: str
    width: int
    repeats: int = 1
    kernel_sizes: tuple[int, ...] = (3,)
    stride: int = 1
    expansion: float = 1.0
    squeeze_ratio: float = 0.0
    expand_kernel_sizes: tuple[int, ...] | None = None
    project_kernel_sizes: tuple[int, ...] | None = None
    expanded_width: int = 0
    group_size: int | None = None
    experts: int = 0
    stacked: int = 0
    heads: int = 4
    head_dim: int = 64
    key_stride: int = 1
    hidden: int | None = None
    squeeze: int | None = None
    skip: bool | None = None
    activation: str | None = None


@functools.lru_cache(maxsize=1024)
def read_line(text: str) -> Line:
    """Reads the blocks of a line, such as ``"ir_r2_k3_s2_e6_c24_se0.25"``.

    Raises:
      ArgumentError: its kind or one of its options is unknown, or it names no channels.
    """
    kind, *options = text.split("_") if isinstance(text, str) else ("",)
    if kind not in KINDS:
        raise ArgumentError(f"blocks: {text!r} must begin with a kind of block: {', '.join(KINDS)}")
    fields: dict[str, Any] = {}
    for option in options:
        match = _OPTION.fullmatch(option)
        if option in ("skip", "noskip"):
            fields["skip"] = option == "skip"
        elif option[1:] in _ACTIVATIONS and option[0] == "n":
            fields["activation"] = _ACTIVATIONS[option[1:]]
        elif match is not None and match[1] in _OPTIONS:
            name, read = _OPTIONS[match[1]]
            if kind == "mqa" and name == "stacked":
                name = "head_dim"
            try:
                fields[name] = read(match[2])
            except ValueError:
                raise ArgumentError(f"blocks: {option!r} of {text!r} is no number") from None
        else:
            raise ArgumentError(
                f"blocks: {text!r} has the option {option!r}, which is none of "
                f"{', '.join(_OPTIONS)} with a number, skip, noskip, "
                f"{', '.join(f'n{name}' for name in _ACTIVATIONS)}"
            )
    if "width" not in fields:
        raise ArgumentError(f"blocks: {text!r} names no channels: give c and a number")
    return Line(kind, **fields)


def round_width(width: float, factor: float = 1.0, by: int = 8, limit: float = 0.9) -> int:
    """Scales a number of channels, to a multiple of ``by`` near it (MobileNet's rule).

    Args:
      width: the channels.
      factor: what they are multiplied by.
      by: what divides the result, which is at least this.
      limit: the least part of the exact number that the result may be.
    """
    return divisible(width * factor, by, by, limit)


def scale_stages(
    stages: Sequence[Sequence[str]],
    width: float = 1.0,
    depth: float | Sequence[float] = 1.0,
    *,
    by: int = 8,
    limit: float = 0.9,
    nearest: bool = False,
    keep_ends: bool = False,
    group_size: int | None = None,
) -> tuple[tuple[str, ...], ...]:
    """The lines of a network that is wider and deeper than the one given (EfficientNet).

    Args:
      stages: the lines of each stage.
      width: what channels are multiplied by, as ``round_width`` does.
      depth: what the number of blocks of each stage is multiplied by; or one for each stage.
      by: what divides all channels.
      limit: as ``round_width``'s.
      nearest: whether the number of blocks is rounded to the nearest, not up.
      keep_ends: whether the first and the last stage keep their number of blocks.
      group_size: of the lines that name none.

    Returns:
      The lines of each stage.

    Raises:
      ArgumentError: a stage is no list of lines, a line can't be read, or ``depth`` has another
        length than ``stages``.
    """
    _check_stages(stages)
    depths = [depth] * len(stages) if isinstance(depth, int | float) else list(depth)
    if len(depths) != len(stages):
        raise ArgumentError(
            f"depth must be a number, or one for each of {len(stages)} stages, got {depth}"
        )
    if keep_ends:
        depths[0] = depths[-1] = 1.0
    scaled = []
    for lines, factor in zip(stages, depths, strict=True):
        counts = _repeats([read_line(line).repeats for line in lines], factor, nearest)
        wider = functools.partial(round_width, factor=width, by=by, limit=limit)
        scaled.append(
            tuple(
                _rewritten(line, count, wider, group_size)
                for line, count in zip(lines, counts, strict=True)
            )
        )
    return tuple(scaled)


def _check_stages(stages: Any) -> None:
    """Raises ArgumentError where stages are no lists of lines, or a line can't be read."""
    if not stages or not all(stages) or isinstance(stages, str):
        raise ArgumentError(f"blocks must have lines for each stage, got {stages!r}")
    for lines in stages:
        if isinstance(lines, str):
            raise ArgumentError(f"blocks must have a list of lines for each stage, got {lines!r}")
        for line in map(read_line, lines):
            for name in ("width", "repeats"):
                check_size(name, getattr(line, name))
            if line.stride not in (1, 2):
                raise ArgumentError(f"blocks: stride must be 1 or 2, got {line.stride}")


def _repeats(counts: Sequence[int], factor: float, nearest: bool) -> list[int]:
    """Scales the sum of the numbers of blocks, and shares it out from the last line on."""
    total = sum(counts)
    wanted = max(1, round(total * factor)) if nearest else math.ceil(total * factor)
    scaled = []
    for count in reversed(counts):
        scaled.append(max(1, round(count / total * wanted)))
        total, wanted = total - count, wanted - scaled[-1]
    return scaled[::-1]


def _rewritten(line: str, count: int, widen: Callable[[int], int], group_size: int | None) -> str:
    """A line of so many blocks, with its channels widened."""
    kind, *options = line.split("_")
    parts = [kind] if count == 1 else [kind, f"r{count}"]
    for option in options:
        match = re.fullmatch(r"(r|c|fc)(\d+)", option)
        if match is None:
            parts.append(option)
        elif match[1] != "r":
            parts.append(f"{match[1]}{widen(int(match[2]))}")
    own = [] if group_size is None or "_gs" in line else [f"gs{group_size}"]
    return "_".join([*parts, *own])


class MobileBackbone(Backbone):
    """A stem and stages of blocks; a family adds what follows them.

    It maps images ``[B, H, W, C]`` to the last map, ``output_stride`` times smaller.

    Attributes:
      blocks: the lines of each stage (``read_line``).
      stem_width: the channels of the first convolution, of stride 2.
      stem_kernel_size: its kernel's size.
      padding: of all convolutions: None for the same zeros on both sides, as PyTorch's; ``"SAME"``
        as TensorFlow's.
      activation: by name or callable, of the stem and of blocks that name none.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      gate: of blocks that have one: ``"se"``, ``"gc"``, or a module that takes ``width``,
        ``activation``, ``name`` and dtypes.
      gate_activation: the function that makes gates.
      squeeze_activation: the function inside gates; None for that of their block.
      squeeze_hidden: whether a gate's width is a part of the channels inside its block, not of its
        input's.
      squeeze_rounding: what divides this width, and the least part of the exact number that it may
        be (``round_width``); None for the nearest number.
      layer_scale: what the learnt scales of universal residuals and attention begin with; None for
        no scales.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      anti_aliasing: ``"avg"``, ``"blur"``, ``"blur_zeros"`` or None: low-pass before pixels are
        dropped in blocks (``flaxzoo.layers.pool.anti_alias``).
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later stages
        are dilated instead of strided, so that pretrained weights fit all three.
      drop_path: rate of stochastic depth behind the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    # The submodules of the stem.
    stem_names: ClassVar[tuple[str, ...]] = ("conv_stem", "bn1")

    blocks: Sequence[Sequence[str]] = (("ds_c16",), ("ir_s2_e6_c24",))
    stem_width: int = 32
    stem_kernel_size: int = 3
    padding: str | None = None
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float | None = None
    gate: Any = "se"
    gate_activation: str | Callable[[jax.Array], jax.Array] = "sigmoid"
    squeeze_activation: str | Callable[[jax.Array], jax.Array] | None = None
    squeeze_hidden: bool = False
    squeeze_rounding: tuple[int, float] | None = None
    layer_scale: float | None = None
    implementation: str = "einsum"
    anti_aliasing: str | None = None
    output_stride: int = 32
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``blocks_0_0``, ``blocks_0_1`` and so on."""
        stages = [[read_line(line) for line in lines] for lines in self.blocks]
        total = sum(line.repeats for lines in stages for line in lines)
        first = stages[0][0]
        stem = "stem" if first.stride > 1 or first.stacked else None
        options: dict[str, Any] = {"owns": self.stem_names, "takes": "images"}
        yield Part("stem", self._stem, map=stem, reduction=2, **options)
        place = _Place(self.stem_width, self.output_stride)
        number = 0
        for i, lines in enumerate(stages):
            every = [line for line in lines for _ in range(line.repeats)]
            for j, line in enumerate(every):
                rate = self.drop_path * number / total
                # Only the first block of a stage is strided.
                build = self._block(place.enter(line, line.stride if j == 0 else 1), rate)
                is_complete = j == len(every) - 1 and (
                    i + 1 == len(stages) or (stages[i + 1][0].stride > 1 and not place.stacked)
                )
                yield Part(
                    f"blocks_{i}_{j}",
                    build,
                    map=f"blocks_{i}" if is_complete else None,
                    reduction=place.reduction,
                    remat=self.remat,
                )
                number += 1

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        options: dict[str, Any] = {"padding": self.padding, "kernel_init": HeNormal()}
        options |= {"name": "conv_stem", **self.dtypes}
        x = Conv(self.stem_width, self.stem_kernel_size, 2, **options)(x)
        return self._normalise(x, "bn1", train)

    def _normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        act = as_activation(self.activation)
        options = {"epsilon": self.norm_epsilon, **self.dtypes}
        return normalise_and_activate(self.norm, name, x, act, train=train, **options)

    @nn.nowrap
    def _block(self, step: _Step, drop_path: float) -> Callable[..., MobileBlock]:
        """A block as its line says."""
        line = step.line
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        kind, gate = KINDS[line.kind], as_gate(self.gate)
        usual_size = (0,) if kind is UniversalResidual else (1,)
        fields |= {
            "features": step.features,
            "hidden": step.hidden,
            "kernel_sizes": step.kernel_sizes,
            "expand_kernel_sizes": line.expand_kernel_sizes or usual_size,
            "project_kernel_sizes": line.project_kernel_sizes or usual_size,
            "stride": step.stride,
            "dilation": step.dilation,
            "squeeze": 0 if gate is None else self._squeeze(step),
            "activation": line.activation or self.activation,
            "gate": gate,
            "drop_path": drop_path,
        }
        usual = 0 if kind in (ConvBlock, FusedResidual) else 1
        fields["group_size"] = usual if line.group_size is None else line.group_size
        # A convolution has no shortcut, and a block with an activation at its end none at all.
        skip = line.skip is True if line.kind == "cn" else line.skip is not False
        fields["skip"] = skip and line.kind != "dsa"
        if kind is SeparableBlock:
            fields |= {"last_activation": line.kind == "dsa", "stacked": step.stacks}
        if kind is InvertedResidual:
            fields["experts"] = line.experts
        if kind in (UniversalResidual, MobileAttention):
            fields["layer_scale"] = self.layer_scale
        if kind is MobileAttention:
            fields |= {name: getattr(line, name) for name in ("heads", "head_dim", "key_stride")}
            fields["implementation"] = self.implementation
        return functools.partial(kind, **fields)

    @nn.nowrap
    def _squeeze(self, step: _Step) -> int:
        """The width inside a block's gate."""
        if step.line.squeeze is not None:
            return step.line.squeeze
        ratio = step.line.squeeze_ratio / (4 if step.stacks else 1)
        if not self.squeeze_hidden:
            ratio /= step.expansion
        if self.squeeze_rounding is None or not ratio:
            return round(step.hidden * ratio)
        by, limit = self.squeeze_rounding
        return round_width(step.hidden * ratio, 1.0, by, limit)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The classifier begins as TensorFlow's."""
        return {**super().head_options(), "kernel_init": FanOut()}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        _check_stages(self.blocks)
        for name in ("stem_width", "stem_kernel_size"):
            check_size(name, getattr(self, name))
        as_choice("padding", self.padding, ("SAME",))
        as_choice("anti_aliasing", self.anti_aliasing, _ANTI_ALIASING)
        as_activation(self.gate_activation)
        if self.squeeze_activation is not None:
            as_activation(self.squeeze_activation)
        if as_gate(self.gate) is EfficientChannelAttention:
            raise ArgumentError(
                "gate must take the width that a line says, 'se' or 'gc': got 'eca'"
            )


@dataclasses.dataclass(frozen=True)
class _Step:
    """One block of a line, where it stands in a network.

    Attributes:
      line: what it is one of.
      inputs: its input's channels.
      features: its output's.
      expansion: the channels inside as a multiple of the input's.
      stride: of its convolution over the image.
      dilation: of that convolution.
      stacks: whether it makes one pixel of 2 x 2 first.
    """

    line: Line
    inputs: int
    features: int
    expansion: float
    stride: int
    dilation: int
    stacks: bool

    @property
    def hidden(self) -> int:
        """The channels inside."""
        inputs = self.inputs * (4 if self.stacks else 1)
        if self.line.hidden is not None:
            return self.line.hidden
        if self.line.kind in ("ds", "dsa", "cn"):
            return inputs
        return round_width((self.line.expanded_width or inputs) * self.expansion)

    @property
    def kernel_sizes(self) -> tuple[int, ...]:
        """Those of the convolution over the image."""
        sizes = self.line.kernel_sizes
        # Of stacked pixels half as many are seen.
        return tuple((size + 1) // 2 for size in sizes) if self.stacks else sizes


class _Place:
    """Where in the network a block stands: its channels, and how much smaller its maps are.

    Attributes:
      channels: of the maps so far.
      reduction: by how much they are smaller than the image.
      stacked: whether 2 x 2 pixels are one, which ends at the next stride.
    """

    def __init__(self, channels: int, output_stride: int) -> None:
        self.channels, self.output_stride = channels, output_stride
        self.reduction, self.dilation, self.stacked = 2, 1, False

    def enter(self, line: Line, stride: int) -> _Step:
        """Goes through a block."""
        expansion, stacks = line.expansion, False
        if line.stacked and not self.stacked:
            stacks = self.stacked = True
            self.reduction *= 2
        elif self.stacked and stride > 1:
            stride, expansion, self.stacked = 1, expansion / 4, False
        dilation = self.dilation
        if stride > 1:
            if self.reduction * stride > self.output_stride:
                self.dilation, stride = self.dilation * stride, 1
            else:
                self.reduction *= stride
        features = line.width * (4 if self.stacked else 1)
        step = _Step(line, self.channels, features, expansion, stride, dilation, stacks)
        self.channels = features
        return step
