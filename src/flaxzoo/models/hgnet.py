"""PP-HGNet: blocks that keep what each of their convolutions computes, made to be fast on GPUs.

A block's layers of 1 x 1 see its input and every map inside. V2 has depthwise convolutions in the
later stages and a stem of two branches. Names and numbers are those of timm's ``hgnet`` module.

References:
  PP-HGNet: https://github.com/PaddlePaddle/PaddleClas/blob/release/2.5.1/docs/en/models/PP-HGNet_en.md
  Its training: https://arxiv.org/abs/2103.05959
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_choice, check_lengths, check_size, check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import EffectiveSqueezeExcite
from flaxzoo.layers.initializers import FanIn, HeNormal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.pool import max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

_STEMS = ("plain", "branched")
# What modules get from the network as it is.
_PASSED_ON = ("activation", "norm", "norm_epsilon", "affine", "dtype", "param_dtype")


class ScaleAndShift(Layer):
    """Multiplies by one learnt number and adds another: timm's ``LearnableAffineBlock``.

    Attributes:
      dtype: the dtype of the result; None for that of the inputs.
      param_dtype: the dtype of the parameters ``scale`` and ``bias``, of one element each.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps an array of any shape to the same shape."""
        dtype = x.dtype if self.dtype is None else self.dtype
        scale = self.param("scale", ones, (1,), self.param_dtype)
        bias = self.param("bias", zeros, (1,), self.param_dtype)
        scale, bias = (leaf.astype(dtype).reshape((1,) * x.ndim) for leaf in (scale, bias))
        return x.astype(dtype) * scale + bias


class HGConv(ConvNorm):
    """A ``ConvNorm`` that two learnt numbers may follow; named as timm's ``ConvBNAct``.

    Attributes:
      affine: whether a ``ScaleAndShift`` named ``lab`` follows the activation, if there is one.
    """

    kernel_init: Any = HeNormal()
    affine: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up.

        A kernel of even size makes the map a row and a column smaller.
        """
        x = super().__call__(x, train)
        if not self.affine or self.activation is None:
            return x
        return ScaleAndShift(name="lab", **self.dtypes)(x)


class HGLayers(Layer):
    """What modules of PP-HGNets share: the fields of their convolutions.

    Attributes:
      activation: by name or callable.
      norm: by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      affine: whether a ``ScaleAndShift`` follows each activation (V2).
    """

    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float | None = None
    affine: bool = False

    @nn.nowrap
    def conv(self, features: int, size: int, name: str, **options: Any) -> HGConv:
        """Makes a convolution."""
        own = {field: getattr(self, field) for field in _PASSED_ON}
        return HGConv(features, size, name=name, **{**own, **options})


class PlainStem(HGLayers, kw_only=True):
    """Convolutions of 3 x 3, the first of stride 2, and the maximum of 3 x 3 pixels.

    Attributes:
      widths: their channels.
    """

    widths: Sequence[int] = (48, 48, 96)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 4, W / 4, widths[-1]]``, rounded up."""
        for i, width in enumerate(self.widths):
            x = self.conv(width, 3, f"stem_{i}", stride=1 if i else 2)(x, train)
        return max_pool(x)


class BranchedStem(HGLayers, kw_only=True):
    """A convolution, beside whose maximum of 2 x 2 pixels two convolutions of 2 x 2 see them.

    Attributes:
      widths: the channels inside and of the output.
    """

    widths: Sequence[int] = (24, 32)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 4, W / 4, widths[-1]]``, rounded up."""
        inside, width = self.widths
        x = _with_an_end(self.conv(inside, 3, "stem1", stride=2)(x, train))
        y = _with_an_end(self.conv(inside // 2, 2, "stem2a")(x, train))
        y = self.conv(inside, 2, "stem2b")(y, train)
        x = jnp.concatenate([max_pool(x, 2, 1, 0), y], -1)
        x = self.conv(inside, 3, "stem3", stride=2)(x, train)
        return self.conv(width, 1, "stem4")(x, train)


def _with_an_end(x: jax.Array) -> jax.Array:
    """Adds a row and a column of zeros behind the last ones of maps ``[B, H, W, C]``."""
    return jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))


class HGBlock(HGLayers, kw_only=True):
    """A chain of convolutions, and layers of 1 x 1 that see the input and what each computed.

    Parameters are named as those of timm's ``HighPerfGpuBlock``: ``layers`` and ``aggregation``.

    Attributes:
      features: the channels of the output.
      inner: the channels of each convolution.
      count: the number of convolutions.
      kernel_size: of the convolutions.
      light: whether each is one of 1 x 1 and a depthwise one.
      gated: whether one layer of 1 x 1 and a gate follow (V1), instead of two layers.
      residual: whether the input is added.
      drop_path: rate at which the branch of an example is dropped, where it is.
    """

    features: int
    inner: int
    count: int = 6
    kernel_size: int = 3
    light: bool = False
    gated: bool = True
    residual: bool = True
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, features]``."""
        maps = [x]
        for i in range(self.count):
            maps.append(self._layer(maps[-1], f"layers_{i}", train))
        y = jnp.concatenate(maps, -1)
        if self.gated:
            y = self.conv(self.features, 1, "aggregation_0")(y, train)
            own = {"kernel_init": HeNormal(), **self.dtypes}
            y = EffectiveSqueezeExcite("sigmoid", name="aggregation_1", **own)(y)
        else:
            y = self.conv(self.features // 2, 1, "aggregation_0")(y, train)
            y = self.conv(self.features, 1, "aggregation_1")(y, train)
        if not self.residual:
            return y
        return x + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)

    def _layer(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        if not self.light:
            return self.conv(self.inner, self.kernel_size, name)(x, train)
        own = {field: getattr(self, field) for field in _PASSED_ON}
        size: dict[str, Any] = {"features": self.inner, "kernel_size": self.kernel_size}
        return LightConv(name=name, **size, **own)(x, train)


class LightConv(HGLayers, kw_only=True):
    """A layer on each pixel, without an activation, and a depthwise convolution.

    Attributes:
      features: the channels of the output.
      kernel_size: of the depthwise convolution.
    """

    features: int
    kernel_size: int = 5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, features]``."""
        x = self.conv(self.features, 1, "conv1", activation=None)(x, train)
        depthwise = self.conv(self.features, self.kernel_size, "conv2", groups=self.features)
        return depthwise(x, train)


class HGNet(Backbone):
    """A PP-HGNet without its classifier: a stem and stages of blocks.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, widths[-1]]``. Its own
    head pools that map, widens it and then classifies.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of the stages.
      inner_widths: the channels of the convolutions inside blocks.
      convolutions: their number in each block.
      kernel_sizes: of these, in each stage.
      light: whether each of them is one of 1 x 1 and a depthwise one, in each stage.
      stem: ``"plain"``, convolutions one after the other, or ``"branched"`` (V2).
      stem_widths: the channels of the stem's convolutions; of a branched one those inside it and of
        its output.
      gated: whether one layer and a gate end blocks (V1), instead of two layers.
      affine: whether two learnt numbers follow each activation.
      head_width: the units of the layer behind the pooling; None for no such layer.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (1, 1, 2, 1)
    widths: Sequence[int] = (256, 512, 768, 1024)
    inner_widths: Sequence[int] = (128, 160, 192, 224)
    convolutions: int = 6
    kernel_sizes: Sequence[int] = (3, 3, 3, 3)
    light: Sequence[bool] = (False, False, False, False)
    stem: str = "plain"
    stem_widths: Sequence[int] = (64, 64, 128)
    gated: bool = True
    affine: bool = False
    head_width: int | None = 2048
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float | None = None
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, with what leads to each."""
        own = {field: getattr(self, field) for field in _PASSED_ON}
        stem: Any = BranchedStem if self.stem == "branched" else PlainStem
        stem = functools.partial(stem, widths=self.stem_widths, **own)
        yield Part("stem", stem, takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for stage, count in enumerate(self.layers):
            if stage:
                down, owns = functools.partial(self._down, stage), (f"stages_{stage}_downsample",)
                yield Part(f"stages_{stage}_blocks_0", down, owns)
            block = functools.partial(
                HGBlock,
                features=self.widths[stage],
                inner=self.inner_widths[stage],
                count=self.convolutions,
                kernel_size=self.kernel_sizes[stage],
                light=self.light[stage],
                gated=self.gated,
                **own,
            )
            for i in range(count):
                yield Part(
                    f"stages_{stage}_blocks_{i}",
                    functools.partial(block, residual=i > 0, drop_path=next(rates)),
                    map=f"stages_{stage}" if i == count - 1 else None,
                    reduction=4 << stage,
                    remat=self.remat,
                )

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        options: dict[str, Any] = {"norm": self.norm, "norm_epsilon": self.norm_epsilon}
        options |= {"name": f"stages_{stage}_downsample", **self.dtypes}
        width = x.shape[-1]
        return HGConv(width, 3, 2, width, **options)(x, train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """A layer between the pooling and the classifier, and two numbers where it is affine."""
        hidden = () if self.head_width is None else (self.head_width,)
        own: dict[str, Any] = {"hidden": hidden, "hidden_bias": False, "hidden_init": HeNormal()}
        own |= {"hidden_norm": ScaleAndShift if self.affine else None}
        return {
            **super().head_options(),
            **own,
            "activation": self.activation,
            "kernel_init": FanIn(),
        }

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        names = ("layers", "widths", "inner_widths", "kernel_sizes")
        for name in names:
            check_widths(name, getattr(self, name))
        check_lengths(**{name: getattr(self, name) for name in (*names, "light")})
        check_size("convolutions", self.convolutions)
        check_choice("stem", self.stem, _STEMS)
        check_widths("stem_widths", self.stem_widths)
        if self.stem == "branched" and (len(self.stem_widths) != 2 or self.stem_widths[0] < 2):
            raise ArgumentError(
                "stem_widths of a branched stem must be the channels inside, 2 or more, and of its "
                f"output, got {tuple(self.stem_widths)}"
            )
        check_size("head_width", self.head_width, optional=True)


REFERENCE = Reference(
    stem=("stem/stem_0/conv", "stem/stem1/conv"),
    classifier="head.fc",
    head=(("dense_0", "head.last_conv.0"), ("norm_0", "head.last_conv.2")),
    renamed=(("aggregation_1/fc", "aggregation.1.conv"),),
    layouts=(("params/head/dense_0/kernel", "pointwise"),),
    leaves=(("*/lab/scale", "scale"), ("*/head/norm_0/scale", "scale")),
)
# timm has no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}
_V2: dict[str, Any] = {
    "stem": "branched",
    "gated": False,
    "kernel_sizes": (3, 3, 5, 5),
    "light": (False, False, True, True),
}

variants(
    HGNet,
    {
        "hgnet_tiny": row(
            "PP-HGNet-Tiny",
            widths=(224, 448, 512, 768),
            inner_widths=(96, 128, 160, 192),
            convolutions=5,
            stem_widths=(48, 48, 96),
        ),
        "hgnet_small": row("PP-HGNet-Small"),
        "hgnet_base": row(
            "PP-HGNet-Base",
            layers=(1, 2, 3, 2),
            widths=(320, 640, 960, 1280),
            inner_widths=(192, 224, 256, 288),
            convolutions=7,
            stem_widths=(96, 96, 160),
        ),
        "hgnetv2_b0": row(
            "PP-HGNet V2-B0",
            widths=(64, 256, 512, 1024),
            inner_widths=(16, 32, 64, 128),
            convolutions=3,
            stem_widths=(16, 16),
            affine=True,
            **_V2,
        ),
        "hgnetv2_b1": row(
            "PP-HGNet V2-B1",
            widths=(64, 256, 512, 1024),
            inner_widths=(32, 48, 96, 192),
            convolutions=3,
            stem_widths=(24, 32),
            affine=True,
            **_V2,
        ),
        "hgnetv2_b2": row(
            "PP-HGNet V2-B2",
            layers=(1, 1, 3, 1),
            widths=(96, 384, 768, 1536),
            inner_widths=(32, 64, 128, 256),
            convolutions=4,
            stem_widths=(24, 32),
            affine=True,
            **_V2,
        ),
        "hgnetv2_b3": row(
            "PP-HGNet V2-B3",
            layers=(1, 1, 3, 1),
            widths=(128, 512, 1024, 2048),
            inner_widths=(32, 64, 128, 256),
            convolutions=5,
            stem_widths=(24, 32),
            affine=True,
            **_V2,
        ),
        "hgnetv2_b4": row(
            "PP-HGNet V2-B4",
            layers=(1, 1, 3, 1),
            widths=(128, 512, 1024, 2048),
            inner_widths=(48, 96, 192, 384),
            stem_widths=(32, 48),
            **_V2,
        ),
        "hgnetv2_b5": row(
            "PP-HGNet V2-B5",
            layers=(1, 2, 5, 2),
            widths=(128, 512, 1024, 2048),
            inner_widths=(64, 128, 256, 512),
            stem_widths=(32, 64),
            **_V2,
        ),
        "hgnetv2_b6": row(
            "PP-HGNet V2-B6",
            layers=(2, 3, 6, 3),
            widths=(192, 512, 1024, 2048),
            inner_widths=(96, 192, 384, 768),
            stem_widths=(48, 96),
            **_V2,
        ),
    },
    paper="https://arxiv.org/abs/2103.05959",
    reference=REFERENCE,
)
