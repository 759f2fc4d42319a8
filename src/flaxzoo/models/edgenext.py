"""EdgeNeXt: small convolutional networks whose stages end with attention between channels.

Blocks are ConvNeXt's, with kernels that grow from stage to stage. The last one of a stage mixes
groups of channels by a chain of small convolutions, then lets channels attend to each other, at a
cost linear in the pixels. Names and numbers are those of timm's ``edgenext`` module.

References:
  EdgeNeXt: https://arxiv.org/abs/2206.10589
  The recipe of the newer weights: https://arxiv.org/abs/2204.03475
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_number, check_size, check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.cross_covariance import CrossCovarianceAttention, FourierPositions
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import TruncatedNormal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import call_norm, make_norm, scaled_channels
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

_INIT = TruncatedNormal(0.02)
# What a block gets from the network as it is.
_PASSED_ON = (
    *("mlp_ratio", "conv_bias", "layer_scale", "activation", "norm", "norm_epsilon"),
    *("dtype", "param_dtype"),
)


class EdgeBlock(Layer):
    """What both kinds of blocks share: a norm and two layers on each pixel, scaled and added.

    Attributes:
      mlp_ratio: the hidden units, as a multiple of the channels.
      conv_bias: whether convolutions have biases.
      layer_scale: what the scale of the branch begins with; None for no scale.
      activation: by name or callable.
      norm: the kind of the norm, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      drop_path: the rate at which the branch is dropped for a whole example.
    """

    mlp_ratio: float = 4.0
    conv_bias: bool = True
    layer_scale: float | None = 1e-6
    activation: Any = "gelu"
    norm: Any = "layer"
    norm_epsilon: float | None = None
    drop_path: float = 0.0

    @nn.nowrap
    def depthwise(self, features: int, size: int, name: str, **options: Any) -> Conv:
        """Makes a depthwise convolution."""
        options = {"use_bias": self.conv_bias, "kernel_init": _INIT, **options, **self.dtypes}
        return Conv(features, size, name=name, **options)

    def normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Normalises the last axis."""
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    def scaled(self, x: jax.Array, name: str) -> jax.Array:
        """Scales the channels by a parameter of the block's own."""
        return scaled_channels(self, name, x, self.layer_scale, param_dtype=self.param_dtype)

    def dropped(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Drops a branch for some examples."""
        return DropPath(self.drop_path, name=name)(x, deterministic=not train)

    def feed_forward(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps each pixel by itself."""
        fields = {"activation": self.activation, "kernel_init": _INIT, **self.dtypes}
        y = self.normalise(x, "norm", train)
        y = Mlp(int(self.mlp_ratio * x.shape[-1]), name="mlp", **fields)(y, train)
        return self.dropped(self.scaled(y, "gamma"), "drop_path", train)


class ConvBlock(EdgeBlock):
    """A depthwise convolution, a norm and two layers on each pixel.

    Where it halves the map, the branch is added to what the convolution returns.

    Attributes:
      features: the channels of the output.
      kernel_size: of the convolution.
      stride: 2 halves the map.
    """

    features: int = 48
    kernel_size: int = 7
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        width = x.shape[-1]
        options = {"groups": width, "stride": self.stride}
        y = self.depthwise(self.features, self.kernel_size, "conv_dw", **options)(x)
        shortcut = y if self.stride > 1 or width != self.features else x
        return shortcut + self.feed_forward(y, train)


class SplitBlock(EdgeBlock):
    """A chain of convolutions over groups of channels, attention between channels, two layers.

    Parameters are named as those of timm's ``SplitTransposeBlock``.

    Attributes:
      scales: the number of groups; each but the last is convolved, together with what the one
        before it gave.
      heads: the number of heads of attention.
      positions: whether the positions of pixels are added before attention.
      attention_dropout: the rate at which attention's weights are dropped.
      block_dropout: the rate at which attention's outputs are dropped.
    """

    scales: int = 2
    heads: int = 8
    positions: bool = False
    attention_dropout: float = 0.0
    block_dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        batch, height, width, channels = x.shape
        y = self.chained(x)
        if self.positions:
            options = {"kernel_init": _INIT, "bias_init": zeros, **self.dtypes}
            options["name"] = "pos_embd"
            y = y + FourierPositions(channels, **options)((height, width)).astype(y.dtype)
        attention = CrossCovarianceAttention(
            self.heads,
            attention_dropout=self.attention_dropout,
            dropout=self.block_dropout,
            kernel_init=_INIT,
            name="xca",
            **self.dtypes,
        )
        tokens = y.reshape(batch, height * width, channels)
        z = attention(self.normalise(tokens, "norm_xca", train), train)
        z = self.dropped(self.scaled(z, "gamma_xca"), "drop_path_xca", train)
        return x + self.feed_forward((tokens + z).reshape(x.shape), train)

    def chained(self, x: jax.Array) -> jax.Array:
        """Convolves one group of channels after the other."""
        width = group_width(x.shape[-1], self.scales)
        groups = jnp.split(x, [width * i for i in range(1, self.scales)], axis=-1)
        done: list[jax.Array] = []
        for i, group in enumerate(groups[:-1]):
            group = group + done[-1] if done else group
            done.append(self.depthwise(width, 3, f"convs_{i}", groups=width)(group))
        return jnp.concatenate([*done, groups[-1]], axis=-1)


def group_width(channels: int, scales: int) -> int:
    """Returns the channels of each group but the last one, which may be narrower."""
    return -(-channels // scales)


class EdgeNeXt(Backbone):
    """An EdgeNeXt without its classifier: a stem and stages of blocks.

    Maps are those behind each stage.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      attending: how many of each stage's blocks, the last ones, have attention.
      kernel_sizes: the size of the other blocks' convolutions, in each stage.
      heads: the number of heads of attention in each stage.
      scales: the number of groups of channels before attention, in each stage.
      positions: whether positions are added there, in each stage.
      mlp_ratio: the hidden units of the layers on each pixel, as a multiple of the channels.
      overlap: whether the stem's convolution is of 9 x 9 pixels, which overlap, instead of 4 x 4.
      down_blocks: whether the first block of a stage halves the map, instead of a norm and a
        convolution before it.
      conv_bias: whether convolutions have biases.
      layer_scale: what the scales of the branches begin with; None for no scales.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      norm_first: whether a norm stands before the pooling, instead of one behind it.
      attention_dropout: the rate at which attention's weights are dropped.
      block_dropout: the rate at which attention's outputs are dropped.
      drop_path: the rate of stochastic depth in the last block; it grows linearly from 0 in the
        first.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 3, 9, 3)
    widths: Sequence[int] = (48, 96, 160, 304)
    attending: Sequence[int] = (0, 1, 1, 1)
    kernel_sizes: Sequence[int] = (3, 5, 7, 9)
    heads: Sequence[int] = (8, 8, 8, 8)
    scales: Sequence[int] = (2, 2, 3, 4)
    positions: Sequence[bool] = (False, True, False, False)
    mlp_ratio: float = 4.0
    overlap: bool = False
    down_blocks: bool = False
    conv_bias: bool = True
    layer_scale: float | None = 1e-6
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    norm_first: bool = False
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, with what leads to each."""
        yield Part("stem", self._stem, owns=("stem_0", "stem_1"), takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for stage, count in enumerate(self.layers):
            if stage > 0 and not self.down_blocks:
                owns = (f"stages_{stage}_downsample_0", f"stages_{stage}_downsample_1")
                down = functools.partial(self._down, stage)
                yield Part(f"stages_{stage}_blocks_0", down, owns=owns)
            for i in range(count):
                yield Part(
                    f"stages_{stage}_blocks_{i}",
                    functools.partial(self._block(stage, i), drop_path=next(rates)),
                    map=f"stages_{stage}" if i == count - 1 else None,
                    reduction=4 << stage,
                    remat=self.remat,
                )
        if self.norm_first:
            last = f"stages_{len(self.layers) - 1}_blocks_{self.layers[-1] - 1}"
            norm = functools.partial(self._norm, "norm_pre")
            yield Part("norm_pre", norm, owns=("norm_pre",), depth=last)

    @nn.nowrap
    def _block(self, stage: int, i: int) -> Any:
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        if i < self.layers[stage] - self.attending[stage]:
            fields.update(features=self.widths[stage], kernel_size=self.kernel_sizes[stage])
            fields.update(stride=2 if self.down_blocks and stage > 0 and i == 0 else 1)
            return functools.partial(ConvBlock, **fields)
        own = {name: getattr(self, name)[stage] for name in ("heads", "scales", "positions")}
        own.update(attention_dropout=self.attention_dropout, block_dropout=self.block_dropout)
        return functools.partial(SplitBlock, **own, **fields)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        size, padding = (9, 4) if self.overlap else (4, 0)
        x = self._conv("stem_0", self.widths[0], size, stride=4, padding=padding)(x)
        return self._norm("stem_1", x, train)

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        x = self._norm(f"stages_{stage}_downsample_0", x, train)
        name = f"stages_{stage}_downsample_1"
        return self._conv(name, self.widths[stage], 2, stride=2, padding=0)(x)

    def _conv(self, name: str, width: int, size: int, **options: Any) -> Conv:
        options = {"use_bias": self.conv_bias, "kernel_init": _INIT, **options, **self.dtypes}
        return Conv(width, size, name=name, **options)

    def _norm(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The norm behind the pooling, unless it stands before it."""
        norm = None if self.norm_first else self.norm
        usual = {"norm": norm, "norm_epsilon": self.norm_epsilon, "kernel_init": _INIT}
        return {**super().head_options(), **usual}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        counts = ("layers", "widths", "kernel_sizes", "heads", "scales")
        for name in counts:
            check_widths(name, getattr(self, name))
        lists = {name: getattr(self, name) for name in (*counts, "attending", "positions")}
        check_lengths(**lists)
        check_number("mlp_ratio", self.mlp_ratio, above=0)
        for stage, count in enumerate(self.attending):
            check_size("attending", count, minimum=0)
            # A block that halves the map is none of attention.
            most = self.layers[stage] - (self.down_blocks and stage > 0)
            if count > most:
                raise ArgumentError(
                    f"attending must be at most {most} of {self.layers[stage]} blocks in stage "
                    f"{stage}, got {count}"
                )
            if count:
                self._check_attention(stage)
        if self.down_blocks:
            for before, after in zip(self.widths, self.widths[1:], strict=False):
                if after % before:
                    raise ArgumentError(
                        "with down_blocks=True each of widths must be a multiple of the one "
                        f"before, got {tuple(self.widths)}"
                    )

    @nn.nowrap
    def _check_attention(self, stage: int) -> None:
        """Raises ArgumentError for channels that heads or groups do not divide."""
        width, heads, scales = self.widths[stage], self.heads[stage], self.scales[stage]
        if width % heads:
            raise ArgumentError(
                f"widths of stages that attend must be multiples of their heads, got {width} and "
                f"{heads} in stage {stage}"
            )
        if scales < 2 or group_width(width, scales) * (scales - 1) >= width:
            raise ArgumentError(
                f"scales must be at least 2 and leave channels for each group, got {scales} of "
                f"{width} channels in stage {stage}"
            )


def _convert(tensors: Mapping[str, Any], _backbone: EdgeNeXt) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files."""
    if "head.norm.weight" in tensors or "norm_pre.weight" in tensors:
        return tensors
    return {_today(name): value for name, value in tensors.items()}


def _today(name: str) -> str:
    """Returns timm's name for one of the authors'."""
    name = name.replace("downsample_layers.0.", "stem.")
    name = re.sub(r"^stages\.(\d+)\.(\d+)", r"stages.\1.blocks.\2", name)
    name = re.sub(r"^downsample_layers\.(\d+)\.(\d+)", r"stages.\1.downsample.\2", name)
    name = name.replace("dwconv", "conv_dw").replace("pwconv", "mlp.fc")
    return re.sub(r"^norm\.", "head.norm.", re.sub(r"^head\.", "head.fc.", name))


variants(
    EdgeNeXt,
    {
        "edgenext_xx_small": row(
            "EdgeNeXt XX-Small",
            layers=(2, 2, 6, 2),
            widths=(24, 48, 88, 168),
            heads=(4, 4, 4, 4),
        ),
        "edgenext_x_small": row("EdgeNeXt X-Small", widths=(32, 64, 100, 192), heads=(4, 4, 4, 4)),
        "edgenext_small": row("EdgeNeXt Small"),
        "edgenext_base": row("EdgeNeXt Base", widths=(80, 160, 288, 584)),
        "edgenext_small_rw": row(
            "EdgeNeXt Small (timm's)",
            widths=(48, 96, 192, 384),
            down_blocks=True,
            conv_bias=False,
            overlap=True,
        ),
    },
    paper="https://arxiv.org/abs/2206.10589",
    reference=Reference(
        stem=("stem_0",),
        classifier="head.fc",
        head=(("norm", "head.norm"),),
        convert=_convert,
    ),
)
