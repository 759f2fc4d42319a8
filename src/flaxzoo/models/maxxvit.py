"""CoAtNet, MaxViT and MaxxViT: stages of convolutions and attention, in windows and in grids.

CoAtNet's first stages are convolutions and its last ones attention over the whole map. Each block
of a MaxViT has a convolution, attention within windows and attention within grids spread over the
map. Names and numbers are those of timm's ``maxxvit`` module.

References:
  CoAtNet: https://arxiv.org/abs/2106.04803
  MaxViT: https://arxiv.org/abs/2204.01697
  ConvNeXt, whose blocks are the convolutions of MaxxViT: https://arxiv.org/abs/2201.03545
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import (
    check_choice,
    check_kernel,
    check_lengths,
    check_number,
    check_size,
    check_widths,
)
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import Attention
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import SqueezeExcite, divisible
from flaxzoo.layers.initializers import (
    PLAIN,
    FanIn,
    GlorotUniform,
    HeNormal,
    Normal,
    ones,
    plain_bias,
    zeros,
)
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import LayerScale, as_norm, call_norm, make_norm
from flaxzoo.layers.pool import avg_pool, max_pool
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.relative_position import (
    NAME,
    RelativeMap,
    RelativeMlp,
    RelativeTable,
    resample_table,
    table_length,
)
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.layers.windows import join_grid, join_windows, split_grid, split_windows
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

BLOCKS = ("conv", "transformer", "max", "parallel")
CONVS = ("mbconv", "convnext")
POSITIONS = ("table", "map", "mlp")
# timm keeps what makes its networks in dataclasses, whose fields are keywords of the network.
CUT = {"layers": "depths"}
# What blocks get from the network as it is, under other names.
_CONV = {
    **{"norm": "conv_norm", "norm_epsilon": "conv_norm_epsilon", "activation": "conv_activation"},
    **{"pre_activation": "pre_activation", "expand_output": "expand_output"},
    **{"use_bias": "conv_bias", "stride_by": "stride_by", "pool": "pool", "padding": "padding"},
    **{"gate_early": "gate_early", "gate_activation": "gate_activation"},
    **{"gate_ratio": "gate_ratio", "layer_scale": "conv_layer_scale"},
    **{"dtype": "dtype", "param_dtype": "param_dtype"},
}
_ATTENTION = (
    *("mlp_ratio", "activation", "norm", "norm_epsilon", "layer_scale", "heads_first"),
    *("positions", "position_hidden", "position_dropout", "attention_dropout", "block_dropout"),
    *("implementation", "dtype", "param_dtype"),
)


def shrink(x: jax.Array, pool: str, padding: str | None = None) -> jax.Array:
    """Halves maps ``[B, H, W, C]``: ``"avg"`` of 2 x 2 pixels, or ``"max"`` of 3 x 3.

    With the padding ``"SAME"`` a border is that of TensorFlow, on one side only where the map is
    even, and an odd last row or column is averaged with zeros, else left out.
    """
    if pool == "max":
        return nn.max_pool(x, (3, 3), (2, 2), "SAME") if padding == "SAME" else max_pool(x)
    if padding == "SAME":
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    return avg_pool(x, 2, 2)


def added(x: jax.Array, y: jax.Array) -> jax.Array:
    """Adds two maps of one shape.

    Raises:
      ShapeError: they are of different shapes, which JAX might spread.
    """
    if x.shape != y.shape:
        raise ShapeError(
            f"maps of {list(y.shape)} can't be added to {list(x.shape)}: what a stage halves must "
            "be of even height and width; give images of multiples of 32"
        )
    return x + y


class Downsample(Layer):
    """Halves a map and gives it other channels, by a convolution ``expand`` where they differ.

    Attributes:
      features: the channels.
      pool: see ``shrink``.
      padding: likewise.
      use_bias: whether the convolution has a bias.
      kernel_init: the initialiser of its kernel.
      bias_init: that of its bias.
    """

    features: int
    pool: str = "avg"
    padding: str | None = None
    use_bias: bool = True
    kernel_init: Any = HeNormal()
    bias_init: Any = zeros

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``."""
        x = shrink(x, self.pool, self.padding)
        if x.shape[-1] == self.features:
            return x
        own = ("use_bias", "kernel_init", "bias_init", "dtype", "param_dtype")
        options = {name: getattr(self, name) for name in own}
        return Conv(self.features, 1, name="expand", **options)(x)


class ConvBlock(Layer):
    """What the blocks of convolutions share: their fields, norms, and sum.

    Attributes:
      features: the channels of the output.
      stride: 2 halves the map.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      activation: by name or callable.
      start: what the kernels begin with: ``"fan"`` for He's variance, ``"normal"`` for a deviation
        of 0.02, ``"torch"`` for PyTorch's own.
      drop_path: the rate at which the branch is dropped for a whole example.

    The other attributes are those of ``MaxxViT``.
    """

    features: int
    stride: int = 1
    norm: Any = "batch"
    norm_epsilon: float | None = None
    activation: Any = "gelu"
    pre_activation: bool = False
    expand_output: bool = True
    use_bias: bool = True
    stride_by: str = "conv"
    pool: str = "avg"
    padding: str | None = None
    gate_early: bool = False
    gate_activation: Any = "silu"
    gate_ratio: float = 0.25
    layer_scale: float | None = 1e-6
    start: str = "fan"
    drop_path: float = 0.0

    @nn.nowrap
    def kernel_init(self, groups: int = 1) -> Any:
        """Returns the initialiser of a kernel."""
        inits = {"fan": HeNormal(groups=groups), "normal": Normal(0.02), "torch": FanIn()}
        return inits[self.start]

    @property
    def bias_init(self) -> Any:
        """The initialiser of a bias."""
        return plain_bias if self.start == "torch" else zeros

    @nn.nowrap
    def conv(self, features: int, size: int, name: str, groups: int = 1, **options: Any) -> Conv:
        """Makes a convolution."""
        options = {"kernel_init": self.kernel_init(groups), **options, **self.dtypes}
        return Conv(features, size, groups=groups, name=name, **options)

    def normalise(self, x: jax.Array, name: str, train: bool, activate: bool = True) -> jax.Array:
        """Normalises, and activates what comes out."""
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        x = call_norm(norm, x, train=train)
        return as_activation(self.activation)(x) if activate else x

    def total(self, x: jax.Array, y: jax.Array, train: bool, **shortcut: Any) -> jax.Array:
        """Adds the branch to the input, which is halved as the branch is."""
        if self.stride > 1:
            inits = {"kernel_init": self.kernel_init(), "bias_init": self.bias_init}
            x = Downsample(self.features, name="shortcut", **shortcut, **inits, **self.dtypes)(x)
        return added(x, DropPath(self.drop_path, name="drop_path")(y, deterministic=not train))


class MBConv(ConvBlock):
    """A norm, then an inverted bottleneck with a gate, added to the input.

    Sandler et al. 2018 (MobileNetV2), https://arxiv.org/abs/1801.04381. Parameters are named as
    those of timm's ``MbConvBlock``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        hidden = divisible(4 * (self.features if self.expand_output else x.shape[-1]))
        y = self.normalise(x, "pre_norm", train, self.pre_activation)
        stride = self.stride
        if stride > 1 and self.stride_by == "pool":
            y, stride = shrink(y, "avg", self.padding), 1
        y = self.normalise(self.conv(hidden, 1, "conv1_1x1")(y), "norm1", train)
        options = {"stride": stride, "padding": self.padding}
        y = self.conv(hidden, 3, "conv2_kxk", groups=hidden, **options)(y)
        width = int(self.gate_ratio * (self.features if self.expand_output else hidden))
        gate = functools.partial(
            SqueezeExcite, width=width, activation=self.gate_activation, **self.dtypes
        )
        if self.gate_early:
            y = gate(name="se_early")(y)
        y = self.normalise(y, "norm2", train)
        if not self.gate_early:
            y = gate(name="se")(y)
        y = self.conv(self.features, 1, "conv3_1x1", use_bias=self.use_bias)(y)
        shortcut = {"pool": self.pool, "padding": self.padding, "use_bias": self.use_bias}
        return self.total(x, y, train, **shortcut)


class ConvNeXtBlock(ConvBlock):
    """A depthwise convolution of 7 x 7, a norm and two layers on each pixel, scaled and added.

    Parameters are named as those of timm's ``ConvNeXtBlock`` of the same module.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        y, stride, width = x, self.stride, x.shape[-1]
        if stride > 1 and self.stride_by == "pool":
            y, stride = shrink(y, "avg"), 1
        options = {"use_bias": self.use_bias, "stride": stride, "bias_init": self.bias_init}
        y = self.conv(self.features, 7, "conv_dw", groups=width, **options)(y)
        y = self.normalise(y, "norm", train, activate=False)
        fields = {
            **{"activation": self.activation, "use_bias": self.use_bias, **self.dtypes},
            **{"kernel_init": self.kernel_init(), "as_conv": True, "name": "mlp"},
            **{"bias_init": self.bias_init},
        }
        y = Mlp(4 * self.features, **fields)(y, train)
        if self.layer_scale is not None:
            y = LayerScale(self.layer_scale, name="ls", **self.dtypes)(y)
        return self.total(x, y, train)


class PositionedAttention(Attention):
    """An ``Attention`` whose relative positions are a module, ``rel_pos``.

    Attributes:
      window: the rows and columns of the tokens.
      positions: ``"table"``, ``"map"`` or ``"mlp"``; see ``MaxxViT``.
      position_hidden: the hidden units of the MLP.
      position_dropout: the rate at which these are dropped.
      position_bias_init: the initialiser of its biases.
      heads_first: whether ``qkv`` holds queries, keys and values of each head side by side.
      as_conv: whether the kernels are those of 1 x 1 convolutions.
    """

    window: Grid = (7, 7)
    positions: str = "table"
    position_hidden: int = 512
    position_dropout: float = 0.125
    position_bias_init: Any = zeros
    heads_first: bool = True
    as_conv: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, **options: Any) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to ``[B, N, features]``; N are those of the window.

        Raises:
          ShapeError: there are more or fewer tokens.
        """
        if x.ndim != 3 or x.shape[1] != math.prod(self.window):
            raise ShapeError(
                f"tokens must have shape [B, {math.prod(self.window)}, C] for relative positions "
                f"on a grid of {self.window[0]} x {self.window[1]}, got {list(x.shape)}"
            )
        fields: dict[str, Any] = {"name": "rel_pos", "param_dtype": self.param_dtype}
        if self.positions == "mlp":
            fields.update(hidden=self.position_hidden, dropout=self.position_dropout)
            fields.update(kernel_init=self.kernel_init, bias_init=self.position_bias_init)
            fields.update(dtype=self.dtype)
        kinds: dict[str, Any] = {"table": RelativeTable, "map": RelativeMap, "mlp": RelativeMlp}
        bias = kinds[self.positions](self.heads, **fields)(self.window, train=train)
        return super().__call__(x, train, **{**options, "mask": bias})

    def project(self, x: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns queries, keys and values ``[B, N, heads, head_dim]`` of the tokens."""
        if not self.heads_first:
            return super().project(x, head_dim)
        qkv = self.dense(3 * self.heads * head_dim, "qkv", self.qkv_bias)(x)
        q, k, v = jnp.split(qkv.reshape(*x.shape[:2], self.heads, 3 * head_dim), 3, axis=-1)
        return q, k, v

    @nn.nowrap
    def dense(self, features: int, name: str, use_bias: bool) -> Any:
        """Makes a layer on each token."""
        if not self.as_conv:
            return super().dense(features, name, use_bias)
        options = {"kernel_init": self.kernel_init, "dtype": self.dtype}
        options["param_dtype"] = self.param_dtype
        return Conv(features, 1, use_bias=use_bias, name=name, **options)


class MapBlock(TransformerBlock):
    """A block whose attention sees the whole map, which it may halve first.

    Parameters are named as those of timm's ``TransformerBlock2d``.

    Attributes:
      window: the rows and columns of what attends.
      stride: 2 halves the map.
      pool: how (``shrink``).
      shortcut_bias: whether the shortcut's convolution has a bias.
      as_conv: whether the kernels are those of 1 x 1 convolutions.
      normal_init: whether kernels begin with a deviation of 0.02 instead of Glorot's.

    The other attributes are those of ``PositionedAttention``.
    """

    window: Grid = (7, 7)
    head_dim: int | None = None
    features: int | None = None
    positions: str = "table"
    position_hidden: int = 512
    position_dropout: float = 0.125
    heads_first: bool = True
    as_conv: bool = False
    normal_init: bool = False
    stride: int = 1
    pool: str = "avg"
    shortcut_bias: bool = True

    @property
    def kernel_init(self) -> Any:
        """The initialiser of the kernels."""
        return Normal(0.02) if self.normal_init else GlorotUniform()

    @property
    def mlp_bias_init(self) -> Any:
        """The initialiser of the biases of MLPs, which begin close to zero."""
        return zeros if self.normal_init else Normal(1e-6)

    @property
    def attention_kind(self) -> type[Attention]:
        """The class of the attention."""
        return PositionedAttention

    @nn.nowrap
    def attention_options(self) -> dict[str, Any]:
        """Returns the fields of the attention beside those of all blocks."""
        own = (
            *("window", "head_dim", "features", "positions", "position_hidden"),
            *("position_dropout", "heads_first", "as_conv", "kernel_init"),
        )
        fields = {field: getattr(self, field) for field in own}
        return {**fields, "position_bias_init": self.mlp_bias_init}

    @nn.nowrap
    def mlp_options(self) -> dict[str, Any]:
        """Returns the fields of the MLP."""
        inits = {"kernel_init": self.kernel_init, "bias_init": self.mlp_bias_init}
        return {**inits, "as_conv": self.as_conv, "drop_outputs": not self.as_conv}

    @nn.compact
    def __call__(  # type: ignore[override]
        self, x: jax.Array, train: bool = False
    ) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        y = self.normalise(x, "norm1_norm" if self.stride > 1 else "norm1", train=train)
        if self.stride > 1:
            y = shrink(y, self.pool)
            options = {"use_bias": self.shortcut_bias, "kernel_init": self.kernel_init}
            width = x.shape[-1] if self.features is None else self.features
            x = Downsample(width, self.pool, name="shortcut", **options, **self.dtypes)(x)
        y = self.attention(y, "attn", train)
        x = added(x, self.branch(y, "ls1", "drop_path1", train))
        y = self.feed_forward(self.normalise(x, "norm2", train=train), "mlp", train)
        return x + self.branch(y, "ls2", "drop_path2", train)

    def normalise(
        self, x: jax.Array, name: str, scale_init: Any = ones, train: bool = False
    ) -> jax.Array:
        """Normalises the last axis; by the batch's statistics in training, if the norm does so."""
        options = {"scale_init": scale_init, **self.dtypes}
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **options)
        return call_norm(norm, x, train=train)

    def attention(self, x: jax.Array, name: str, train: bool, **options: Any) -> jax.Array:
        """Mixes the pixels ``[B, H, W, C]``."""
        batch, height, width, channels = x.shape
        y = self.attention_module(name)(x.reshape(batch, height * width, channels), train)
        return y.reshape(batch, height, width, -1)


class PartitionBlock(MapBlock):
    """A block whose attention sees a window, or a grid that is spread over the map.

    Parameters are named as those of timm's ``PartitionAttentionCl``.

    Attributes:
      spread: whether it is a grid.
    """

    spread: bool = False

    def attention(self, x: jax.Array, name: str, train: bool, **options: Any) -> jax.Array:
        """Mixes the pixels ``[B, H, W, C]``."""
        return self.within(x, name, self.spread, train)

    def within(self, x: jax.Array, name: str, spread: bool, train: bool) -> jax.Array:
        """Mixes the pixels of each window or grid."""
        split, join = (split_grid, join_grid) if spread else (split_windows, join_windows)
        windows = split(x, self.window)
        tokens = windows.reshape(len(windows), -1, windows.shape[-1])
        y = self.attention_module(name)(tokens, train)
        return join(y.reshape(*windows.shape[:3], -1), (x.shape[1], x.shape[2]))


class ParallelBlock(PartitionBlock):
    """A block with both side by side, each for half of the channels.

    Parameters are named as those of timm's ``ParallelPartitionAttention``.
    """

    def attention(self, x: jax.Array, name: str, train: bool, **options: Any) -> jax.Array:
        """Mixes the pixels ``[B, H, W, C]``."""
        halves = [
            self.within(x, f"{name}_{kind}", kind == "grid", train) for kind in ("block", "grid")
        ]
        return jnp.concatenate(halves, axis=-1)


class Stem(Layer):
    """Two convolutions of 3 x 3, the first of stride 2, a norm and an activation between them.

    Attributes:
      widths: the channels of both.
      norm: the kind of the norm, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      activation: by name or callable.
      padding: as ``flaxzoo.layers.conv.Conv`` takes it.
      use_bias: whether the convolutions have biases.
      normal_init: whether kernels begin with a deviation of 0.02 instead of He's.
    """

    widths: Sequence[int]
    norm: Any = "batch"
    norm_epsilon: float | None = None
    activation: Any = "gelu"
    padding: str | None = None
    use_bias: bool = False
    normal_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, widths[1]]``."""
        options = {"padding": self.padding, "use_bias": self.use_bias, **self.dtypes}
        options["kernel_init"] = Normal(0.02) if self.normal_init else HeNormal()
        x = Conv(self.widths[0], 3, stride=2, name="conv1", **options)(x)
        norm = make_norm(self.norm, "norm1", epsilon=self.norm_epsilon, **self.dtypes)
        x = as_activation(self.activation)(call_norm(norm, x, train=train))
        return Conv(self.widths[1], 3, name="conv2", **options)(x)


class MaxxViT(Backbone):
    """A CoAtNet, MaxViT or MaxxViT without its classifier: a stem, stages and the last norm.

    Maps are those behind the stem and each stage, before the last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images, which windows and grids follow.
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      stem_widths: the channels of the stem's two convolutions.
      stem_bias: whether these have biases.
      blocks: the kind of each stage's blocks: ``"conv"``, ``"transformer"`` (attention over the
        map), ``"max"`` (a convolution, windows, grids) or ``"parallel"`` (two convolutions, then
        both side by side); or a sequence of kinds, of which the last one is repeated.
      conv: the convolutions: ``"mbconv"`` or ``"convnext"``.
      conv_norm: the kind of the norms of the stem and the convolutions.
      conv_norm_epsilon: their epsilon.
      conv_activation: their activation.
      conv_bias: whether shortcuts and last layers of convolutions have biases.
      conv_layer_scale: what the scales of ConvNeXt's blocks begin with; None for no scales.
      pre_activation: whether an activation follows the first norm of an MBConv.
      expand_output: whether its hidden channels are a multiple of the output's, not the input's.
      stride_by: what halves a map in the branch of a convolution: its ``"conv"`` or a ``"pool"``.
      pool: how shortcuts are halved: ``"avg"`` of 2 x 2 pixels or ``"max"`` of 3 x 3.
      padding: of the convolutions: None for PyTorch's, ``"SAME"`` for TensorFlow's.
      gate_early: whether a gate stands before the norm.
      gate_activation: its activation.
      gate_ratio: its width.
      head_dim: the width of a head of attention.
      heads_first: whether kernels hold queries, keys and values head by head.
      expand_first: whether attention that widens the map has the heads of the wide one.
      shortcut_bias: whether shortcuts of blocks ``"transformer"`` have biases.
      window_attention: whether blocks ``"max"`` attend within windows as well as grids.
      positions: the biases of relative positions: ``"table"``, ``"map"`` (MaxViT's own order) or
        ``"mlp"``, by an MLP from logarithms.
      position_hidden: the hidden units of this MLP.
      position_dropout: the rate at which these are dropped.
      partition_ratio: the side of an image over that of its windows and grids.
      window_size: the side of a window, or its rows and columns; None for the image's over
        ``partition_ratio``.
      grid_size: of a grid, likewise; None for that of a window.
      mlp_ratio: the hidden units of each MLP, as a multiple of the channels.
      activation: of the MLPs, by name or callable.
      norm: the kind of the norms of attention and of the last one.
      norm_epsilon: their epsilon.
      layer_scale: what the scales of attention's branches begin with; None for no scales.
      head_width: the hidden units of the family's classifiers, whose norm then stands behind the
        pooling; None for none.
      normal_init: whether the blocks' kernels begin with a deviation of 0.02.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    layers: Sequence[int] = (2, 3, 5, 2)
    widths: Sequence[int] = (96, 192, 384, 768)
    stem_widths: Sequence[int] = (64, 64)
    stem_bias: bool = False
    blocks: Sequence[Any] = ("conv", "conv", "transformer", "transformer")
    conv: str = "mbconv"
    conv_norm: Any = "batch"
    conv_norm_epsilon: float = 1e-5
    conv_activation: Any = "gelu"
    conv_bias: bool = True
    conv_layer_scale: float | None = 1e-6
    pre_activation: bool = False
    expand_output: bool = True
    stride_by: str = "conv"
    pool: str = "avg"
    padding: str | None = None
    gate_early: bool = False
    gate_activation: Any = "silu"
    gate_ratio: float = 0.25
    head_dim: int = 32
    heads_first: bool = True
    expand_first: bool = True
    shortcut_bias: bool = True
    window_attention: bool = True
    positions: str = "table"
    position_hidden: int = 512
    position_dropout: float = 0.125
    partition_ratio: int = 32
    window_size: int | Grid | None = None
    grid_size: int | Grid | None = None
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    layer_scale: float | None = None
    head_width: int | None = None
    normal_init: bool = False
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then what each block ``stages_0_blocks_0`` and so on is made of."""
        yield Part("stem", self._stem, owns=("stem",), map="stem", reduction=2, takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        width = self.stem_widths[1]
        for stage, count in enumerate(self.layers):
            first, whole = None, f"stages_{stage}"
            for i in range(count):
                members = list(self._members(stage, i, width, next(rates)))
                for number, (suffix, block) in enumerate(members):
                    name = f"{whole}_blocks_{i}{suffix}"
                    first = first or name
                    done = i == count - 1 and number == len(members) - 1
                    yield Part(
                        name,
                        block,
                        map=whole if done else None,
                        reduction=4 << stage,
                        depth=first,
                        remat=self.remat,
                    )
                width = self.widths[stage]
        if self.head_width is None:
            yield Part("norm", self._norm, owns=("norm",), depth=first)

    @nn.nowrap
    def _members(self, stage: int, i: int, width: int, rate: float) -> Iterator[tuple[str, Any]]:
        """What a block is made of, and what follows its name there."""
        kind, features = self.kinds(stage)[i], self.widths[stage]
        stride = 1 if i else 2
        start = "normal" if self.normal_init else "fan"
        if kind == "conv" and self.conv == "convnext":
            start = "torch"
        conv = functools.partial(
            {"mbconv": MBConv, "convnext": ConvNeXtBlock}[self.conv],
            features,
            drop_path=rate,
            start=start,
            **{name: getattr(self, field) for name, field in _CONV.items()},
        )
        fields: dict[str, Any] = {name: getattr(self, name) for name in _ATTENTION}
        fields.update(drop_path=rate, normal_init=self.normal_init)
        fields.update(heads=features // self.head_dim)
        if kind == "conv":
            yield "", functools.partial(conv, stride=stride)
        elif kind == "transformer":
            inner = features if self.expand_first else width
            fields.update(heads=inner // self.head_dim, head_dim=self.head_dim, features=features)
            fields.update(window=self.map_size(stage), stride=stride, pool=self.pool)
            # timm's blocks over maps have no other order.
            fields.update(as_conv=True, heads_first=True, shortcut_bias=self.shortcut_bias)
            yield "", functools.partial(MapBlock, **fields)
        elif kind == "max":
            yield "_conv", functools.partial(conv, stride=stride)
            if self.window_attention:
                yield (
                    "_attn_block",
                    functools.partial(PartitionBlock, window=self.partition(), **fields),
                )
            yield (
                "_attn_grid",
                functools.partial(
                    PartitionBlock, window=self.partition(spread=True), spread=True, **fields
                ),
            )
        else:
            yield "_conv_0", functools.partial(conv, stride=stride)
            yield "_conv_1", conv
            fields.update(features=features // 2, window=self.partition())
            yield "_attn", functools.partial(ParallelBlock, **fields)

    @nn.nowrap
    def kinds(self, stage: int) -> tuple[str, ...]:
        """The kind of each block of a stage."""
        kinds, count = self.blocks[stage], self.layers[stage]
        kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
        return (*kinds, *(kinds[-1],) * count)[:count]

    @nn.nowrap
    def map_size(self, stage: int) -> Grid:
        """The rows and columns of a stage's map."""
        rows, columns = (-(-(n // 2) // (2 << stage)) for n in self.input_shape[:2])
        return rows, columns

    @nn.nowrap
    def partition(self, *, spread: bool = False) -> Grid:
        """The rows and columns of windows, or of grids."""
        size = self.grid_size if spread and self.grid_size is not None else self.window_size
        if size is not None:
            return check_kernel("window_size", size)
        rows, columns = (n // self.partition_ratio for n in self.input_shape[:2])
        return rows, columns

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        self._check_size(x.shape[1:])
        fields = {
            **{"norm": self.conv_norm, "norm_epsilon": self.conv_norm_epsilon},
            **{"activation": self.conv_activation, "padding": self.padding},
            **{"use_bias": self.stem_bias, "normal_init": self.normal_init},
        }
        return Stem(self.stem_widths, name="stem", **fields, **self.dtypes)(x, train)

    @nn.nowrap
    def _check_size(self, shape: Sequence[int]) -> None:
        """Raises ShapeError for images ``[H, W, C]`` whose maps do not fit what attends."""
        height, width = shape[:2]
        for stage in range(len(self.layers)):
            size = (-(-height // (4 << stage)), -(-width // (4 << stage)))
            kinds = set(self.kinds(stage))
            grids = [self.map_size(stage)] if "transformer" in kinds else []
            fits = all(size == grid for grid in grids)
            if kinds & {"max", "parallel"}:
                grids = [self.partition(), self.partition(spread=True)]
                sides = [side for grid in grids for side in zip(size, grid, strict=True)]
                fits = fits and all(side and length % side == 0 for length, side in sides)
            if not fits:
                words = " and ".join(dict.fromkeys(f"{r} x {c}" for r, c in grids))
                raise ShapeError(
                    f"images of {height} x {width} have maps of {size[0]} x {size[1]} in stage "
                    f"{stage}, where attention is over {words}: give get() their input_shape=, of "
                    "multiples of 32, or a window_size= that divides the maps of all stages"
                )

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers: averages are pooled."""
        options = {**super().head_options(), **PLAIN}
        if self.head_width is None:
            return options
        hidden: dict[str, Any] = {"hidden": (self.head_width,), "activation": "tanh"}
        hidden["hidden_bias_init"] = plain_bias
        return {**options, **hidden, "norm": self.norm, "norm_epsilon": self.norm_epsilon}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed: those of relative positions."""
        stages = range(len(self.layers))
        if all(set(self.kinds(stage)) == {"conv"} for stage in stages):
            return ()
        return ("*/rel_pos/mlp/*" if self.positions == "mlp" else f"*/rel_pos/{NAME}",)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("layers", "widths")}
        for name, value in lists.items():
            check_widths(name, value)
        check_lengths(**lists, blocks=self.blocks)
        check_widths("stem_widths", self.stem_widths)
        if len(self.stem_widths) != 2:
            raise ArgumentError(f"stem_widths must be two numbers, got {self.stem_widths!r}")
        for kinds in self.blocks:
            if not kinds:
                raise ArgumentError(f"blocks must name a kind for each stage, got {self.blocks!r}")
            for kind in (kinds,) if isinstance(kinds, str) else kinds:
                check_choice("blocks", kind, BLOCKS)
        for name, choices in (
            ("conv", CONVS),
            ("stride_by", ("conv", "pool")),
            ("pool", ("avg", "max")),
            ("positions", POSITIONS),
        ):
            check_choice(name, getattr(self, name), choices)
        if self.padding is not None:
            check_choice("padding", self.padding, ("SAME",), " or None")
        for name in ("head_dim", "position_hidden", "partition_ratio"):
            check_size(name, getattr(self, name))
        check_size("head_width", self.head_width, optional=True)
        for name in ("window_size", "grid_size"):
            if getattr(self, name) is not None:
                check_kernel(name, getattr(self, name))
        check_number("gate_ratio", self.gate_ratio, above=0)
        check_number("mlp_ratio", self.mlp_ratio, above=0)
        as_norm(self.conv_norm)
        for name in ("activation", "conv_activation", "gate_activation"):
            as_activation(getattr(self, name))
        self._check_heads()
        self._check_size(self.input_shape)

    @nn.nowrap
    def _check_heads(self) -> None:
        """Raises ArgumentError for widths that heads do not divide."""
        before = self.stem_widths[1]
        for stage, width in enumerate(self.widths):
            kinds = self.kinds(stage)
            attends = set(kinds) != {"conv"}
            narrow = kinds[0] == "transformer" and not self.expand_first
            if (attends and width % self.head_dim) or (narrow and before % self.head_dim):
                raise ArgumentError(
                    f"widths of what attends must be multiples of head_dim={self.head_dim}, got "
                    f"{before if narrow and before % self.head_dim else width} in stage {stage}"
                )
            if "parallel" in kinds and (
                width % 2 or self.partition() != self.partition(spread=True)
            ):
                raise ArgumentError(
                    "blocks 'parallel' take even widths, and grids as large as windows; got "
                    f"{width}, window_size={self.window_size!r} and grid_size={self.grid_size!r}"
                )
            before = width


def _resize(
    where: int | str, table: Any, shape: Any, backbone: Any, _old: Any, new: tuple[int, int]
) -> Any:
    """A file's table for attention of another size; see ``flaxzoo.models.reference.Resize``."""
    sized = backbone.clone(input_shape=(*new, backbone.input_shape[-1]))
    grid = (
        sized.map_size(where) if isinstance(where, int) else sized.partition(spread=where == "grid")
    )
    if table.ndim == 3:
        old = ((table.shape[0] + 1) // 2, (table.shape[1] + 1) // 2)
        return resample_table(table.reshape(-1, shape[-1]), grid, old_grid=old).reshape(shape)
    # A file does not tell windows that are not square: those of the model, then, as timm has it.
    if math.isqrt(len(table)) ** 2 == len(table):
        return resample_table(table, grid)
    if len(table) != table_length(grid, False):
        raise ShapeError(
            f"the weights have a table of {len(table)} relative positions, which is that of no "
            "square window: load them with the window_size and input_shape that they were trained "
            "with"
        )
    return table


def convert(tensors: Mapping[str, Any], _backbone: Any) -> dict[str, Any]:
    """Tensors of files that have linear layers where timm has convolutions, or the other way."""

    def fitted(name: str, value: Any) -> Any:
        layer = re.search(r"\.(attn\.(qkv|proj)|mlp\.fc[12])\.weight$", name)
        if layer is None or "rel_pos" in name:
            return value
        linear = ".attn_block." in name or ".attn_grid." in name or ".attn.mlp." in name
        if linear and value.ndim == 4:
            return value.reshape(value.shape[:2])
        if not linear and value.ndim == 2:
            return value.reshape(*value.shape, 1, 1)
        return value

    return {name: fitted(name, value) for name, value in tensors.items()}


REFERENCE = Reference(
    stem=("stem/conv1",),
    classifier="head.fc",
    head=(("norm", "head.norm"), ("dense_0", "head.pre_logits.fc")),
    renamed=(("norm1_norm", "norm1.norm"),),
    layouts=((f"*/rel_pos/{NAME}", "planes"),),
    convert=convert,
    resized=(
        (f"*attn_block/*rel_pos/{NAME}", functools.partial(_resize, "window")),
        (f"*attn_grid/*rel_pos/{NAME}", functools.partial(_resize, "grid")),
        # Of each stage by itself, more than any name has.
        *(
            (f"*/stages_{stage}_blocks_*/attn/rel_pos/{NAME}", functools.partial(_resize, stage))
            for stage in range(8)
        ),
    ),
)


_COATNET = "https://arxiv.org/abs/2106.04803"
_RW: dict[str, Any] = {"conv_activation": "silu", "expand_output": False, "expand_first": False}
_NEXT: dict[str, Any] = {
    "conv": "convnext",
    "conv_norm": "layer",
    "conv_norm_epsilon": 1e-06,
    "expand_first": False,
}
_TF: dict[str, Any] = {
    "stem_bias": True,
    "blocks": ("max", "max", "max", "max"),
    "conv_norm_epsilon": 0.001,
    "conv_activation": "gelu_tanh",
    "padding": "SAME",
    "heads_first": False,
    "positions": "map",
    "activation": "gelu_tanh",
    "norm_epsilon": 1e-05,
}
_MAX: dict[str, Any] = {"blocks": ("max", "max", "max", "max")}
_NANO: dict[str, Any] = {"widths": (64, 128, 256, 512), "stem_widths": (32, 64)}

variants(
    MaxxViT,
    {
        "coatnet_0_224": row("CoAtNet 0 224", head_width=768, paper=_COATNET),
        "coatnet_0_rw_224": row(
            "CoAtNet 0 (timm's) 224",
            layers=(2, 3, 7, 2),
            stem_widths=(32, 64),
            conv_bias=False,
            pre_activation=True,
            stride_by="pool",
            gate_early=True,
            gate_activation="relu",
            shortcut_bias=False,
            paper=_COATNET,
            **_RW,
        ),
        "coatnet_1_224": row("CoAtNet 1 224", layers=(2, 6, 14, 2), head_width=768, paper=_COATNET),
        "coatnet_1_rw_224": row(
            "CoAtNet 1 (timm's) 224",
            layers=(2, 6, 14, 2),
            stem_widths=(32, 64),
            conv_bias=False,
            pre_activation=True,
            gate_early=True,
            gate_activation="relu",
            shortcut_bias=False,
            paper=_COATNET,
            **_RW,
        ),
        "coatnet_2_224": row(
            "CoAtNet 2 224",
            layers=(2, 6, 14, 2),
            widths=(128, 256, 512, 1024),
            stem_widths=(128, 128),
            head_width=1024,
            paper=_COATNET,
        ),
        "coatnet_2_rw_224": row(
            "CoAtNet 2 (timm's) 224",
            layers=(2, 6, 14, 2),
            widths=(128, 256, 512, 1024),
            stem_widths=(64, 128),
            conv_bias=False,
            pre_activation=True,
            paper=_COATNET,
            **_RW,
        ),
        "coatnet_3_224": row(
            "CoAtNet 3 224",
            layers=(2, 6, 14, 2),
            widths=(192, 384, 768, 1536),
            stem_widths=(192, 192),
            head_width=1536,
            paper=_COATNET,
        ),
        "coatnet_3_rw_224": row(
            "CoAtNet 3 (timm's) 224",
            layers=(2, 6, 14, 2),
            widths=(192, 384, 768, 1536),
            stem_widths=(96, 192),
            conv_bias=False,
            pre_activation=True,
            layer_scale=1e-06,
            paper=_COATNET,
            **_RW,
        ),
        "coatnet_4_224": row(
            "CoAtNet 4 224",
            layers=(2, 12, 28, 2),
            widths=(192, 384, 768, 1536),
            stem_widths=(192, 192),
            head_width=1536,
            paper=_COATNET,
        ),
        "coatnet_5_224": row(
            "CoAtNet 5 224",
            layers=(2, 12, 28, 2),
            widths=(256, 512, 1280, 2048),
            stem_widths=(192, 192),
            head_width=2048,
            paper=_COATNET,
        ),
        "coatnet_nano_cc_224": row(
            "CoAtNet nano with convolutions and attention in turn 224",
            layers=(3, 4, 6, 3),
            blocks=("conv", "conv", ("conv", "transformer"), ("conv", "transformer")),
            conv_bias=False,
            pre_activation=True,
            stride_by="pool",
            gate_activation="relu",
            paper=_COATNET,
            **_RW,
            **_NANO,
        ),
        "coatnet_nano_rw_224": row(
            "CoAtNet nano (timm's) 224",
            layers=(3, 4, 6, 3),
            stride_by="pool",
            paper=_COATNET,
            **_RW,
            **_NANO,
        ),
        "coatnet_pico_rw_224": row("CoAtNet pico (timm's) 224", paper=_COATNET, **_RW, **_NANO),
        "coatnet_rmlp_0_rw_224": row(
            "CoAtNet with positions by an MLP, 0 (timm's) 224",
            layers=(2, 3, 7, 2),
            stem_widths=(32, 64),
            conv_bias=False,
            pre_activation=True,
            gate_activation="relu",
            positions="mlp",
            paper=_COATNET,
            **_RW,
        ),
        "coatnet_rmlp_1_rw2_224": row(
            "CoAtNet with positions by an MLP, 1 (timm's, 2) 224",
            layers=(2, 6, 14, 2),
            stem_widths=(32, 64),
            conv_bias=False,
            pre_activation=True,
            gate_activation="relu",
            positions="mlp",
            paper=_COATNET,
            **_RW,
        ),
        "coatnet_rmlp_1_rw_224": row(
            "CoAtNet with positions by an MLP, 1 (timm's) 224",
            layers=(2, 6, 14, 2),
            stem_widths=(32, 64),
            conv_bias=False,
            pre_activation=True,
            stride_by="pool",
            pool="max",
            gate_early=True,
            gate_activation="relu",
            shortcut_bias=False,
            positions="mlp",
            position_hidden=384,
            paper=_COATNET,
            **_RW,
        ),
        "coatnet_rmlp_2_rw_224": row(
            "CoAtNet with positions by an MLP, 2 (timm's) 224",
            layers=(2, 6, 14, 2),
            widths=(128, 256, 512, 1024),
            stem_widths=(64, 128),
            conv_bias=False,
            pre_activation=True,
            positions="mlp",
            layer_scale=1e-06,
            paper=_COATNET,
            **_RW,
        ),
        "coatnet_rmlp_2_rw_384": row(
            "CoAtNet with positions by an MLP, 2 (timm's) 384",
            layers=(2, 6, 14, 2),
            widths=(128, 256, 512, 1024),
            stem_widths=(64, 128),
            conv_bias=False,
            pre_activation=True,
            positions="mlp",
            layer_scale=1e-06,
            input_shape=(384, 384, 3),
            paper=_COATNET,
            **_RW,
        ),
        "coatnet_rmlp_3_rw_224": row(
            "CoAtNet with positions by an MLP, 3 (timm's) 224",
            layers=(2, 6, 14, 2),
            widths=(192, 384, 768, 1536),
            stem_widths=(96, 192),
            conv_bias=False,
            pre_activation=True,
            positions="mlp",
            layer_scale=1e-06,
            paper=_COATNET,
            **_RW,
        ),
        "coatnet_rmlp_nano_rw_224": row(
            "CoAtNet with positions by an MLP, nano (timm's) 224",
            layers=(3, 4, 6, 3),
            positions="mlp",
            position_hidden=384,
            paper=_COATNET,
            **_RW,
            **_NANO,
        ),
        "coatnext_nano_rw_224": row(
            "CoAtNeXt nano (timm's) 224",
            layers=(3, 4, 6, 3),
            conv_layer_scale=1e-05,
            normal_init=True,
            paper=_COATNET,
            **_NEXT,
            **_NANO,
        ),
        "maxvit_base_tf_224": row(
            "MaxViT base (the authors') 224", layers=(2, 6, 14, 2), head_width=768, **_TF
        ),
        "maxvit_base_tf_384": row(
            "MaxViT base (the authors') 384",
            layers=(2, 6, 14, 2),
            head_width=768,
            input_shape=(384, 384, 3),
            **_TF,
        ),
        "maxvit_base_tf_512": row(
            "MaxViT base (the authors') 512",
            layers=(2, 6, 14, 2),
            head_width=768,
            input_shape=(512, 512, 3),
            **_TF,
        ),
        "maxvit_large_tf_224": row(
            "MaxViT large (the authors') 224",
            layers=(2, 6, 14, 2),
            widths=(128, 256, 512, 1024),
            stem_widths=(128, 128),
            head_width=1024,
            **_TF,
        ),
        "maxvit_large_tf_384": row(
            "MaxViT large (the authors') 384",
            layers=(2, 6, 14, 2),
            widths=(128, 256, 512, 1024),
            stem_widths=(128, 128),
            head_width=1024,
            input_shape=(384, 384, 3),
            **_TF,
        ),
        "maxvit_large_tf_512": row(
            "MaxViT large (the authors') 512",
            layers=(2, 6, 14, 2),
            widths=(128, 256, 512, 1024),
            stem_widths=(128, 128),
            head_width=1024,
            input_shape=(512, 512, 3),
            **_TF,
        ),
        "maxvit_nano_rw_256": row(
            "MaxViT nano (timm's) 256",
            layers=(1, 2, 3, 1),
            conv_bias=False,
            gate_ratio=0.0625,
            input_shape=(256, 256, 3),
            **_RW,
            **_MAX,
            **_NANO,
        ),
        "maxvit_pico_rw_256": row(
            "MaxViT pico (timm's) 256",
            layers=(2, 2, 5, 2),
            widths=(32, 64, 128, 256),
            stem_widths=(24, 32),
            conv_bias=False,
            gate_ratio=0.0625,
            input_shape=(256, 256, 3),
            **_RW,
            **_MAX,
        ),
        "maxvit_rmlp_base_rw_224": row(
            "MaxViT with positions by an MLP, base (timm's) 224",
            layers=(2, 6, 14, 2),
            stem_widths=(32, 64),
            conv_bias=False,
            gate_ratio=0.0625,
            positions="mlp",
            head_width=768,
            **_RW,
            **_MAX,
        ),
        "maxvit_rmlp_base_rw_384": row(
            "MaxViT with positions by an MLP, base (timm's) 384",
            layers=(2, 6, 14, 2),
            stem_widths=(32, 64),
            conv_bias=False,
            gate_ratio=0.0625,
            positions="mlp",
            head_width=768,
            input_shape=(384, 384, 3),
            **_RW,
            **_MAX,
        ),
        "maxvit_rmlp_nano_rw_256": row(
            "MaxViT with positions by an MLP, nano (timm's) 256",
            layers=(1, 2, 3, 1),
            conv_bias=False,
            gate_ratio=0.0625,
            positions="mlp",
            input_shape=(256, 256, 3),
            **_RW,
            **_MAX,
            **_NANO,
        ),
        "maxvit_rmlp_pico_rw_256": row(
            "MaxViT with positions by an MLP, pico (timm's) 256",
            layers=(2, 2, 5, 2),
            widths=(32, 64, 128, 256),
            stem_widths=(24, 32),
            conv_bias=False,
            gate_ratio=0.0625,
            positions="mlp",
            input_shape=(256, 256, 3),
            **_RW,
            **_MAX,
        ),
        "maxvit_rmlp_small_rw_224": row(
            "MaxViT with positions by an MLP, small (timm's) 224",
            layers=(2, 2, 5, 2),
            stem_widths=(32, 64),
            conv_bias=False,
            gate_ratio=0.0625,
            positions="mlp",
            layer_scale=1e-06,
            **_RW,
            **_MAX,
        ),
        "maxvit_rmlp_small_rw_256": row(
            "MaxViT with positions by an MLP, small (timm's) 256",
            layers=(2, 2, 5, 2),
            stem_widths=(32, 64),
            conv_bias=False,
            gate_ratio=0.0625,
            positions="mlp",
            layer_scale=1e-06,
            input_shape=(256, 256, 3),
            **_RW,
            **_MAX,
        ),
        "maxvit_rmlp_tiny_rw_256": row(
            "MaxViT with positions by an MLP, tiny (timm's) 256",
            layers=(2, 2, 5, 2),
            conv_bias=False,
            gate_ratio=0.0625,
            positions="mlp",
            input_shape=(256, 256, 3),
            **_RW,
            **_MAX,
            **_NANO,
        ),
        "maxvit_small_tf_224": row(
            "MaxViT small (the authors') 224", layers=(2, 2, 5, 2), head_width=768, **_TF
        ),
        "maxvit_small_tf_384": row(
            "MaxViT small (the authors') 384",
            layers=(2, 2, 5, 2),
            head_width=768,
            input_shape=(384, 384, 3),
            **_TF,
        ),
        "maxvit_small_tf_512": row(
            "MaxViT small (the authors') 512",
            layers=(2, 2, 5, 2),
            head_width=768,
            input_shape=(512, 512, 3),
            **_TF,
        ),
        "maxvit_tiny_pm_256": row(
            "MaxViT tiny with both attentions side by side 256",
            layers=(2, 2, 5, 2),
            blocks=("parallel", "parallel", "parallel", "parallel"),
            conv_bias=False,
            gate_ratio=0.0625,
            input_shape=(256, 256, 3),
            **_RW,
            **_NANO,
        ),
        "maxvit_tiny_rw_224": row(
            "MaxViT tiny (timm's) 224",
            layers=(2, 2, 5, 2),
            conv_bias=False,
            gate_ratio=0.0625,
            **_RW,
            **_MAX,
            **_NANO,
        ),
        "maxvit_tiny_rw_256": row(
            "MaxViT tiny (timm's) 256",
            layers=(2, 2, 5, 2),
            conv_bias=False,
            gate_ratio=0.0625,
            input_shape=(256, 256, 3),
            **_RW,
            **_MAX,
            **_NANO,
        ),
        "maxvit_tiny_tf_224": row(
            "MaxViT tiny (the authors') 224",
            layers=(2, 2, 5, 2),
            widths=(64, 128, 256, 512),
            head_width=512,
            **_TF,
        ),
        "maxvit_tiny_tf_384": row(
            "MaxViT tiny (the authors') 384",
            layers=(2, 2, 5, 2),
            widths=(64, 128, 256, 512),
            head_width=512,
            input_shape=(384, 384, 3),
            **_TF,
        ),
        "maxvit_tiny_tf_512": row(
            "MaxViT tiny (the authors') 512",
            layers=(2, 2, 5, 2),
            widths=(64, 128, 256, 512),
            head_width=512,
            input_shape=(512, 512, 3),
            **_TF,
        ),
        "maxvit_xlarge_tf_224": row(
            "MaxViT xlarge (the authors') 224",
            layers=(2, 6, 14, 2),
            widths=(192, 384, 768, 1536),
            stem_widths=(192, 192),
            head_width=1536,
            **_TF,
        ),
        "maxvit_xlarge_tf_384": row(
            "MaxViT xlarge (the authors') 384",
            layers=(2, 6, 14, 2),
            widths=(192, 384, 768, 1536),
            stem_widths=(192, 192),
            head_width=1536,
            input_shape=(384, 384, 3),
            **_TF,
        ),
        "maxvit_xlarge_tf_512": row(
            "MaxViT xlarge (the authors') 512",
            layers=(2, 6, 14, 2),
            widths=(192, 384, 768, 1536),
            stem_widths=(192, 192),
            head_width=1536,
            input_shape=(512, 512, 3),
            **_TF,
        ),
        "maxxvit_rmlp_nano_rw_256": row(
            "MaxxViT with positions by an MLP, nano (timm's) 256",
            layers=(1, 2, 3, 1),
            positions="mlp",
            layer_scale=1e-06,
            normal_init=True,
            input_shape=(256, 256, 3),
            **_NEXT,
            **_MAX,
            **_NANO,
        ),
        "maxxvit_rmlp_small_rw_256": row(
            "MaxxViT with positions by an MLP, small (timm's) 256",
            layers=(2, 2, 5, 2),
            stem_widths=(48, 96),
            positions="mlp",
            layer_scale=1e-06,
            input_shape=(256, 256, 3),
            **_NEXT,
            **_MAX,
        ),
        "maxxvit_rmlp_tiny_rw_256": row(
            "MaxxViT with positions by an MLP, tiny (timm's) 256",
            layers=(2, 2, 5, 2),
            positions="mlp",
            layer_scale=1e-06,
            input_shape=(256, 256, 3),
            **_NEXT,
            **_MAX,
            **_NANO,
        ),
        "maxxvitv2_nano_rw_256": row(
            "MaxxViT-V2 nano (timm's) 256",
            layers=(1, 2, 3, 1),
            stem_widths=(48, 96),
            window_attention=False,
            layer_scale=1e-06,
            normal_init=True,
            input_shape=(256, 256, 3),
            **_NEXT,
            **_MAX,
        ),
        "maxxvitv2_rmlp_base_rw_224": row(
            "MaxxViT-V2 with positions by an MLP, base (timm's) 224",
            layers=(2, 6, 12, 2),
            widths=(128, 256, 512, 1024),
            stem_widths=(64, 128),
            window_attention=False,
            positions="mlp",
            layer_scale=1e-06,
            **_NEXT,
            **_MAX,
        ),
        "maxxvitv2_rmlp_base_rw_384": row(
            "MaxxViT-V2 with positions by an MLP, base (timm's) 384",
            layers=(2, 6, 12, 2),
            widths=(128, 256, 512, 1024),
            stem_widths=(64, 128),
            window_attention=False,
            positions="mlp",
            layer_scale=1e-06,
            input_shape=(384, 384, 3),
            **_NEXT,
            **_MAX,
        ),
        "maxxvitv2_rmlp_large_rw_224": row(
            "MaxxViT-V2 with positions by an MLP, large (timm's) 224",
            layers=(2, 6, 16, 2),
            widths=(160, 320, 640, 1280),
            stem_widths=(80, 160),
            window_attention=False,
            positions="mlp",
            layer_scale=1e-06,
            head_width=1280,
            **_NEXT,
            **_MAX,
        ),
        "test_coatnet": row(
            "Tiny test CoAtNet",
            layers=(1, 1, 2, 1),
            widths=(32, 64, 96, 128),
            stem_widths=(16, 32),
            stride_by="pool",
            input_shape=(160, 160, 3),
            paper=_COATNET,
            **_RW,
        ),
        "test_maxvit": row(
            "Tiny test MaxViT",
            layers=(1, 1, 1, 1),
            widths=(32, 64, 96, 128),
            stem_widths=(16, 32),
            conv_bias=False,
            gate_ratio=0.0625,
            input_shape=(160, 160, 3),
            **_RW,
            **_MAX,
        ),
    },
    paper="https://arxiv.org/abs/2204.01697",
    reference=REFERENCE,
)

# A BatchNorm keeps no pixel small: with larger random kernels attention is a choice of one pixel.
variants(
    MaxxViT,
    {
        "coatnet_bn_0_rw_224": row(
            "CoAtNet with BatchNorm, 0 (timm's) 224",
            layers=(2, 3, 7, 2),
            stem_widths=(32, 64),
            conv_bias=False,
            pre_activation=True,
            gate_early=True,
            gate_activation="relu",
            shortcut_bias=False,
            norm="batch",
            **_RW,
        ),
    },
    paper=_COATNET,
    reference=dataclasses.replace(REFERENCE, gain=1.0),
)
