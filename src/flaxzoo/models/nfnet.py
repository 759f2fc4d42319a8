"""Networks without norms: NFNet, ECA-NFNet, NF-RegNet and NF-ResNet.

Kernels are standardised instead, activations scaled so that they keep a variance of 1, and what a
block adds is weighed by how much the variance has grown. ``dm_nfnet`` are DeepMind's, whose weights
they take: scales stand behind activations, not in kernels, and blocks begin as their shortcuts.
Names and numbers are those of timm's ``nfnet`` module.

References:
  NF-ResNet, NF-RegNet: https://arxiv.org/abs/2101.08692
  NFNet: https://arxiv.org/abs/2102.06171
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import as_choice, check_choice, check_lists, check_number, check_size
from flaxzoo.activations import as_activation
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import EfficientChannelAttention, SqueezeExcite
from flaxzoo.layers.initializers import FanIn, HeNormal, Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.pool import max_pool, shortcut_pool
from flaxzoo.layers.resnet_v2 import StdConv
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.mobile_backbone import round_width
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What an activation's output of normal numbers is multiplied by to have a variance of 1, from
# https://github.com/google-deepmind/deepmind-research/tree/master/nfnets
GAMMAS = {
    "celu": 1.270926833152771,
    "elu": 1.2716004848480225,
    "gelu": 1.7015043497085571,
    "leaky_relu": 1.70590341091156,
    "log_sigmoid": 1.9193484783172607,
    "log_softmax": 1.0002083778381348,
    "relu": 1.7139588594436646,
    "relu6": 1.7131484746932983,
    "selu": 1.0008515119552612,
    "sigmoid": 4.803835391998291,
    "silu": 1.7881293296813965,
    "softplus": 1.9203323125839233,
    "softsign": 2.338853120803833,
    "tanh": 1.5939117670059204,
}
_GATES = ("se", "eca")
# Of each stem its convolutions, each with its name, what divides the last one's channels, the
# kernel's size and the stride; and whether a maximum follows.
_STEMS: dict[str, tuple[tuple[tuple[str, int, int, int], ...], bool]] = {
    "conv3": ((("stem_conv", 1, 3, 2),), False),
    "conv7": ((("stem_conv", 1, 7, 2),), True),
    "quad": (
        (
            ("stem_conv1", 8, 3, 2),
            ("stem_conv2", 4, 3, 1),
            ("stem_conv3", 2, 3, 1),
            ("stem_conv4", 1, 3, 2),
        ),
        False,
    ),
}
_FIRST = ("stem_conv", "stem_conv1")
# What blocks get from the network as it is.
_PASSED_ON = (
    *("activation", "scaled_activations", "padding", "epsilon", "alpha", "group_size"),
    *("widen_input", "extra_conv", "skip_init", "gate", "gate_ratio", "dtype", "param_dtype"),
)


class ScaledStdConv(StdConv):
    """A ``StdConv`` whose outputs have the variance of its inputs, times learnt gains.

    Brock et al. 2021, https://arxiv.org/abs/2101.08692, section 4.1. The parameter ``gain`` is of
    the shape ``[1, 1, 1, features]``: of as many axes as the reference's, which decays it.

    Attributes:
      gamma: a number that the kernels are multiplied by, besides.
      gain_init: the initialiser of the gains.
    """

    use_bias: bool = True
    kernel_init: Any = HeNormal("fan_in", scale=1.0)
    epsilon: float = 1e-5
    gamma: float = 1.0
    gain_init: Any = ones

    @nn.nowrap
    def prepare(self, kernel: jax.Array) -> jax.Array:
        """Standardises ``[height, width, C, features]`` for each feature, and scales."""
        gain = self.param("gain", self.gain_init, (1, 1, 1, self.features), self.param_dtype)
        scale = self.gamma / math.sqrt(math.prod(kernel.shape[:-1]))
        return super().prepare(kernel) * (gain * scale)


class NFLayers(Layer):
    """What modules without norms share: convolutions and activations that keep the variance.

    Attributes:
      activation: by a name of ``GAMMAS``.
      scaled_activations: whether activations are scaled, rather than the kernels behind them.
      padding: of convolutions (``flaxzoo.layers.conv.Conv``).
      epsilon: a small number that is added to the variances of kernels.
    """

    activation: str = "silu"
    scaled_activations: bool = False
    padding: str | None = None
    epsilon: float = 1e-5

    def conv(self, x: jax.Array, features: int, size: int, name: str, **options: Any) -> jax.Array:
        """Convolves by standardised kernels."""
        return standardised_conv(self, features, size, name, **options)(x)

    @nn.nowrap
    def activate(self, x: jax.Array) -> jax.Array:
        """Applies the activation, and the scale that keeps the variance."""
        return activated(self, x)


def standardised_conv(
    owner: NFLayers | NFNet, features: int, size: int, name: str, **options: Any
) -> ScaledStdConv:
    """Makes a convolution as its owner's fields say."""
    gamma = 1.0 if owner.scaled_activations else GAMMAS[owner.activation]
    own: dict[str, Any] = {"padding": owner.padding, "epsilon": owner.epsilon, "gamma": gamma}
    return ScaledStdConv(features, size, name=name, **own, **options, **owner.dtypes)


def activated(owner: NFLayers | NFNet, x: jax.Array) -> jax.Array:
    """Applies the activation of its owner, and the scale that keeps the variance if it has one."""
    x = as_activation(owner.activation)(x)
    return x * GAMMAS[owner.activation] if owner.scaled_activations else x


class Shortcut(NFLayers, kw_only=True):
    """A 1 x 1 convolution ``conv``, behind a mean of 2 x 2 pixels in place of a stride.

    Attributes:
      features: the channels of the output.
      stride: by how much maps shrink.
      dilation: of the stage.
    """

    features: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        if self.stride > 1 or self.dilation > 1:
            x = shortcut_pool(x, self.stride if self.dilation == 1 else 1)
        return self.conv(x, self.features, 1, "conv")


class NFBlock(NFLayers, kw_only=True):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 with an activation before each, and a weighed sum.

    Attributes:
      features: the channels of the output.
      ratio: the channels of the convolutions inside, as a multiple of ``features``.
      stride: by how much maps shrink.
      dilation: of the stage.
      first_dilation: of the 3 x 3 convolution that may have the stride.
      beta: what the input is divided by to have a variance of 1: its inverse is expected.
      alpha: what the branch is multiplied by.
      group_size: the channels of each group of the 3 x 3 convolutions; None for one group.
      widen_input: whether ``ratio`` is of the channels of the input instead, and the gate stands
        before the last convolution (RegNet).
      extra_conv: whether there are two convolutions of 3 x 3.
      skip_init: whether the branch is multiplied by a learnt number that begins at zero, rather
        than by gains of its last convolution that do.
      gate: ``"se"``, ``"eca"`` or None.
      gate_ratio: the width inside a squeeze-and-excitation, as a part of its channels.
      drop_path: rate at which the branch of an example is dropped.
    """

    features: int
    ratio: float = 0.25
    stride: int = 1
    dilation: int = 1
    first_dilation: int = 1
    beta: float = 1.0
    alpha: float = 0.2
    group_size: int | None = None
    widen_input: bool = False
    extra_conv: bool = False
    skip_init: bool = False
    gate: str | None = None
    gate_ratio: float = 0.5
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        y = self.activate(x) * self.beta
        shortcut = self.shortcut(y) if self.projects(x) else x
        y = DropPath(self.drop_path, name="drop_path")(self.branch(y), deterministic=not train)
        if self.skip_init:
            gain = self.param("skipinit_gain", zeros, (), self.param_dtype)
            y = y * gain.astype(y.dtype)
        return y * self.alpha + shortcut

    def branch(self, x: jax.Array) -> jax.Array:
        """What is added to the shortcut, of the activated input."""
        middle, groups = self.inside(x.shape[-1])
        x = self.activate(self.conv(x, middle, 1, "conv1"))
        options = {"stride": self.stride, "dilation": self.first_dilation, "groups": groups}
        x = self.conv(x, middle, 3, "conv2", **options)
        if self.extra_conv:
            options = {"dilation": self.dilation, "groups": groups}
            x = self.conv(self.activate(x), middle, 3, "conv2b", **options)
        if self.widen_input:
            x = self.gated(x, "attn")
        init = ones if self.skip_init else zeros
        x = self.conv(self.activate(x), self.features, 1, "conv3", gain_init=init)
        return x if self.widen_input else self.gated(x, "attn_last")

    def shortcut(self, x: jax.Array) -> jax.Array:
        """What the branch is added to, where shapes change."""
        fields = ("activation", "scaled_activations", "padding", "epsilon", "stride", "dilation")
        own = {name: getattr(self, name) for name in fields}
        return Shortcut(features=self.features, name="downsample", **own, **self.dtypes)(x)

    @nn.nowrap
    def projects(self, x: jax.Array) -> bool:
        """Whether the shortcut has a convolution."""
        changes = self.stride > 1 or self.dilation != self.first_dilation
        return changes or x.shape[-1] != self.features

    def gated(self, x: jax.Array, name: str) -> jax.Array:
        """Scales the channels by the gate, whose mean of a half is made up for."""
        if self.gate is None:
            return x
        if self.gate == "eca":
            gate = EfficientChannelAttention(kernel_init=FanIn(), name=name, **self.dtypes)
            return 2 * gate(x)
        own = {"kernel_init": HeNormal("fan_in", scale=1.0), "name": name, **self.dtypes}
        return 2 * SqueezeExcite(self.gate_ratio, **own)(x)

    @nn.nowrap
    def inside(self, channels: int) -> tuple[int, int]:
        """The channels inside, and the groups of the 3 x 3 convolutions."""
        middle = round_width((channels if self.widen_input else self.features) * self.ratio)
        if not self.group_size:
            return middle, 1
        groups = middle // self.group_size
        return (self.group_size * groups if self.group_size % 8 == 0 else middle), groups


class NFNet(Backbone):
    """A network without norms, and without its classifier: a stem and stages of blocks.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, C]``. The first feature
    map is that of the stem's last convolution of half the image's size, the last one that behind
    ``final_conv``, all before their activations.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of the stages.
      width_factor: what all channels are multiplied by, to multiples of 8.
      stem: ``"quad"``, four convolutions of 3 x 3; ``"conv3"``, one; ``"conv7"``, one of 7 x 7, and
        the maximum of 3 x 3 pixels.
      stem_width: the channels of the stem; None for those of the first stage.
      ratio: the channels inside blocks, as a multiple of those of their output.
      group_size: the channels of each group of the 3 x 3 convolutions; None for one group.
      widen_input: whether ``ratio`` is of the channels of a block's input instead, and gates stand
        before the last convolutions (RegNet).
      extra_conv: whether blocks have two convolutions of 3 x 3.
      skip_init: whether branches begin at zero by a learnt number of their own.
      alpha: what branches are multiplied by.
      gate: ``"se"``, ``"eca"`` or None.
      gate_ratio: the width inside squeeze-and-excitation, as a part of its channels.
      head_width: the channels of the convolution behind the last stage, which ``width_factor``
        multiplies; None for no convolution.
      activation: by a name of ``GAMMAS``.
      scaled_activations: whether activations are scaled, rather than the kernels behind them.
      padding: of convolutions: None for the same zeros on both sides, ``"SAME"`` as TensorFlow's.
      epsilon: a small number that is added to the variances of kernels.
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later stages
        are dilated instead of strided, so that pretrained weights fit all three.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    # Activations of these networks have gains of their own.
    unusual = ("activation",)

    layers: Sequence[int] = (1, 2, 6, 3)
    widths: Sequence[int] = (256, 512, 1536, 1536)
    width_factor: float = 1.0
    stem: str = "quad"
    stem_width: int | None = 128
    ratio: float = 0.5
    group_size: int | None = 128
    widen_input: bool = False
    extra_conv: bool = True
    skip_init: bool = False
    alpha: float = 0.2
    gate: str | None = "se"
    gate_ratio: float = 0.5
    head_width: int | None = 3072
    activation: str = "gelu"
    scaled_activations: bool = False
    padding: str | None = None
    epsilon: float = 1e-5
    output_stride: int = 32
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, the blocks ``stages_0_0`` and so on, the last convolution and activation."""
        convs, pools = _STEMS[self.stem]
        # The first feature map is that before maps become smaller for a second time.
        taken = max(1, len(convs) - 1)
        for ours, ends in ((convs[:taken], "stem"), (convs[taken:], None)):
            if ours:
                owns = tuple(name for name, *_ in ours)
                stem = functools.partial(self._stem, ours)
                yield Part("stem", stem, owns, takes="images", map=ends, reduction=2)
        if pools:
            yield Part("stem", self._pool, ())
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        own = {name: getattr(self, name) for name in _PASSED_ON}
        reduction, dilation, variance = 2 if self.stem == "conv3" else 4, 1, 1.0
        for i, (count, width) in enumerate(zip(self.layers, self.widths, strict=True)):
            stride = 1 if i == 0 and reduction > 2 else 2
            if reduction >= self.output_stride and stride > 1:
                dilation, stride = dilation * stride, 1
            reduction *= stride
            first = 1 if dilation <= 2 else 2
            ends = None if i == len(self.layers) - 1 and self.head_width else f"stages_{i}"
            for j in range(count):
                run = functools.partial(
                    NFBlock,
                    features=self._width(width),
                    ratio=1.0 if self.widen_input and i == j == 0 else self.ratio,
                    stride=1 if j else stride,
                    dilation=dilation,
                    first_dilation=dilation if j else first,
                    beta=variance**-0.5,
                    drop_path=next(rates),
                    **own,
                )
                # The first block of a stage normalises what its shortcut sees as well.
                variance = (variance if j else 1.0) + self.alpha**2
                complete = ends if j == count - 1 else None
                name = f"stages_{i}_{j}"
                yield Part(name, run, map=complete, reduction=reduction, remat=self.remat)
        if self.head_width is not None:
            owns = ("final_conv",)
            yield Part("final_conv", self._last, owns, "final_conv", reduction, depth=name)
        yield Part("final_act", self._activated, (), depth=name)

    def _stem(self, convs: Any, x: jax.Array, _train: bool) -> jax.Array:
        last = self._width(self.stem_width or self.widths[0])
        for name, share, size, stride in convs:
            x = x if name in _FIRST else activated(self, x)
            x = standardised_conv(self, last // share, size, name, stride=stride)(x)
        return x

    def _pool(self, x: jax.Array, _train: bool) -> jax.Array:
        return max_pool(x)

    def _last(self, x: jax.Array, _train: bool) -> jax.Array:
        return standardised_conv(self, self._width(self.head_width or 0), 1, "final_conv")(x)

    def _activated(self, x: jax.Array, _train: bool) -> jax.Array:
        return activated(self, x)

    @nn.nowrap
    def _width(self, channels: int) -> int:
        return round_width(channels, self.width_factor)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), "kernel_init": Normal(0.01)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths")
        check_choice("stem", self.stem, tuple(_STEMS))
        for name in ("stem_width", "group_size", "head_width"):
            check_size(name, getattr(self, name), optional=True)
        for name in ("width_factor", "ratio", "alpha", "gate_ratio", "epsilon"):
            check_number(name, getattr(self, name), above=0)
        as_choice("gate", self.gate, _GATES)
        as_choice("padding", self.padding, ("SAME",))
        check_choice("activation", self.activation, tuple(GAMMAS))


REFERENCE = Reference(
    stem=("stem_conv1", "stem_conv"),
    classifier="head.fc",
    renamed=((r"stem_(conv\d?)", r"stem.\1"),),
    layouts=(("*/gain", "kernel"),),
    # Gains as large as kernels' numbers would make what blocks add, and its rounding, grow.
    scales=(("*.gain", 0.5), ("*.conv3.gain", 0.5)),
)
# timm takes a name's numbers of blocks as a keyword, under another name.
CUT = {"layers": "depths"}
_DM: dict[str, Any] = {"skip_init": True, "scaled_activations": True, "padding": "SAME"}
_L: dict[str, Any] = {"ratio": 0.25, "group_size": 64, "gate_ratio": 0.25, "activation": "silu"}
_ECA: dict[str, Any] = {"ratio": 0.25, "group_size": 64, "gate": "eca", "activation": "silu"}
_REGNET: dict[str, Any] = {
    "width_factor": 0.75,
    "stem": "conv3",
    "stem_width": None,
    "ratio": 2.25,
    "group_size": 8,
    "widen_input": True,
    "extra_conv": False,
    "activation": "silu",
}
_RESNET: dict[str, Any] = {
    "widths": (256, 512, 1024, 2048),
    "stem": "conv7",
    "stem_width": 64,
    "ratio": 0.25,
    "group_size": None,
    "extra_conv": False,
    "head_width": None,
    "activation": "relu",
}
_26, _50, _101 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)
_NONE: dict[str, Any] = {"gate": None, **_RESNET}
_SE: dict[str, Any] = {"gate": "se", "gate_ratio": 1 / 16, **_RESNET}
_EC: dict[str, Any] = {"gate": "eca", **_RESNET}

variants(
    NFNet,
    {
        "dm_nfnet_f0": row("NFNet-F0 (DeepMind's)", **_DM),
        "dm_nfnet_f1": row("NFNet-F1 (DeepMind's)", layers=(2, 4, 12, 6), **_DM),
        "dm_nfnet_f2": row("NFNet-F2 (DeepMind's)", layers=(3, 6, 18, 9), **_DM),
        "dm_nfnet_f3": row("NFNet-F3 (DeepMind's)", layers=(4, 8, 24, 12), **_DM),
        "dm_nfnet_f4": row("NFNet-F4 (DeepMind's)", layers=(5, 10, 30, 15), **_DM),
        "dm_nfnet_f5": row("NFNet-F5 (DeepMind's)", layers=(6, 12, 36, 18), **_DM),
        "dm_nfnet_f6": row("NFNet-F6 (DeepMind's)", layers=(7, 14, 42, 21), **_DM),
        "nfnet_f0": row("NFNet-F0"),
        "nfnet_f1": row("NFNet-F1", layers=(2, 4, 12, 6)),
        "nfnet_f2": row("NFNet-F2", layers=(3, 6, 18, 9)),
        "nfnet_f3": row("NFNet-F3", layers=(4, 8, 24, 12)),
        "nfnet_f4": row("NFNet-F4", layers=(5, 10, 30, 15)),
        "nfnet_f5": row("NFNet-F5", layers=(6, 12, 36, 18)),
        "nfnet_f6": row("NFNet-F6", layers=(7, 14, 42, 21)),
        "nfnet_f7": row("NFNet-F7", layers=(8, 16, 48, 24)),
        "nfnet_l0": row("NFNet-L0", head_width=2304, **_L),
        "eca_nfnet_l0": row("ECA-NFNet-L0", head_width=2304, **_ECA),
        "eca_nfnet_l1": row("ECA-NFNet-L1", layers=(2, 4, 12, 6), **_ECA),
        "eca_nfnet_l2": row("ECA-NFNet-L2", layers=(3, 6, 18, 9), **_ECA),
        "eca_nfnet_l3": row("ECA-NFNet-L3", layers=(4, 8, 24, 12), **_ECA),
        "test_nfnet": row(
            "NFNet, a tiny one for tests",
            layers=(1, 1, 1, 1),
            widths=(32, 64, 96, 128),
            head_width=192,
            **{**_L, "group_size": 8},
        ),
    },
    paper="https://arxiv.org/abs/2102.06171",
    reference=REFERENCE,
)
variants(
    NFNet,
    {
        "nf_regnet_b0": row(
            "NF-RegNet-B0",
            layers=(1, 3, 6, 6),
            widths=(48, 104, 208, 440),
            head_width=1280,
            **_REGNET,
        ),
        "nf_regnet_b1": row(
            "NF-RegNet-B1",
            layers=(2, 4, 7, 7),
            widths=(48, 104, 208, 440),
            head_width=1280,
            **_REGNET,
        ),
        "nf_regnet_b2": row(
            "NF-RegNet-B2",
            layers=(2, 4, 8, 8),
            widths=(56, 112, 232, 488),
            head_width=1419,
            **_REGNET,
        ),
        "nf_regnet_b3": row(
            "NF-RegNet-B3",
            layers=(2, 5, 9, 9),
            widths=(56, 128, 248, 528),
            head_width=1536,
            **_REGNET,
        ),
        "nf_regnet_b4": row(
            "NF-RegNet-B4",
            layers=(2, 6, 11, 11),
            widths=(64, 144, 288, 616),
            head_width=1792,
            **_REGNET,
        ),
        "nf_regnet_b5": row(
            "NF-RegNet-B5",
            layers=(3, 7, 14, 14),
            widths=(80, 168, 336, 704),
            head_width=2048,
            **_REGNET,
        ),
        "nf_resnet26": row("NF-ResNet-26", layers=_26, **_NONE),
        "nf_resnet50": row("NF-ResNet-50", layers=_50, **_NONE),
        "nf_resnet101": row("NF-ResNet-101", layers=_101, **_NONE),
        "nf_seresnet26": row("NF-SE-ResNet-26", layers=_26, **_SE),
        "nf_seresnet50": row("NF-SE-ResNet-50", layers=_50, **_SE),
        "nf_seresnet101": row("NF-SE-ResNet-101", layers=_101, **_SE),
        "nf_ecaresnet26": row("NF-ECA-ResNet-26", layers=_26, **_EC),
        "nf_ecaresnet50": row("NF-ECA-ResNet-50", layers=_50, **_EC),
        "nf_ecaresnet101": row("NF-ECA-ResNet-101", layers=_101, **_EC),
    },
    paper="https://arxiv.org/abs/2101.08692",
    reference=REFERENCE,
)
