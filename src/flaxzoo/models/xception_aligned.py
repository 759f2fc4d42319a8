"""Xception as DeepLab has it: strides in convolutions instead of pooling, and deeper.

Names and numbers are those of timm's ``xception_aligned`` module; ``p`` behind the depth has its
norms and activations before the convolutions.

References:
  Xception: https://arxiv.org/abs/1610.02357
  DeepLab V3+: https://arxiv.org/abs/1802.02611
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_lengths, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import PLAIN, FanIn
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm has no keyword for the number of blocks in the middle: its networks are compared whole.
CUT: dict[str, str] = {}
# What blocks get from the network as it is.
_PASSED_ON = ("pre_norm", "activation", "norm", "norm_epsilon", "dtype", "param_dtype")


class AlignedLayers(Layer):
    """What the modules of aligned Xceptions share.

    Attributes:
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
    """

    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float = 1e-3

    @nn.nowrap
    def normalise(self, x: jax.Array, name: str, train: bool, active: bool) -> jax.Array:
        """Applies a norm, and the activation where ``active``."""
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        x = call_norm(norm, x, train=train)
        return as_activation(self.activation)(x) if active else x


class SeparableConv(AlignedLayers, kw_only=True):
    """A 3 x 3 convolution ``conv_dw`` of each channel, then a 1 x 1 convolution ``conv_pw``.

    Attributes:
      features: channels of the output.
      stride: of the first convolution.
      dilation: likewise.
      pre_norm: whether one ``norm`` stands before both, with its activation, instead of one behind
        each.
      active: whether the norms are activated.
      normalised: whether there are norms.
    """

    features: int
    stride: int = 1
    dilation: int = 1
    pre_norm: bool = False
    active: bool = True
    normalised: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        options: dict[str, Any] = {"kernel_init": FanIn(), "dtype": self.dtype}
        options["param_dtype"] = self.param_dtype
        behind = self.normalised and not self.pre_norm
        if self.normalised and self.pre_norm:
            x = self.normalise(x, "norm", train, self.active)
        moves: dict[str, Any] = {"stride": self.stride, "dilation": self.dilation}
        x = Conv(x.shape[-1], 3, groups=x.shape[-1], name="conv_dw", **moves, **options)(x)
        if behind:
            x = self.normalise(x, "bn_dw", train, self.active)
        x = Conv(self.features, 1, name="conv_pw", **options)(x)
        return self.normalise(x, "bn_pw", train, self.active) if behind else x


class AlignedBlock(AlignedLayers, kw_only=True):
    """Three separable convolutions, of which the last is strided, and a shortcut around them.

    Parameters are named as those of timm's ``XceptionModule`` and ``PreXceptionModule``.

    Attributes:
      widths: the channels behind each of them.
      stride: by which the block reduces the image.
      dilation: of the convolutions.
      pre_norm: whether norms and activations stand before the convolutions; else activations stand
        between them, each followed by two norms.
      shortcut: whether the input is added; without it each norm is activated instead.
      drop_path: the rate at which the branch is dropped for a whole example.
    """

    widths: Sequence[int]
    stride: int = 1
    dilation: int = 1
    pre_norm: bool = False
    shortcut: bool = True
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, widths[-1]]``, rounded up.

        Returns:
          The output, and what the strided convolution sees, the last map of this size.
        """
        fields = ("activation", "norm", "norm_epsilon", "dtype", "param_dtype")
        options = {name: getattr(self, name) for name in fields}
        conv = functools.partial(
            SeparableConv, dilation=self.dilation, pre_norm=self.pre_norm, **options
        )
        active = self.pre_norm or not self.shortcut
        if self.pre_norm:
            x = self.normalise(x, "norm", train, active=True)
        y = last = x
        for i, width in enumerate(self.widths):
            if not active:
                y = as_activation(self.activation)(y)
            last = y
            y = conv(
                features=width,
                stride=self.stride if i == len(self.widths) - 1 else 1,
                active=active,
                normalised=i > 0 or not self.pre_norm,
                name=f"stack_conv{i + 1}",
            )(y, train)
        if self.shortcut:
            drop = DropPath(self.drop_path, name="drop_path")
            y = drop(y, deterministic=not train) + self._shortcut(x, train)
        return y, last

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        if self.stride == 1 and x.shape[-1] == self.widths[-1]:
            return x
        size = {"stride": self.stride, "kernel_init": FanIn(), "name": "shortcut"}
        options = {**self.dtypes, **size}
        if self.pre_norm:
            return Conv(self.widths[-1], 1, **options)(x)
        norm = {"norm": self.norm, "norm_epsilon": self.norm_epsilon}
        return ConvNorm(self.widths[-1], 1, **norm, **options)(x, train)


class XceptionAligned(Backbone):
    """An aligned Xception without its classifier: two convolutions, then blocks.

    It maps images ``[B, H, W, C]`` of any size to ``[B, H / 32, W / 32, C']``. The map of a size is
    what the convolution that halves it sees; the last one is before the last activation.

    Attributes:
      stem_widths: the channels of the first two convolutions.
      widths: those of the blocks at the beginning.
      strides: by which each of these reduces the image.
      layers: the number of blocks in the middle, which change nothing in shape.
      exit_widths: the channels behind each convolution of the last two blocks, of which the first
        halves the map and the second has no shortcut.
      pre_norm: whether norms and activations stand before the convolutions.
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later blocks
        are dilated instead of strided, so that pretrained weights fit all three.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the first.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    stem_widths: Sequence[int] = (32, 64)
    widths: Sequence[int] = (128, 256, 728)
    strides: Sequence[int] = (2, 2, 2)
    layers: int = 8
    exit_widths: Sequence[Sequence[int]] = ((728, 1024, 1024), (1536, 1536, 2048))
    pre_norm: bool = False
    output_stride: int = 32
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float = 1e-3
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, the blocks ``blocks_0`` and so on, and the last activation."""
        yield Part("stem", self._stem, ("stem_0", "stem_1"), takes="images")
        entry = list(zip(((w,) * 3 for w in self.widths), self.strides, strict=True))
        middle = [((self.widths[-1],) * 3, 1)] * self.layers
        blocks = [*entry, *middle, (self.exit_widths[0], 2), (self.exit_widths[1], 1)]
        options = {name: getattr(self, name) for name in _PASSED_ON}
        rates, reduction, dilation = drop_path_rates(self.drop_path, len(blocks)), 2, 1
        for i, (widths, stride) in enumerate(blocks):
            name, last, before = f"blocks_{i}", i == len(blocks) - 1, (reduction, dilation)
            strided = reduction * stride <= self.output_stride
            block = functools.partial(
                AlignedBlock,
                widths=tuple(widths),
                stride=stride if strided else 1,
                dilation=dilation,
                shortcut=not last,
                drop_path=rates[i],
                **options,
            )
            if strided:
                reduction *= stride
            else:
                dilation *= stride
            ends: dict[str, Any] = {"map": name, "reduction": before[0]} if stride > 1 else {}
            yield Part(name, block, view=_seen, remat=self.remat, **ends)
            ends = {"map": name, "reduction": reduction} if last else {}
            yield Part(name, _output, (), **ends)
        if self.pre_norm:
            yield Part(name, self._activate, ())

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        norm = {"norm": self.norm, "norm_epsilon": self.norm_epsilon}
        options: dict[str, Any] = {"activation": self.activation, **norm, **self.dtypes}
        first, second = self.stem_widths
        x = ConvNorm(first, 3, stride=2, name="stem_0", **options)(x, train)
        if self.pre_norm:
            return Conv(second, 3, kernel_init=FanIn(), name="stem_1", **self.dtypes)(x)
        return ConvNorm(second, 3, name="stem_1", **options)(x, train)

    def _activate(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return as_activation(self.activation)(x)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The usual ones, and PyTorch's first parameters of a linear layer."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("widths", "strides")}
        for name, value in lists.items():
            check_widths(name, value)
        if len(check_widths("stem_widths", self.stem_widths)) != 2:
            raise ArgumentError(f"stem_widths must be 2 numbers, got {self.stem_widths!r}")
        check_lengths(**lists)
        check_size("layers", self.layers, minimum=0)
        if [len(check_widths("exit_widths", value)) for value in self.exit_widths] != [3, 3]:
            raise ArgumentError(f"exit_widths must be two triples, got {self.exit_widths!r}")


def _output(pair: tuple[jax.Array, jax.Array], train: bool) -> jax.Array:
    """Of what a block returns, the output."""
    del train
    return pair[0]


def _seen(pair: Any) -> jax.Array:
    """Of what a block returns, what its last convolution sees."""
    return pair[1]


variants(
    XceptionAligned,
    {
        "xception41": row("Xception-41 of DeepLab"),
        "xception65": row("Xception-65 of DeepLab", layers=16),
        "xception71": row(
            "Xception-71 of DeepLab",
            widths=(128, 256, 256, 728, 728),
            strides=(2, 1, 2, 1, 2),
            layers=16,
        ),
        "xception41p": row(
            "Xception-41 with norms before convolutions", pre_norm=True, norm_epsilon=1e-5
        ),
        "xception65p": row("Xception-65 with norms before convolutions", pre_norm=True, layers=16),
    },
    input_shape=(299, 299, 3),
    paper="https://arxiv.org/abs/1802.02611",
    reference=Reference(
        stem=("stem_0/conv",),
        classifier="head.fc",
        renamed=((r"stack_(conv\d)", r"stack.\1"),),
    ),
)
