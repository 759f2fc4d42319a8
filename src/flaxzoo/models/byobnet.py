"""Networks of given blocks: RepVGG, MobileOne, GERNet, RegNetZ, CLIP's ResNets and others.

Names and numbers are those of timm's ``byobnet`` module ("bring your own blocks").

``repvgg`` and ``mobileone`` sum branches that are one convolution in inference. ``gernet`` has few
channels early on and many later, for GPUs. Letters in front of ``resnet`` are the gates of blocks,
``se``, ``eca``, ``gc`` and ``bat``; ``ts`` behind it is a stem that widens step by step and SiLU,
``q`` a stem of four convolutions. ``regnetz`` has inverted bottlenecks of groups, ``evos`` with
EvoNorm. Of ``clip`` attention pools the last map, of ``clip_gap`` the mean. ``test_byobnet`` is
timm's tiny one for tests.

References:
  RepVGG: https://arxiv.org/abs/2101.03697
  MobileOne: https://arxiv.org/abs/2206.04040
  GERNet: https://arxiv.org/abs/2006.14090
  RegNetZ: https://arxiv.org/abs/2103.06877
  EvoNorm: https://arxiv.org/abs/2004.02967
  Bilinear attention: https://arxiv.org/abs/2103.00768
  CLIP: https://arxiv.org/abs/2103.00020
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._calls import call_module
from flaxzoo._checks import (
    as_choice,
    check_choice,
    check_lengths,
    check_number,
    check_size,
    check_widths,
)
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import (
    EfficientChannelAttention,
    GlobalContext,
    SqueezeExcite,
    as_gate,
    divisible,
)
from flaxzoo.layers.initializers import FanIn, HeNormal, Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.lowering.max_pool import max_pool_2d
from flaxzoo.layers.norm import BatchNorm, EvoNormS0
from flaxzoo.layers.pool import anti_alias, avg_pool, max_pool, shortcut_pool
from flaxzoo.layers.pos_embed import resample_positions
from flaxzoo.layers.reparameterized import MobileOneBlock
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import Row, row, variants

# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}
# What blocks get from the network as it is.
_COMMON = ("activation", "norm", "dtype", "param_dtype")
_RESIDUAL = (
    *("shortcut", "anti_aliasing", "expand_inputs", "extra_conv", "last_activation"),
    "zero_init_residual",
)
_SHORTCUTS = ("conv", "avg")
_ANTI_ALIASING = ("avg", "blur", "blur_zeros")


class BilinearAttention(Layer):
    """Mixes the rows and the columns of a map by matrices that are computed of it, and adds that.

    Chi et al. 2021 (BA-Transform), https://arxiv.org/abs/2103.00768. Parameters are named as timm's
    ``BatNonLocalAttn``: ``conv1``, ``ba`` and ``conv2``.

    Attributes:
      blocks: into how many rows and columns of blocks a map is divided; pixels of one place in
        their blocks are mixed.
      groups: the number of groups of channels that share matrices.
      ratio: the channels inside, as a part of all.
      dropout: rate at which channels of what is added are dropped.
      norm: of the convolutions, by name or module (``flaxzoo.layers.norm``).
    """

    blocks: int = 8
    groups: int = 2
    ratio: float = 0.25
    dropout: float = 0.2
    norm: Any = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape.

        Raises:
          ShapeError: ``blocks`` does not divide the height and the width.
        """
        options: dict[str, Any] = {"norm": self.norm, "activation": "relu"}
        options |= {"kernel_init": HeNormal(), "dtype": self.dtype}
        options["param_dtype"] = self.param_dtype
        layer: Callable[..., ConvNorm] = functools.partial(ConvNorm, **options)
        if any(size % self.blocks for size in x.shape[1:3]):
            raise ShapeError(
                f"bilinear attention of {self.blocks} x {self.blocks} blocks takes maps whose "
                f"sides these divide, got {list(x.shape)}: take images of a multiple of 256 pixels"
            )
        y = layer(divisible(x.shape[-1] * self.ratio), name="conv1")(x, train)
        y = layer(y.shape[-1], name="ba_conv2")(self.mixed(y, layer, train), train)
        y = layer(x.shape[-1], name="conv2")(y, train)
        drop = nn.Dropout(self.dropout, broadcast_dims=(1, 2), name="dropout")
        return x + drop(y, deterministic=not train)

    def mixed(self, x: jax.Array, layer: Callable[..., ConvNorm], train: bool) -> jax.Array:
        """Multiplies the map by both matrices."""
        n, groups, batch = self.blocks, self.groups, x.shape[0]
        few = layer(groups, name="ba_conv1")(x, train)
        height, width = x.shape[1:3]
        pads = ((0, 0), (0, 0))
        # Pooled, as the gradient of a maximum over axes may find it at no place (jaxlib 0.10).
        rows, columns = (
            max_pool_2d(few, window, window, pads)
            for window in ((height // n, width), (height, width // n))
        )
        p = self.matrices(rows, "ba_conv_p", axis=3)
        q = self.matrices(columns, "ba_conv_q", axis=2)
        shape = (batch, n, height // n, n, width // n, groups, x.shape[3] // groups)
        y = jnp.einsum("bgij,bjkmlgc->bikmlgc", p, x.reshape(shape))
        y = jnp.einsum("bikmlgc,bgmj->bikjlgc", y, q)
        return y.reshape(x.shape)

    def matrices(self, x: jax.Array, name: str, axis: int) -> jax.Array:
        """Computes a matrix for each group of channels, ``[B, groups, blocks, blocks]``."""
        n, options = self.blocks, {"dtype": self.dtype, "param_dtype": self.param_dtype}
        size: dict[str, Any] = {
            "padding": 0,
            "use_bias": True,
            "kernel_init": HeNormal(),
            "name": name,
        }
        y = Conv(n * n * self.groups, x.shape[1:3], **size, **options)(x)
        y = y.reshape(x.shape[0], self.groups, n, n)
        # Sigmoids that are divided by their sum, which may be too small a number by itself.
        wide = y.astype(jnp.promote_types(y.dtype, jnp.float32))
        return nn.softmax(nn.log_sigmoid(wide), axis).astype(y.dtype)


class ByobBlock(Layer, kw_only=True):
    """What the blocks with shortcuts share: their fields, and all but their convolutions.

    Parameters are named as timm's: ``shortcut``, ``attn`` or ``attn_last`` for the gate.

    Attributes:
      features: channels of the output.
      stride: by how much maps shrink.
      dilation: of the stage.
      first_dilation: of the convolution that may have the stride.
      group_size: channels of a group; 1 for depthwise convolutions, 0 for no groups.
      ratio: the channels inside, as a multiple of the output's, rounded to a multiple of 8.
      expand_inputs: whether it is a multiple of the input's (``regnetz``).
      extra_conv: whether a bottleneck has a second 3 x 3 convolution.
      shortcut: how the input gets the shape of the output: ``"conv"``, a 1 x 1 convolution,
        ``"avg"``, a mean of pixels before it, or None, by no shortcut at all.
      gate: as ``flaxzoo.layers.gates.as_gate`` takes it.
      anti_aliasing: ``"avg"``, ``"blur"``, ``"blur_zeros"`` or None, in place of strides.
      last_activation: whether an activation follows the sum.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      zero_init_residual: whether the branch begins as zero where there is a shortcut.
      drop_path: the rate at which the branch is dropped for a whole example.
    """

    features: int
    stride: int = 1
    dilation: int = 1
    first_dilation: int = 1
    group_size: int = 0
    ratio: float = 1.0
    expand_inputs: bool = False
    extra_conv: bool = False
    shortcut: str | None = "conv"
    gate: Any = None
    anti_aliasing: str | None = None
    last_activation: bool = True
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    zero_init_residual: bool = True
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        inputs = x.shape[-1] if self.expand_inputs else self.features
        y = self.branch(x, divisible(inputs * self.ratio), train)
        y = DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)
        if self.has_shortcut(x):
            y = y + self.shape_as(y, x, train)
        return as_activation(self.activation)(y) if self.last_activation else y

    def branch(self, x: jax.Array, middle: int, train: bool) -> jax.Array:
        """Computes the convolutions, of so many channels inside."""
        raise NotImplementedError(f"{type(self).__name__} must define branch()")

    def layer(
        self, x: jax.Array, features: int, size: int, name: str, train: bool, **options: Any
    ) -> jax.Array:
        """Computes a convolution, its norm and its activation, which may be anti-aliased."""
        stride, low_pass = options.pop("stride", 1), self.anti_aliasing
        groups = self.groups_of(features) if options.pop("grouped", False) else 1
        low_pass = low_pass if stride > 1 else None
        own: dict[str, Any] = {"activation": self.activation, "norm": self.norm}
        own |= {**self.dtypes, "groups": groups}
        own |= {"kernel_init": HeNormal(groups=groups), "stride": 1 if low_pass else stride}
        x = ConvNorm(features, size, name=name, **{**own, **options})(x, train)
        return anti_alias(x, low_pass, stride) if low_pass else x

    def last(self, x: jax.Array, size: int, name: str, train: bool, **options: Any) -> jax.Array:
        """Computes the last convolution, which has no activation."""
        return self.layer(x, self.features, size, name, train, activation=None, **options)

    def gated(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Computes the gate."""
        gate = as_gate(self.gate)
        if gate is None:
            return x
        return call_module(gate(name=name, **self.dtypes), x, train=train)

    @nn.nowrap
    def groups_of(self, channels: int) -> int:
        """The number of groups of a convolution of so many channels."""
        if not self.group_size:
            return 1
        if channels % self.group_size:
            raise ShapeError(f"{channels} channels are no groups of {self.group_size}")
        return channels // self.group_size

    @nn.nowrap
    def changes(self, x: jax.Array) -> bool:
        """Whether the output has another shape than the input, or pixels of other places."""
        keeps = self.stride == 1 and self.first_dilation == self.dilation
        return not keeps or x.shape[-1] != self.features

    @nn.nowrap
    def has_shortcut(self, x: jax.Array) -> bool:
        """Whether the input is added."""
        return self.shortcut is not None or not self.changes(x)

    @nn.nowrap
    def last_init(self, x: jax.Array) -> Any:
        """How the scale of the branch's last norm begins."""
        return zeros if self.zero_init_residual and self.has_shortcut(x) else ones

    def shape_as(self, y: jax.Array, x: jax.Array, train: bool) -> jax.Array:
        """The input, in the shape of the branch."""
        if not self.changes(x):
            return x
        if self.shortcut == "conv":
            options: dict[str, Any] = {"stride": self.stride, "activation": None}
            conv: dict[str, Any] = {"norm": self.norm, "kernel_init": HeNormal()}
            conv |= {**self.dtypes, "name": "shortcut"}
            if not self.anti_aliasing or self.stride == 1:
                return ConvNorm(self.features, 1, **options, **conv)(x, train)
            return self.layer(x, self.features, 1, "shortcut", train, **options)
        if self.stride > 1 or self.first_dilation > 1:
            x = shortcut_pool(x, self.stride if self.first_dilation == 1 else 1)
        if x.shape[1:3] != y.shape[1:3]:
            # JAX would broadcast a map of 1 x 1.
            raise ShapeError(
                f"block {self.name!r} cannot add maps of {list(y.shape)} and {list(x.shape)}: with "
                f"anti_aliasing={self.anti_aliasing!r} and shortcut='avg' the height and width of "
                "what it gets must be even"
            )
        return self.layer(x, self.features, 1, "shortcut_conv", train, activation=None)


class BasicBlock(ByobBlock, kw_only=True):
    """Two 3 x 3 convolutions, ``conv1_kxk`` and ``conv2_kxk``, and a gate."""

    def branch(self, x: jax.Array, middle: int, train: bool) -> jax.Array:
        """Computes the convolutions, of so many channels inside."""
        options: dict[str, Any] = {"stride": self.stride, "dilation": self.first_dilation}
        y = self.layer(x, middle, 3, "conv1_kxk", train, **options)
        groups = self.groups_of(middle)
        options |= {"dilation": self.dilation, "groups": groups, "stride": 1}
        options |= {"kernel_init": HeNormal(groups=groups)}
        y = self.last(y, 3, "conv2_kxk", train, scale_init=self.last_init(x), **options)
        return self.gated(y, "attn_last", train)


class Bottleneck(ByobBlock, kw_only=True):
    """Convolutions ``conv1_1x1``, ``conv2_kxk`` and ``conv3_1x1``, and a gate before the last."""

    def branch(self, x: jax.Array, middle: int, train: bool) -> jax.Array:
        """Computes the convolutions, of so many channels inside."""
        options = {"stride": self.stride, "dilation": self.first_dilation, "grouped": True}
        y = self.layer(x, middle, 1, "conv1_1x1", train)
        y = self.layer(y, middle, 3, "conv2_kxk", train, **options)
        if self.extra_conv:
            options = {"dilation": self.dilation, "grouped": True}
            y = self.layer(y, middle, 3, "conv2b_kxk", train, **options)
        y = self.gated(y, "attn", train)
        return self.last(y, 1, "conv3_1x1", train, scale_init=self.last_init(x))


class DarkBlock(ByobBlock, kw_only=True):
    """Convolutions ``conv1_1x1`` and ``conv2_kxk``, and a gate, as DarkNet's."""

    def branch(self, x: jax.Array, middle: int, train: bool) -> jax.Array:
        """Computes the convolutions, of so many channels inside."""
        options: dict[str, Any] = {"stride": self.stride, "dilation": self.first_dilation}
        options |= {"groups": self.groups_of(middle), "scale_init": self.last_init(x)}
        options |= {"kernel_init": HeNormal(groups=options["groups"])}
        y = self.layer(x, middle, 1, "conv1_1x1", train)
        return self.gated(self.last(y, 3, "conv2_kxk", train, **options), "attn_last", train)


class EdgeBlock(ByobBlock, kw_only=True):
    """Convolutions ``conv1_kxk`` and ``conv2_1x1``, and a gate between them."""

    def branch(self, x: jax.Array, middle: int, train: bool) -> jax.Array:
        """Computes the convolutions, of so many channels inside."""
        options = {"stride": self.stride, "dilation": self.first_dilation, "grouped": True}
        y = self.gated(self.layer(x, middle, 3, "conv1_kxk", train, **options), "attn", train)
        return self.last(y, 1, "conv2_1x1", train, scale_init=self.last_init(x))


class RepVggBlock(MobileOneBlock):
    """The sum of a 3 x 3 convolution, one of 1 x 1 and the input, each behind a BatchNorm.

    Ding et al. 2021 (RepVGG), https://arxiv.org/abs/2101.03697. Parameters are named as timm's:
    ``conv_kxk``, ``conv_1x1``, ``identity`` and ``attn``; in the form of inference ``reparam_conv``
    and ``attn``.

    Attributes:
      groups: of all convolutions.
      dilation: of the 3 x 3 convolution.
      keeps_dilation: whether the stage before has the same, without which the input is no branch.
    """

    names: ClassVar[tuple[str, str]] = ("conv_1x1", "conv_kxk")

    groups: int = 1
    dilation: int = 1
    keeps_dilation: bool = True

    @nn.nowrap
    def keeps(self, x: jax.Array) -> bool:
        """Whether maps ``[B, H, W, C]`` keep their shape, and are a branch."""
        return self.keeps_dilation and super().keeps(x)

    @nn.nowrap
    def groups_of(self, channels: int) -> int:
        """The groups of convolutions."""
        return self.groups

    @nn.nowrap
    def options(self, channels: int) -> dict[str, Any]:
        """The options of all convolutions."""
        return {**super().options(channels), "dilation": self.dilation}


_RESIDUAL_BLOCKS: dict[str, type[ByobBlock]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "dark": DarkBlock,
    "edge": EdgeBlock,
}
_BRANCHED = ("rep", "one")
# RepVGG's norms begin at random.
_REP_NORM = functools.partial(BatchNorm, bias_init=Normal(0.1))
_REP_SCALE = Normal(0.1, 0.1)


class ByobNet(Backbone):
    """A network of given blocks without its classifier: a stem, stages and perhaps a last layer.

    It maps images ``[B, H, W, C]`` of any size to the last map, ``[B, H / 32, W / 32, C']`` by
    default, rounded up.

    Attributes:
      kinds: the blocks of each stage: ``"basic"``, ``"bottleneck"``, ``"dark"``, ``"edge"``,
        ``"rep"`` (RepVGG) or ``"one"`` (MobileOne: depthwise and 1 x 1 convolutions by turns).
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      strides: of each stage's first block.
      group_sizes: channels of a group of each stage; 1 for depthwise convolutions, 0 for no groups.
      ratios: the channels inside the blocks of each stage, as a multiple of the output's.
      expand_inputs: whether it is a multiple of the input's (``regnetz``).
      extra_conv: whether bottlenecks have a second 3 x 3 convolution.
      alternate_groups: the groups of every second block of kind ``"rep"`` (RepVGG's ``g4``).
      branches: the convolutions side by side in blocks of kind ``"one"``.
      stem: ``"conv"`` for convolutions, ``"rep"`` or ``"one"`` for a block of that kind.
      stem_widths: the channels of each of the stem's convolutions. Without a pooling the first and
        the last of several have stride 2.
      stem_plain: how many of the first of these have no norm and no activation.
      stem_pool: ``"max"`` of 3 x 3 pixels, ``"avg"`` of 2 x 2, or None.
      shortcut: how a block's input gets the shape of its output: ``"conv"``, ``"avg"``, which
        averages before it projects, or None for no shortcut there.
      anti_aliasing: ``"avg"``, ``"blur"``, ``"blur_zeros"`` or None: low-pass before pixels are
        dropped (``flaxzoo.layers.pool.anti_alias``).
      gate: ``"se"``, ``"eca"``, ``"gc"``, a Linen module or None, in each block.
      gated: how many of each stage's last blocks have it; None for all, and the stem.
      last_activation: whether an activation follows each block's sum.
      final_width: the channels of a last layer; None for none.
      head_width: the units of a layer between the pooling, a norm and the classifier; None for
        neither.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      zero_init_residual: whether branches begin as zero where there is a shortcut.
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later stages
        are dilated instead of strided, so that pretrained weights fit all three. Blocks of kind
        ``"one"`` are not strided then, and not dilated either, as timm's.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
      fused: whether the branches of blocks of kinds ``"rep"`` and ``"one"`` are one convolution,
        the form of inference (``flaxzoo.Model.reparameterize``).
      stem_kernel_size: of each of the stem's convolutions.
    """

    kinds: Sequence[str] = ("bottleneck",) * 4
    layers: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    strides: Sequence[int] = (1, 2, 2, 2)
    group_sizes: Sequence[int] = (0, 0, 0, 0)
    ratios: Sequence[float] = (0.25, 0.25, 0.25, 0.25)
    expand_inputs: bool = False
    extra_conv: bool = False
    alternate_groups: int = 1
    branches: int = 1
    stem: str = "conv"
    stem_widths: Sequence[int] = (24, 32, 64)
    stem_plain: int = 0
    stem_pool: str | None = None
    shortcut: str | None = "conv"
    anti_aliasing: str | None = None
    gate: Any = None
    gated: Sequence[int] | None = None
    last_activation: bool = True
    final_width: int | None = None
    head_width: int | None = None
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    zero_init_residual: bool = True
    output_stride: int = 32
    drop_path: float = 0.0
    remat: bool | str = False
    fused: bool = False
    stem_kernel_size: int = 3

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_0`` and so on, and the last layer."""
        yield from self._stem_parts()
        several = self.stem == "conv" and (len(self.stem_widths) > 1 or bool(self.stem_pool))
        reduction, dilation, channels = 4 if several else 2, 1, self.stem_widths[-1]
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for i, (kind, count, stride) in enumerate(
            zip(self.kinds, self.layers, self.strides, strict=True)
        ):
            if reduction >= self.output_stride and stride > 1:
                dilation, stride = dilation * stride, 1
            reduction *= stride
            first = 1 if dilation <= 2 else 2
            # timm's maps are those before pixels are dropped, and the last one.
            ends = self.strides[i + 1] > 1 if i + 1 < len(self.layers) else not self.final_width
            for j in range(count):
                place = {"stride": 1 if j else stride, "drop_path": next(rates)}
                dilations = (dilation if j else first, dilation)
                before = reduction if j else reduction // stride
                block = self._block(kind, i, j, channels, dilations, place, before)
                name, complete = f"stages_{i}_{j}", ends and j == count - 1
                options: dict[str, Any] = {"map": f"stages_{i}" if complete else None}
                yield Part(name, block, reduction=reduction, remat=self.remat, **options)
                # The depthwise convolutions of MobileOne keep the channels.
                channels = channels if kind == "one" and j % 2 == 0 else self.widths[i]
        if self.final_width:
            own = {name: getattr(self, name) for name in _COMMON}
            last = functools.partial(ConvNorm, self.final_width, kernel_init=HeNormal(), **own)
            options = {"map": "final_conv", "reduction": reduction}
            yield Part("final_conv", last, depth=name, **options)

    @nn.nowrap
    def _block(
        self,
        kind: str,
        stage: int,
        number: int,
        channels: int,
        dilations: tuple[int, int],
        place: dict[str, Any],
        reduction: int,
    ) -> Callable[..., nn.Module]:
        """A block by its place in the network; ``reduction`` is that of the maps it gets."""
        del reduction
        counts = self.gated
        gated = counts is None or number >= self.layers[stage] - counts[stage]
        own = {name: getattr(self, name) for name in _COMMON}
        own |= {"features": self.widths[stage], "gate": self.gate if gated else None, **place}
        if kind in _RESIDUAL_BLOCKS:
            own |= {name: getattr(self, name) for name in _RESIDUAL}
            own |= {"ratio": self.ratios[stage], "group_size": self.group_sizes[stage]}
            own |= {"first_dilation": dilations[0], "dilation": dilations[1]}
            return functools.partial(_RESIDUAL_BLOCKS[kind], **own)
        own |= {"fused": self.fused}
        if kind == "rep":
            groups = self.alternate_groups if number % 2 else 1
            own |= {"groups": groups, "dilation": dilations[0]}
            own |= {"keeps_dilation": dilations[0] == dilations[1]}
            return functools.partial(RepVggBlock, **{**own, **self._rep_options(groups)})
        depthwise = number % 2 == 0
        if depthwise:
            own |= {"features": channels, "depthwise": True}
        own |= {"kernel_size": 3 if depthwise else 1, "branches": self.branches}
        init = HeNormal(groups=channels if depthwise else 1)
        return functools.partial(MobileOneBlock, kernel_init=init, **own)

    @nn.nowrap
    def _rep_options(self, groups: int = 1) -> dict[str, Any]:
        """How RepVGG's blocks begin."""
        options: dict[str, Any] = {"scale_init": _REP_SCALE, "kernel_init": HeNormal(groups=groups)}
        return {**options, "norm": _REP_NORM} if self.norm == "batch" else options

    @nn.nowrap
    def _stem_parts(self) -> Iterator[Part]:
        """The stem, whose map is the one before the last pixels are dropped."""
        names = self._stem_names()
        if names == ("stem",):
            # timm names no map that the first stage keeps the size of.
            options: dict[str, Any] = {"map": "stem", "reduction": 2}
            options = options if self.strides[0] > 1 else {}
            yield Part("stem", self._stem, names, takes="images", **options)
            return
        count = len(names) if self.stem_pool else len(names) - 1
        first = functools.partial(self._stem_convs, range(count))
        yield Part("stem", first, names[:count], takes="images", map="stem", reduction=2)
        if self.stem_pool:
            yield Part("stem", self._pool, ())
        else:
            last = functools.partial(self._stem_convs, range(count, len(names)))
            yield Part("stem", last, names[count:])

    @nn.nowrap
    def _stem_names(self) -> tuple[str, ...]:
        if self.stem != "conv" or (len(self.stem_widths) == 1 and not self.stem_pool):
            return ("stem",)
        return tuple(f"stem_conv{i + 1}" for i in range(len(self.stem_widths)))

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        own = {name: getattr(self, name) for name in _COMMON}
        options: dict[str, Any] = {"stride": 2, "kernel_init": HeNormal(), "name": "stem", **own}
        if self.stem == "conv":
            return ConvNorm(self.stem_widths[0], self.stem_kernel_size, **options)(x, train)
        gate = self.gate if self.gated is None else None
        options |= {"gate": gate, "fused": self.fused}
        if self.stem == "rep":
            options |= self._rep_options()
        kind = RepVggBlock if self.stem == "rep" else MobileOneBlock
        return kind(self.stem_widths[0], **options)(x, train)

    def _stem_convs(self, numbers: range, x: jax.Array, train: bool) -> jax.Array:
        own = {name: getattr(self, name) for name in _COMMON}
        last = len(self.stem_widths) - 1
        for i in numbers:
            strided = i == 0 or (i == last and not self.stem_pool)
            name, kernel_size = f"stem_conv{i + 1}", self.stem_kernel_size
            size = (self.stem_widths[i], kernel_size, 2 if strided else 1)
            if i < self.stem_plain:
                x = Conv(*size, name=name, **self.dtypes)(x)
            else:
                x = ConvNorm(*size, kernel_init=HeNormal(), name=name, **own)(x, train)
        return x

    def _pool(self, x: jax.Array, _train: bool) -> jax.Array:
        return max_pool(x) if self.stem_pool == "max" else avg_pool(x, 2, 2)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map; a layer may stand before the classifier."""
        options = {**super().head_options(), "kernel_init": Normal(0.01)}
        if self.head_width is None:
            return options
        hidden = {"hidden": (self.head_width,), "activation": self.activation, "norm": self.norm}
        return {**options, **hidden}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        names = ("kinds", "layers", "widths", "strides", "group_sizes", "ratios")
        lists = {name: tuple(getattr(self, name)) for name in names}
        if self.gated is not None:
            lists["gated"] = tuple(self.gated)
        check_lengths(**lists)
        for name in ("layers", "widths", "strides"):
            check_widths(name, lists[name])
        for kind in self.kinds:
            check_choice("kinds", kind, (*_RESIDUAL_BLOCKS, *_BRANCHED))
        for i, size in enumerate((*self.group_sizes, *(self.gated or ()))):
            check_size("group_sizes" if i < len(self.layers) else "gated", size, minimum=0)
        for ratio in self.ratios:
            check_number("ratios", ratio, above=0)
        for name in ("alternate_groups", "branches"):
            check_size(name, getattr(self, name))
        for name in ("final_width", "head_width"):
            check_size(name, getattr(self, name), optional=True)
        check_size("stem_plain", self.stem_plain, minimum=0)
        check_size("stem_kernel_size", self.stem_kernel_size)
        check_widths("stem_widths", self.stem_widths)
        check_choice("stem", self.stem, ("conv", *_BRANCHED))
        if self.stem != "conv" and (len(self.stem_widths) > 1 or self.stem_pool):
            raise ArgumentError(
                f"stem={self.stem!r} is one block: it takes one of stem_widths and no stem_pool"
            )
        as_choice("stem_pool", self.stem_pool, ("max", "avg"))
        as_choice("shortcut", self.shortcut, _SHORTCUTS)
        as_choice("anti_aliasing", self.anti_aliasing, _ANTI_ALIASING)
        if self.fused and not {self.stem, *self.kinds} & set(_BRANCHED):
            raise ArgumentError("fused=True takes blocks of kind 'rep' or 'one', there are none")
        as_gate(self.gate)


class SizedByobNet(ByobNet):
    """A network that is made for images of one size, such as one of bilinear attention.

    Attributes:
      input_shape: ``[H, W, C]`` of an image.
    """

    input_shape: Sequence[int] = (224, 224, 3)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        check_widths("input_shape", self.input_shape)


class ClipResNet(SizedByobNet):
    """A ResNet of CLIP without its pooling, which is by attention and part of the head.

    The pooling's positions are for images of ``input_shape``; those of others are resampled.

    Attributes:
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
    """

    implementation: str = "einsum"

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The attention, and the map that its positions are for."""
        grid = self.grid((self.input_shape[0], self.input_shape[1]))
        attention = (("grid", grid), ("implementation", self.implementation))
        return {"pooling": "attention2d", "attention": attention}

    @nn.nowrap
    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """The height and width of the last map for images of this size."""
        reduction = list(self.reductions().values())[-1] or 1
        return size[0] // reduction, size[1] // reduction

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        if not min(self.grid((self.input_shape[0], self.input_shape[1]))):
            raise ShapeError(
                f"attention pooling needs a last map of at least 1 x 1 pixels: images of "
                f"{tuple(self.input_shape[:2])} are too small"
            )


def resized(
    positions: Any,
    _shape: tuple[int, ...],
    backbone: ClipResNet,
    old: tuple[int, int] | None,
    new: tuple[int, int],
) -> Any:
    """Positions of the pooling for images of another size."""
    before = None if old is None else backbone.grid(old)
    return resample_positions(positions[None], backbone.grid(new), prefix=1, old_grid=before)[0]


_BLOCK = {"1": "conv1_1x1", "2": "conv2_kxk", "3": "conv3_1x1"}


def convert(tensors: Mapping[str, Any], _backbone: Any) -> Mapping[str, Any]:
    """The names of timm for the tensors of OpenAI's files, of which the image tower is taken."""
    if "visual.conv1.weight" not in tensors:
        return tensors

    def block(match: re.Match[str]) -> str:
        stage, number, kind, place = match.groups()
        return f"stages.{int(stage) - 1}.{number}.{_BLOCK[place]}.{'conv' if kind else 'bn'}"

    def shortcut(match: re.Match[str]) -> str:
        stage, number, place = match.groups()
        kind = "conv" if place == "0" else "bn"
        return f"stages.{int(stage) - 1}.{number}.shortcut.conv.{kind}"

    renamed: dict[str, Any] = {}
    for name, value in tensors.items():
        if not name.startswith("visual."):
            continue
        name = re.sub(r"^(conv|bn)(\d)", r"stem.conv\2.\1", name.removeprefix("visual."))
        name = re.sub(r"^layer(\d)\.(\d+)\.(?:(conv)|bn)(\d)", block, name)
        name = re.sub(r"^layer(\d)\.(\d+)\.downsample\.(\d)", shortcut, name)
        name = name.replace("attnpool.positional_embedding", "head.pos_embed")
        name = re.sub(r"^attnpool\.(q|k|v)_proj", r"head.\1", name)
        renamed[name.replace("attnpool.c_proj", "head.proj")] = np.asarray(value)
    return renamed


def convert_gap(tensors: Mapping[str, Any], backbone: Any) -> Mapping[str, Any]:
    """The same without the pooling by attention."""
    if "visual.conv1.weight" not in tensors:
        return tensors
    renamed = convert(tensors, backbone)
    return {name: value for name, value in renamed.items() if not name.startswith("head.")}


# Also the names of a gate's modules that a list joins.
_RENAMED = (
    (r"stem_(conv\d)", r"stem.\1"),
    ("shortcut_conv", "shortcut.conv"),
    (r"ba_(conv\w+)", r"ba.\1"),
)
_STEM = (
    *("stem/conv", "stem_conv1/conv", "stem_conv1", "stem/reparam_conv"),
    *("stem/conv_kxk/conv", "stem/conv_1x1/conv", "stem/conv_kxk_0/conv", "stem/conv_scale/conv"),
)
REFERENCE = Reference(
    stem=_STEM,
    classifier="head.fc",
    head=(("norm", "head.norm"), ("dense_0", "head.pre_logits.fc")),
    renamed=_RENAMED,
    fused=("*.reparam_conv.weight",),
    gain=1.5,
    convert=convert_gap,
)
CLIP = Reference(
    stem=_STEM,
    classifier="head.proj",
    head=(("attn_pool", "head"),),
    renamed=_RENAMED,
    resized=(("params/head/attn_pool/pos_embed", resized),),
    gain=1.5,
    convert=convert,
    former_classifiers=("visual.attnpool.c_proj",),
    # Large queries and keys of thousands of channels look at one pixel, and rounding decides which.
    scales=(("head.[qk].weight", 0.1),),
)

# One object each: partials of equal arguments are different keys to jit.
_SE_QUARTER = functools.partial(SqueezeExcite, ratio=0.25)
_SE_FINE = functools.partial(SqueezeExcite, rounding=1)
_ECA = functools.partial(EfficientChannelAttention, kernel_init=FanIn())
_GCA = functools.partial(GlobalContext, adds=True, hidden_init=HeNormal())
_EVO = functools.partial(EvoNormS0, group_size=16, epsilon=1e-3, divides=True)


def _ge(layers: Sequence[int], widths: Sequence[int], stem: int, final: int) -> dict[str, Any]:
    """The fields of a GERNet."""
    kinds = ("basic", "basic", *("bottleneck",) * 3)
    sizes = {"group_sizes": (0, 0, 0, 1, 1), "ratios": (1.0, 1.0, 0.25, 3.0, 3.0)}
    places = {"kinds": kinds, "layers": layers, "widths": widths, "strides": (2, 2, 2, 2, 1)}
    return {**places, **sizes, "stem_widths": (stem,), "final_width": final}


def _rep(
    name: str, layers: Sequence[int], widths: Sequence[int], groups: int = 1, **more: Any
) -> Row:
    """A row of RepVGG."""
    sizes = {"group_sizes": (0,) * 4, "ratios": (1.0,) * 4, "strides": (2,) * 4}
    stem = {"stem": "rep", "stem_widths": (min(64, widths[0]),), "alternate_groups": groups}
    fields = {"kinds": ("rep",) * 4, "layers": layers, "widths": widths, **sizes, **stem, **more}
    return row(f"RepVGG-{name}", **fields)


def _one(name: str, widths: Sequence[int], stem: int = 64, **more: Any) -> Row:
    """A row of MobileOne."""
    sizes = {"group_sizes": (0,) * 4, "ratios": (1.0,) * 4, "strides": (2,) * 4}
    fields = {"kinds": ("one",) * 4, "layers": (4, 16, 20, 2), "widths": widths, **sizes, **more}
    return row(f"MobileOne-{name}", stem="one", stem_widths=(stem,), **fields)


def _bottlenecks(
    layers: Sequence[int],
    widths: Sequence[int],
    groups: int | Sequence[int] = 0,
    ratio: float = 0.25,
    **more: Any,
) -> dict[str, Any]:
    """The fields of a network of four stages of bottlenecks."""
    sizes = (groups,) * 4 if isinstance(groups, int) else groups
    fields = {"kinds": ("bottleneck",) * 4, "layers": layers, "widths": widths}
    return {**fields, "group_sizes": sizes, "ratios": (ratio,) * 4, **more}


_Q = {
    **_bottlenecks((2, 4, 6, 4), (256, 512, 1536, 1536), (32, 32, 32, 1)),
    "ratios": (0.25, 0.25, 0.25, 1.0),
    "stem_widths": (16, 32, 64, 128),
    "final_width": 2048,
    "activation": "silu",
}
_TS: dict[str, Any] = {"activation": "silu", "stem_widths": (24, 32, 64)}
_26 = _bottlenecks((2, 2, 2, 2), (256, 512, 1024, 2048), 32, stem_pool="max", **_TS)
_32 = _bottlenecks((2, 3, 3, 2), (256, 512, 1536, 1536), **_TS)
_33 = {**_32, "final_width": 1280}
_WIDTHS = (256, 512, 1024, 2048)
_MOBILE: dict[str, Any] = {
    "shortcut": None,
    "gate": _SE_QUARTER,
    "activation": "silu",
    "expand_inputs": True,
    "last_activation": False,
}


def _z(
    layers: Sequence[int], widths: Sequence[int], groups: int, ratio: float, final: int, **more: Any
) -> dict[str, Any]:
    """The fields of a RegNetZ."""
    return _bottlenecks(layers, widths, groups, ratio, final_width=final, **{**_MOBILE, **more})


_Z_STEM: dict[str, Any] = {"stem_widths": (32,), "strides": (2, 2, 2, 2)}
_Z_B = _z((2, 6, 12, 2), (48, 96, 192, 288), 16, 3.0, 1536, **_Z_STEM)
_Z_C = _z((2, 6, 12, 2), (48, 96, 192, 288), 16, 4.0, 1536, **_Z_STEM)
_Z_D = functools.partial(_z, (3, 6, 12, 3), (64, 128, 256, 384), ratio=4.0, final=1792)
_CLIP_STEM: dict[str, Any] = {"stem_pool": "avg", "shortcut": "avg", "anti_aliasing": "avg"}


def _clip(layers: Sequence[int], factor: float = 1.0) -> dict[str, Any]:
    """The fields of a CLIP's ResNet."""
    widths, stem = (tuple(int(n * factor) for n in own) for own in (_WIDTHS, (32, 32, 64)))
    return _bottlenecks(layers, widths, stem_widths=stem, **_CLIP_STEM)


_CLIPS = {
    "resnet50_clip": ("ResNet-50", (3, 4, 6, 3), 1.0, 224),
    "resnet101_clip": ("ResNet-101", (3, 4, 23, 3), 1.0, 224),
    "resnet50x4_clip": ("ResNet-50x4", (4, 6, 10, 6), 1.25, 288),
    "resnet50x16_clip": ("ResNet-50x16", (6, 8, 18, 8), 1.5, 384),
    "resnet50x64_clip": ("ResNet-50x64", (3, 15, 36, 10), 2.0, 448),
}


def _tower(name: str, *, gap: bool = False) -> Row:
    """A row of a CLIP's image tower."""
    title, layers, factor, size = _CLIPS[name]
    kind = "CLIP's image tower with a mean" if gap else "CLIP's image tower"
    shape = (size, size, 3)
    return row(f"{title}, {kind}", input_shape=shape, **_clip(layers, factor))


_add = functools.partial(variants, ByobNet, reference=REFERENCE)
_add(
    {
        "repvgg_a0": _rep("A0", (2, 4, 14, 1), (48, 96, 192, 1280)),
        "repvgg_a1": _rep("A1", (2, 4, 14, 1), (64, 128, 256, 1280)),
        "repvgg_a2": _rep("A2", (2, 4, 14, 1), (96, 192, 384, 1408)),
        "repvgg_b0": _rep("B0", (4, 6, 16, 1), (64, 128, 256, 1280)),
        "repvgg_b1": _rep("B1", (4, 6, 16, 1), (128, 256, 512, 2048)),
        "repvgg_b1g4": _rep("B1g4", (4, 6, 16, 1), (128, 256, 512, 2048), 4),
        "repvgg_b2": _rep("B2", (4, 6, 16, 1), (160, 320, 640, 2560)),
        "repvgg_b2g4": _rep("B2g4", (4, 6, 16, 1), (160, 320, 640, 2560), 4),
        "repvgg_b3": _rep("B3", (4, 6, 16, 1), (192, 384, 768, 2560)),
        "repvgg_b3g4": _rep("B3g4", (4, 6, 16, 1), (192, 384, 768, 2560), 4),
        "repvgg_d2se": _rep("D2se", (8, 14, 24, 1), (160, 320, 640, 2560), gate=_SE_FINE),
    },
    paper="https://arxiv.org/abs/2101.03697",
)
_add(
    {
        "mobileone_s0": _one("S0", (48, 128, 256, 1024), 48, branches=4),
        "mobileone_s1": _one("S1", (96, 192, 512, 1280)),
        "mobileone_s2": _one("S2", (96, 256, 640, 2048)),
        "mobileone_s3": _one("S3", (128, 320, 768, 2048)),
        "mobileone_s4": _one("S4", (192, 448, 896, 2048), gate="se", gated=(0, 0, 10, 2)),
    },
    paper="https://arxiv.org/abs/2206.04040",
    # With larger kernels the gates of S4 take rounding from block to block.
    reference=dataclasses.replace(REFERENCE, gain=1.0),
)
_add(
    {
        "gernet_l": row("GERNet-L", **_ge((1, 2, 6, 5, 4), (128, 192, 640, 640, 640), 32, 2560)),
        "gernet_m": row("GERNet-M", **_ge((1, 2, 6, 4, 1), (128, 192, 640, 640, 640), 32, 2560)),
        "gernet_s": row("GERNet-S", **_ge((1, 3, 7, 2, 1), (48, 48, 384, 560, 256), 13, 1920)),
    },
    paper="https://arxiv.org/abs/2006.14090",
)
_add(
    {
        "resnet51q": row("ResNet-51-Q", stem_plain=2, **_Q),
        "resnet61q": row(
            "ResNet-61-Q",
            **{
                **_Q,
                "kinds": ("edge", *("bottleneck",) * 3),
                "layers": (1, 4, 6, 4),
                "group_sizes": (0, 32, 32, 1),
                "ratios": (1.0, 0.25, 0.25, 1.0),
                "extra_conv": True,
            },
        ),
        "resnext26ts": row("ResNeXt-26-TS", **_26),
        "gcresnext26ts": row("ResNeXt-26-TS with global context", gate=_GCA, **_26),
        "seresnext26ts": row("SE-ResNeXt-26-TS", gate="se", **_26),
        "eca_resnext26ts": row("ECA-ResNeXt-26-TS", gate=_ECA, **_26),
        "resnet32ts": row("ResNet-32-TS", **_32),
        "resnet33ts": row("ResNet-33-TS", **_33),
        "gcresnet33ts": row("ResNet-33-TS with global context", gate=_GCA, **_33),
        "seresnet33ts": row("SE-ResNet-33-TS", gate="se", **_33),
        "eca_resnet33ts": row("ECA-ResNet-33-TS", gate=_ECA, **_33),
        "gcresnet50t": row(
            "ResNet-50-T with global context", gate=_GCA, **_bottlenecks((3, 4, 6, 3), _WIDTHS)
        ),
        "gcresnext50ts": row(
            "ResNeXt-50-TS with global context",
            gate=_GCA,
            **_bottlenecks((3, 4, 6, 3), _WIDTHS, 32, stem_pool="max", **_TS),
        ),
        "resnet50_mlp": row(
            "ResNet-50 of CLIP with a layer behind the mean", head_width=1024, **_clip((3, 4, 6, 3))
        ),
        "test_byobnet": row(
            "A tiny network of four kinds of block",
            kinds=("edge", "dark", "basic", "bottleneck"),
            layers=(1, 1, 1, 1),
            widths=(32, 64, 128, 256),
            strides=(2, 2, 2, 2),
            group_sizes=(0, 0, 32, 64),
            ratios=(0.5, 0.5, 0.25, 0.25),
            stem_widths=(24,),
            shortcut="avg",
            gate=_SE_QUARTER,
        ),
    },
    paper="https://arxiv.org/abs/1512.03385",
)
_add(
    {
        "regnetz_b16": row("RegNetZ-B16", **_Z_B),
        "regnetz_c16": row("RegNetZ-C16", **_Z_C),
        "regnetz_d32": row("RegNetZ-D32", **_Z_D(groups=32)),
        "regnetz_d8": row("RegNetZ-D8", **_Z_D(groups=8)),
        "regnetz_e8": row("RegNetZ-E8", **_z((3, 8, 16, 3), (96, 192, 384, 512), 8, 4.0, 2048)),
        "regnetz_b16_evos": row("RegNetZ-B16 with EvoNorm", norm=_EVO, **_Z_B),
        "regnetz_c16_evos": row("RegNetZ-C16 with EvoNorm", norm=_EVO, **_Z_C),
        "regnetz_d8_evos": row(
            "RegNetZ-D8 with EvoNorm", norm=_EVO, **_Z_D(groups=8, stem_widths=(64, 64, 64))
        ),
    },
    paper="https://arxiv.org/abs/2103.06877",
)
_add(
    {
        "resnet50_clip_gap": _tower("resnet50_clip", gap=True),
        "resnet101_clip_gap": _tower("resnet101_clip", gap=True),
        "resnet50x4_clip_gap": _tower("resnet50x4_clip", gap=True),
        "resnet50x16_clip_gap": _tower("resnet50x16_clip", gap=True),
        "resnet50x64_clip_gap": _tower("resnet50x64_clip", gap=True),
    },
    paper="https://arxiv.org/abs/2103.00020",
)
variants(
    SizedByobNet,
    {
        "bat_resnext26ts": row(
            "ResNeXt-26-TS with bilinear attention", gate=BilinearAttention, **_26
        ),
    },
    paper="https://arxiv.org/abs/2103.00768",
    reference=REFERENCE,
    input_shape=(256, 256, 3),
)
variants(
    ClipResNet,
    {
        "resnet50_clip": _tower("resnet50_clip"),
        "resnet101_clip": _tower("resnet101_clip"),
        "resnet50x4_clip": _tower("resnet50x4_clip"),
        "resnet50x16_clip": _tower("resnet50x16_clip"),
        "resnet50x64_clip": _tower("resnet50x64_clip"),
    },
    paper="https://arxiv.org/abs/2103.00020",
    reference=CLIP,
)
