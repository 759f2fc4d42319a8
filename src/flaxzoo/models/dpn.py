"""DPN: dual path networks, a ResNeXt and a DenseNet that share their convolutions.

The first channels of each map are a sum over the blocks so far, as a ResNet's; the others are those
that each block appended, as a DenseNet's. Names and numbers are those of timm's ``dpn`` module.

The number is the depth. ``dpn48b``, ``dpn68`` and ``dpn68b`` are a quarter as wide; ``b`` computes
what is added and what is appended by two convolutions.

References:
  DPN: https://arxiv.org/abs/1707.01629
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import PLAIN, FanIn
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import normalise_and_activate
from flaxzoo.layers.pool import max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# Where timm's class takes the number of blocks.
CUT = {"layers": "k_sec"}
# What a block gets from the network as it is.
_PASSED_ON = ("groups", "separate", "norm", "norm_epsilon", "dtype", "param_dtype")


class NormConv(Layer):
    """Computes ``conv(relu(bn(x)))``.

    Attributes:
      features: the output's channels; None for no convolution behind the activation.
      kernel_size: the kernel's height and width.
      stride: the distances between windows.
      groups: the number of groups that the channels are split into.
      norm: by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      activation: by name or callable, unless the norm activates by itself.
    """

    features: int | None
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1
    norm: Any = "batch"
    norm_epsilon: float | None = 1e-3
    activation: str | Callable[[jax.Array], jax.Array] = "relu"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        options = {"epsilon": self.norm_epsilon, **self.dtypes}
        act = as_activation(self.activation)
        x = normalise_and_activate(self.norm, "bn", x, act, train=train, **options)
        if self.features is None:
            return x
        size = (self.features, self.kernel_size, self.stride)
        options = {"groups": self.groups, "kernel_init": FanIn(), **self.dtypes}
        return Conv(*size, name="conv", **options)(x)


class DualPathBlock(Layer):
    """1 x 1, 3 x 3 and 1 x 1 convolutions: some channels are added to the map, others appended.

    Chen et al. 2017, https://arxiv.org/abs/1707.01629, figure 2e.

    Attributes:
      features: the channels that are added, the first ones of the map.
      growth: those that are appended.
      width: those of the convolutions between.
      stride: by which the block reduces the image.
      project: whether the block is a stage's first, where a convolution makes ``features`` channels
        of the map and the first ``2 * growth`` appended ones.
      groups: of the 3 x 3 convolution.
      separate: whether two convolutions make what is added and what is appended.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
    """

    features: int
    growth: int
    width: int
    stride: int = 1
    project: bool = False
    groups: int = 32
    separate: bool = False
    norm: Any = "batch"
    norm_epsilon: float | None = 1e-3

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, C + growth]``, rounded up.

        A block that projects returns ``features + 3 * growth`` channels.
        """
        kept, features = x, self.features
        if self.project:
            # timm's names, by the stride.
            name = f"c1x1_w_s{self.stride}"
            kept = self.conv(features + 2 * self.growth, name, stride=self.stride)(x, train)
        x = self.conv(self.width, "c1x1_a")(x, train)
        options = {"kernel_size": 3, "stride": self.stride, "groups": self.groups}
        x = self.conv(self.width, "c3x3_b", **options)(x, train)
        if self.separate:
            x = self.conv(None, "c1x1_c")(x, train)
            plain = {"kernel_init": FanIn(), **self.dtypes}
            added = Conv(features, 1, name="c1x1_c1", **plain)(x)
            appended = Conv(self.growth, 1, name="c1x1_c2", **plain)(x)
        else:
            x = self.conv(features + self.growth, "c1x1_c")(x, train)
            added, appended = x[..., :features], x[..., features:]
        return jnp.concatenate([kept[..., :features] + added, kept[..., features:], appended], -1)

    @nn.nowrap
    def conv(self, features: int | None, name: str, **options: Any) -> NormConv:
        """Makes a convolution behind a norm and an activation."""
        options |= {"norm": self.norm, "norm_epsilon": self.norm_epsilon, "name": name}
        return NormConv(features, **self.dtypes, **options)


class DPN(Backbone):
    """A dual path network without its classifier: a stem, four stages of blocks, a last norm.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, C']``, whose channels are
    ``widths[-1]`` and what the last stage's blocks appended.

    Attributes:
      layers: number of blocks of each stage.
      growths: channels that each block of a stage appends; a stage begins with two times as many.
      widths: channels of each stage that are sums over its blocks.
      block_width: channels inside the first stage's blocks; each stage has twice those of the one
        before.
      groups: of the 3 x 3 convolutions.
      separate: whether two convolutions make what is added and what is appended.
      stem_width: channels of the first convolution.
      stem_kernel_size: its kernel's size.
      activation: of the stem and of the last norm, by name or callable; blocks have ReLU.
      norm: by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: the norms' epsilon; None for their own.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 4, 20, 3)
    growths: Sequence[int] = (16, 32, 24, 128)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    block_width: int = 96
    groups: int = 32
    separate: bool = False
    stem_width: int = 64
    stem_kernel_size: int = 7
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float | None = 1e-3
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem and its pooling, blocks ``features_conv2_1`` and so on, and the last norm."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in _PASSED_ON}
        own = {name: getattr(self, name) for name in ("norm", "norm_epsilon", "activation")}
        stem = functools.partial(
            ConvNorm, self.stem_width, self.stem_kernel_size, 2, **own, **self.dtypes
        )
        yield Part("features_conv1_1", stem, takes="images", map="stem", reduction=2)
        yield Part("features_conv1_1", _pool, owns=())
        stages = zip(self.layers, self.widths, self.growths, strict=True)
        for i, (count, features, growth) in enumerate(stages):
            for j in range(1, count + 1):
                build = functools.partial(
                    DualPathBlock,
                    features,
                    growth,
                    self.block_width * 2**i,
                    stride=2 if i and j == 1 else 1,
                    project=j == 1,
                    **fields,
                )
                name, complete = f"features_conv{i + 2}_{j}", f"conv{i + 2}" if j == count else None
                reduction = 4 * 2**i
                yield Part(name, build, map=complete, reduction=reduction, remat=self.remat)
        last = functools.partial(NormConv, None, **own, **self.dtypes)
        yield Part("features_conv5_bn_ac", last, depth=name)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("layers", "growths", "widths"):
            check_widths(name, getattr(self, name))
        check_lengths(layers=self.layers, growths=self.growths, widths=self.widths)
        for name in ("block_width", "groups", "stem_width", "stem_kernel_size"):
            check_size(name, getattr(self, name))
        if self.block_width % self.groups:
            raise ArgumentError(
                f"block_width must be a multiple of groups={self.groups}, got {self.block_width}"
            )


def _pool(x: jax.Array, train: bool) -> jax.Array:
    del train
    return max_pool(x)


_SMALL: dict[str, Any] = {
    "widths": (64, 128, 256, 512),
    "growths": (16, 32, 32, 64),
    "block_width": 128,
    "stem_width": 10,
    "stem_kernel_size": 3,
}
_WIDER = (16, 32, 32, 128)

variants(
    DPN,
    {
        "dpn48b": row("DPN-48b", layers=(3, 4, 6, 3), separate=True, activation="silu", **_SMALL),
        "dpn68": row("DPN-68", layers=(3, 4, 12, 3), **_SMALL),
        "dpn68b": row("DPN-68b", layers=(3, 4, 12, 3), separate=True, **_SMALL),
        "dpn92": row("DPN-92", layers=(3, 4, 20, 3)),
        "dpn98": row(
            "DPN-98",
            layers=(3, 6, 20, 3),
            growths=_WIDER,
            block_width=160,
            groups=40,
            stem_width=96,
        ),
        "dpn131": row(
            "DPN-131",
            layers=(4, 8, 28, 3),
            growths=_WIDER,
            block_width=160,
            groups=40,
            stem_width=128,
        ),
        "dpn107": row(
            "DPN-107",
            layers=(4, 8, 20, 3),
            growths=(20, 64, 64, 128),
            block_width=200,
            groups=50,
            stem_width=128,
        ),
    },
    paper="https://arxiv.org/abs/1707.01629",
    reference=Reference(
        stem=("features_conv1_1/conv",),
        classifier="classifier",
        renamed=((r"features_(conv\d_\w+)", r"features.\1"),),
        layouts=(("params/head/fc/kernel", "pointwise"),),
    ),
)
