"""SwiftFormer: convolutions, and at the end of each stage attention at a cost linear in the pixels.

One learnt vector weighs the pixels, and what they sum up to scales every key. The other blocks are
convolutions. Names and numbers are those of timm's ``swiftformer`` module.

References:
  SwiftFormer: https://arxiv.org/abs/2303.15446
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_number, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import BatchNorm, ChannelScale
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

_INIT = Normal(0.02)
# What a block gets from the network as it is.
_PASSED_ON = ("mlp_ratio", "activation", "dtype", "param_dtype")


class LocalBlock(Layer):
    """A depthwise convolution of 3 x 3, a norm and two layers on each pixel, scaled and added.

    Parameters are named as timm's ``ConvEncoder``: ``dwconv``, ``norm``, ``pwconv1``, ``pwconv2``,
    ``layer_scale``.

    Attributes:
      mlp_ratio: the hidden units, as a multiple of the channels.
      activation: between the layers, by name or callable.
      scaled: whether the branch has a learnt scale, which begins with 1.
      drop_path: the rate at which the branch is dropped for a whole example.
    """

    mlp_ratio: float = 4.0
    activation: Any = "gelu"
    scaled: bool = True
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width = x.shape[-1]
        conv: Any = functools.partial(Conv, use_bias=True, kernel_init=_INIT, **self.dtypes)
        y = conv(width, 3, groups=width, name="dwconv")(x)
        y = BatchNorm(use_running_average=not train, name="norm", **self.dtypes)(y)
        y = as_activation(self.activation)(conv(int(self.mlp_ratio * width), 1, name="pwconv1")(y))
        y = conv(width, 1, name="pwconv2")(y)
        if self.scaled:
            y = ChannelScale(1.0, name="layer_scale", **self.dtypes)(y)
        return x + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)


class AdditiveAttention(Layer):
    """Attention of one vector to all pixels, whose sum scales what each pixel holds.

    Shaker et al. 2023, https://arxiv.org/abs/2303.15446, section 3.2. Norms and sums over pixels
    are float32 at least. Parameters are named as timm's ``EfficientAdditiveAttention``:
    ``to_query``, ``to_key``, ``w_g``, ``proj``, ``final``.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width = x.shape[-1]
        options: dict[str, Any] = {"kernel_init": _INIT, "bias_init": zeros, "dtype": self.dtype}
        dense: Any = functools.partial(Dense, width, param_dtype=self.param_dtype, **options)
        tokens = x.reshape(x.shape[0], -1, width)
        query = unit(dense(name="to_query")(tokens), -1)
        key = unit(dense(name="to_key")(tokens), -1)
        # The vector's own length plays no part beside its scores', which are normalised.
        vector = self.param("w_g", Normal(1.0), (width, 1), self.param_dtype)
        scores = query @ jnp.asarray(vector, query.dtype) * width**-0.5
        total = (unit(scores, 1) * query).sum(1, keepdims=True)
        y = dense(name="proj")((total * key).astype(x.dtype)) + query.astype(x.dtype)
        return dense(name="final")(y).reshape(x.shape)


def unit(x: jax.Array, axis: int) -> jax.Array:
    """Vectors along an axis divided by their length, float32 at least; no less than 1e-12."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squares = jnp.square(wide).sum(axis, keepdims=True)
    return wide * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


class NormedMlp(Mlp):
    """An ``Mlp`` of 1 x 1 convolutions behind a BatchNorm named ``norm1``."""

    as_conv: bool = True
    kernel_init: Any = _INIT

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        x = BatchNorm(use_running_average=not train, name="norm1", **self.dtypes)(x)
        return super().__call__(x, train)


class AttentionBlock(Layer):
    """A small local block, attention, and an MLP, each added to its input.

    Parameters are named as timm's ``Block``: ``local_representation``, ``attn``, ``linear``,
    ``layer_scale_1``, ``layer_scale_2``.

    Attributes:
      mlp_ratio: the hidden units of the MLP, as a multiple of the channels.
      activation: by name or callable.
      layer_scale: what the scales of attention and MLP begin with; None for no scales.
      block_dropout: the rate at which units of the MLP are dropped.
      drop_path: the rate at which these branches are dropped for a whole example.
    """

    mlp_ratio: float = 4.0
    activation: Any = "gelu"
    layer_scale: float | None = 1e-5
    block_dropout: float = 0.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        scaled = self.layer_scale is not None
        options: dict[str, Any] = {"activation": self.activation, **self.dtypes}
        x = LocalBlock(1.0, scaled=scaled, name="local_representation", **options)(x, train)
        y = AdditiveAttention(name="attn", **self.dtypes)(x)
        x = x + self.branch(y, 1, train)
        hidden = int(self.mlp_ratio * x.shape[-1])
        y = NormedMlp(hidden, dropout=self.block_dropout, name="linear", **options)(x, train)
        return x + self.branch(y, 2, train)

    def branch(self, y: jax.Array, number: int, train: bool) -> jax.Array:
        """Scales what is added, and drops it for some examples."""
        if self.layer_scale is not None:
            y = ChannelScale(self.layer_scale, name=f"layer_scale_{number}", **self.dtypes)(y)
        return DropPath(self.drop_path, name=f"drop_path{number}")(y, deterministic=not train)


class SwiftFormer(Backbone):
    """A SwiftFormer without its classifiers: a stem, stages of blocks and the last norm.

    Maps are those behind each stage, before the last norm.

    Attributes:
      layers: the number of blocks of each stage, of which the last one has attention.
      widths: the channels of each stage.
      downsamples: whether a convolution halves the map before a stage, for each.
      mlp_ratio: the hidden units of the layers on each pixel, as a multiple of the channels.
      activation: by name or callable.
      layer_scale: what the scales of attention and MLP begin with, where those of convolutions
        begin with 1; None for no scales.
      distilled_training: whether training gives the logits of both classifiers.
      block_dropout: the rate at which units of the MLPs behind attention are dropped.
      drop_path: the rate of stochastic depth in the last block; it grows linearly from 0 in the
        first.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 3, 6, 4)
    widths: Sequence[int] = (48, 56, 112, 220)
    downsamples: Sequence[bool] = (False, True, True, True)
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    layer_scale: float | None = 1e-5
    distilled_training: bool = False
    block_dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, the blocks ``stages_0_blocks_0`` and so on, and the last norm."""
        owns = ("stem_0", "stem_1", "stem_3", "stem_4")
        yield Part("stem", self._stem, owns=owns, takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        reduction = 4
        for stage, count in enumerate(self.layers):
            first = f"stages_{stage}_blocks_0"
            if self.downsamples[stage]:
                reduction *= 2
                down = functools.partial(self._down, stage)
                yield Part(first, down, owns=(f"stages_{stage}_downsample",))
            for i in range(count):
                last = f"stages_{stage}_blocks_{i}"
                block = functools.partial(self._block(i == count - 1), drop_path=next(rates))
                complete = f"stages_{stage}" if i == count - 1 else None
                yield Part(last, block, map=complete, reduction=reduction, remat=self.remat)
        yield Part("norm", self._norm, owns=("norm",), depth=last)

    @nn.nowrap
    def _block(self, attends: bool) -> Any:
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        if not attends:
            return functools.partial(LocalBlock, scaled=self.layer_scale is not None, **fields)
        own: dict[str, Any] = {"layer_scale": self.layer_scale, "block_dropout": self.block_dropout}
        return functools.partial(AttentionBlock, **own, **fields)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        options: dict[str, Any] = {"use_bias": True, "kernel_init": _INIT, **self.dtypes}
        for number, width in ((0, self.widths[0] // 2), (3, self.widths[0])):
            x = Conv(width, 3, stride=2, name=f"stem_{number}", **options)(x)
            norm = BatchNorm(not train, name=f"stem_{number + 1}", **self.dtypes)
            x = nn.relu(norm(x))
        return x

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        options: dict[str, Any] = {"use_bias": True, "kernel_init": _INIT, **self.dtypes}
        options |= {"bias_init": zeros, "names": ("proj", "norm")}
        options["name"] = f"stages_{stage}_downsample"
        return ConvNorm(self.widths[stage], 3, 2, **options)(x, train)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        return BatchNorm(use_running_average=not train, name="norm", **self.dtypes)(x)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Two classifiers, of which one was taught by another network."""
        distilled = "pair" if self.distilled_training else "mean"
        return {**super().head_options(), "distilled": distilled, "kernel_init": _INIT}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("layers", "widths")}
        for name, value in lists.items():
            check_widths(name, value)
        check_lengths(**lists, downsamples=self.downsamples)
        if self.widths[0] < 2:
            raise ArgumentError(f"the first of widths must be at least 2, got {self.widths[0]}")
        for stage, (before, after) in enumerate(zip(self.widths, self.widths[1:], strict=False), 1):
            if before != after and not self.downsamples[stage]:
                raise ArgumentError(
                    f"widths can't change where downsamples is False, got {before} and {after} "
                    f"in stages {stage - 1} and {stage}"
                )
        check_number("mlp_ratio", self.mlp_ratio, above=0)


def _convert(tensors: Mapping[str, Any], _backbone: SwiftFormer) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files."""
    if "stem.0.weight" in tensors:
        return tensors
    return {_today(name): value for name, value in tensors.items()}


def _today(name: str) -> str:
    """Returns timm's name for one of the authors'."""
    name = name.replace("patch_embed.", "stem.").replace("dist_head.", "head_dist.")
    name = name.replace("attn.Proj.", "attn.proj.")
    name = re.sub(r"\.(layer_scale(_\d)?)$", r".\1.gamma", name)

    # Stages and what leads to the next one are one list.
    def place(match: re.Match[str]) -> str:
        stage, between = divmod(int(match[1]), 2)
        return f"stages.{stage + 1}.downsample." if between else f"stages.{stage}.blocks."

    return re.sub(r"^network\.(\d+)\.", place, name)


variants(
    SwiftFormer,
    {
        "swiftformer_xs": row("SwiftFormer-XS"),
        "swiftformer_s": row("SwiftFormer-S", layers=(3, 3, 9, 6), widths=(48, 64, 168, 224)),
        "swiftformer_l1": row("SwiftFormer-L1", layers=(4, 3, 10, 5), widths=(48, 96, 192, 384)),
        "swiftformer_l3": row("SwiftFormer-L3", layers=(4, 4, 12, 6), widths=(64, 128, 320, 512)),
    },
    paper="https://arxiv.org/abs/2303.15446",
    reference=Reference(
        stem=("stem_0",),
        classifier="head",
        head=(("fc_dist", "head_dist"),),
        renamed=((r"layer_scale_(\d)", r"layer_scale_\1"),),
        layouts=(("params/backbone/*/gamma", "planes"),),
        convert=_convert,
    ),
)
