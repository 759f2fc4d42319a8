"""PP-LCNet V2: depthwise convolutions of several sizes side by side, which are one in inference.

Made for CPUs: gates, shortcuts and narrow layers stand in one late stage each, where they cost
little time. Names and numbers are those of timm's ``lcnetv2`` module. PP-LCNet itself is part of
``flaxzoo.models.mobilenetv3``.

References:
  PP-LCNetV2: https://github.com/PaddlePaddle/PaddleClas/blob/release/2.6/docs/en/models/PP-LCNetV2_en.md
  Knowledge distillation of its weights: https://arxiv.org/abs/2103.05959
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import FanIn, HeNormal
from flaxzoo.layers.reparameterized import Affine, Reparameterized, Variables, of_submodule
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What blocks get from the network as it is.
_PASSED_ON = ("activation", "norm", "fused", "dtype", "param_dtype")
# What the blocks of each stage have.
_STAGES: tuple[Mapping[str, Any], ...] = (
    {},
    {},
    {"kernel_size": 5, "branched": True, "gated": True, "narrow": True},
    {"kernel_size": 5, "branched": True, "skip": True},
)


class SeparableBlock(Reparameterized):
    """A depthwise convolution, perhaps of several sizes and with a gate, and a layer on each pixel.

    Parameters are named as timm's ``RepDepthwiseSeparable``: ``dw_conv``, or ``dw_conv_list_0`` and
    so on for branches, ``se`` and ``pw_conv``, or ``pw_conv_0`` and ``pw_conv_1``. In the form of
    inference the branches are the convolution ``dw_conv``.

    Attributes:
      features: the channels of the output.
      kernel_size: of the largest depthwise convolution.
      stride: by how much maps shrink.
      branched: whether depthwise convolutions of all smaller odd sizes are added to it; that of
        1 x 1 only at stride 1.
      gated: whether a gate of a quarter of the channels follows.
      narrow: whether the layer on each pixel is two, of half the channels between them.
      skip: whether the input is added to an output of its shape.
      activation: behind each layer, by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      fused: whether the branches are one convolution.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    branched: bool = False
    gated: bool = False
    narrow: bool = False
    skip: bool = False
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    fused: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        channels, act = x.shape[-1], self.activation
        own: dict[str, Any] = {"norm": self.norm, "kernel_init": HeNormal(), **self.dtypes}
        conv: Callable[..., ConvNorm] = functools.partial(ConvNorm, **own)
        depthwise: dict[str, Any] = {"stride": self.stride, "groups": channels}
        if not self.branched:
            y = conv(channels, self.kernel_size, activation=act, name="dw_conv", **depthwise)(
                x, train
            )
        elif self.fused:
            options = {**depthwise, **self.dtypes, "use_bias": True, "kernel_init": HeNormal()}
            y = Conv(channels, self.kernel_size, name="dw_conv", **options)(x)
            y = as_activation(act)(y)
        else:
            branches = (
                conv(channels, size, name=f"dw_conv_list_{i}", **depthwise)(x, train)
                for i, size in enumerate(self.sizes())
            )
            y = as_activation(act)(functools.reduce(jnp.add, branches))
        if self.gated:
            y = SqueezeExcite(width=channels // 4, activation=act, name="se", **self.dtypes)(y)
        if self.narrow:
            y = conv(self.features // 2, activation=act, name="pw_conv_0")(y, train)
        last = "pw_conv_1" if self.narrow else "pw_conv"
        y = conv(self.features, activation=act, name=last)(y, train)
        return x + y if self.skip and x.shape == y.shape else y

    @nn.nowrap
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the depthwise convolutions, the largest first."""
        smallest = 1 if self.stride == 1 else 3
        return tuple(range(self.kernel_size, smallest - 1, -2))

    @nn.nowrap
    def folded(self, variables: Variables) -> Variables:
        """Returns the variables with the branches as one ``dw_conv``."""
        if not self.branched:
            return variables
        branches = []
        for i in range(len(self.sizes())):
            inner = of_submodule(variables, f"dw_conv_list_{i}")
            branches.append(Affine.of(inner, "conv").normalised(inner, "bn", self.norm))
        whole = functools.reduce(Affine.__add__, branches).variables(self.param_dtype)
        kept = {
            kind: {name: leaf for name, leaf in leaves.items() if not name.startswith("dw_conv")}
            for kind, leaves in variables.items()
        }
        return {**kept, "params": {**kept["params"], "dw_conv": whole}}


class LCNetV2(Backbone):
    """A PP-LCNet V2 without its classifier: a stem and four stages of blocks.

    It maps images ``[B, H, W, C]`` of any size to the last map ``[B, H / 32, W / 32, 32 * width]``,
    rounded up. Its own head pools that map, widens it and then classifies.

    Attributes:
      layers: the number of blocks of each of the four stages.
      width: the channels of the first convolution; a block behind it doubles them, and so does each
        stage.
      head_width: the units of the layer behind the pooling; None for no such layer.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
      fused: whether the branches of depthwise convolutions are one, the form of inference
        (``flaxzoo.Model.reparameterize``).
    """

    layers: Sequence[int] = (2, 2, 6, 2)
    width: int = 32
    head_width: int | None = 1280
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    remat: bool | str = False
    fused: bool = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_0``, ``stages_0_1`` and so on."""
        yield Part("stem", self._stem, ("stem_0", "stem_1"), takes="images")
        for i, (count, own) in enumerate(zip(self.layers, _STAGES, strict=True)):
            for j in range(count):
                fields = {**own, **self._passed_on(), "stride": 1 if j else 2}
                yield Part(
                    f"stages_{i}_{j}",
                    functools.partial(SeparableBlock, self.width * 4 << i, **fields),
                    map=f"stages_{i}" if j == count - 1 else None,
                    reduction=4 << i,
                    remat=self.remat,
                )

    @nn.nowrap
    def _passed_on(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _PASSED_ON}

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        options: dict[str, Any] = {"norm": self.norm, "activation": self.activation, **self.dtypes}
        options |= {"kernel_init": HeNormal(), "name": "stem_0"}
        x = ConvNorm(self.width, 3, 2, **options)(x, train)
        return SeparableBlock(2 * self.width, name="stem_1", **self._passed_on())(x, train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """A layer without a bias between the pooling and the classifier."""
        options = {**super().head_options(), "kernel_init": FanIn()}
        if self.head_width is None:
            return options
        hidden = {"hidden": (self.head_width,), "hidden_bias": False, "hidden_init": HeNormal()}
        return {**options, **hidden, "activation": self.activation}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("layers", self.layers)
        if len(self.layers) != len(_STAGES):
            raise ArgumentError(f"layers must be of the four stages, got {self.layers!r}")
        check_size("width", self.width)
        check_size("head_width", self.head_width, optional=True)


variants(
    LCNetV2,
    {
        "lcnetv2_small": row("PP-LCNet V2 Small", width=24, layers=(2, 2, 4, 2)),
        "lcnetv2_base": row("PP-LCNet V2 Base"),
        "lcnetv2_large": row("PP-LCNet V2 Large", width=40, layers=(2, 2, 8, 2)),
    },
    # There is no paper of it.
    paper="https://github.com/PaddlePaddle/PaddleClas/blob/release/2.6/docs/en/models/"
    "PP-LCNetV2_en.md",
    reference=Reference(
        stem=("stem_0/conv",),
        classifier="classifier",
        head=(("dense_0", "conv_head"),),
        layouts=(("params/head/dense_0/kernel", "pointwise"),),
        fused=("*.dw_conv.weight",),
    ),
)
