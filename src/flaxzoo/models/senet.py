"""SENet in its first form: squeeze-and-excitation at the end of each block, as Caffe's weights.

They are the networks of the paper's authors, ported by way of Cadene's package: strides are where
Caffe had them, and the stem's pooling rounds up. The later form is ``resnet``'s, by names without
``legacy_``. Names and numbers are those of timm's ``senet`` module.

References:
  SE, SENet: https://arxiv.org/abs/1709.01507
  The authors' weights: https://github.com/hujie-frank/SENet
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax

from flaxzoo.activations import as_activation
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import plain_bias
from flaxzoo.layers.pool import max_pool
from flaxzoo.layers.residual import ResidualBlock
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants
from flaxzoo.models.resnet import Bottleneck, ResNet, check_basic

# Their weights' files.
_FILE = (
    "its weights are a file of timm's on GitHub, not on the Hub: pretrained= takes its path, once "
    "it is downloaded"
)
LEFT_OUT = {
    f"legacy_{name}.in1k": _FILE
    for name in (
        "senet154",
        *("seresnet18", "seresnet34", "seresnet50", "seresnet101", "seresnet152"),
        *("seresnext26_32x4d", "seresnext50_32x4d", "seresnext101_32x4d"),
    )
}
# One object: partials of equal arguments are different keys to jit.
SIXTEENTH = functools.partial(SqueezeExcite, rounding=1, bias_init=plain_bias)


class ActivatedBasicBlock(ResidualBlock):
    """Two 3 x 3 convolutions; the branch is activated before its gate."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        act = as_activation(self.activation)
        first = {"stride": self.stride, "dilation": self.first_dilation}
        y = self.conv(self.features // self.reduce_first, 3, "conv1", **first)(x)
        y = act(self.normalise(y, "bn1", train))
        y = self.conv(self.features, 3, "conv2", dilation=self.dilation)(y)
        y = act(self.normalise(y, "bn2", train, last=True))
        return self.add(x, y, train)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        _check_anti_aliasing(self)
        check_basic(self)


class EarlyStrideBottleneck(ResidualBlock):
    """1 x 1, 3 x 3 and 1 x 1 convolutions; the stride is in the first (ResNet's own)."""

    expansion: ClassVar[int] = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H / stride, W / stride, 4 * features]``."""
        act = as_activation(self.activation)
        width = self.features * self.base_width // 64 * self.groups
        y = self.conv(width // self.reduce_first, 1, "conv1", stride=self.stride)(x)
        y = act(self.normalise(y, "bn1", train))
        y = self.conv(width, 3, "conv2", dilation=self.first_dilation, groups=self.groups)(y)
        y = act(self.normalise(y, "bn2", train))
        y = self.conv(self.features * self.expansion, 1, "conv3")(y)
        return self.add(x, self.normalise(y, "bn3", train, last=True), train)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        _check_anti_aliasing(self)


def _check_anti_aliasing(block: ResidualBlock) -> None:
    if block.anti_aliasing is not None:
        raise ValueError(
            f"{type(block).__name__} takes no anti_aliasing, got {block.anti_aliasing!r}; the "
            "names without legacy_ do"
        )


class SENet(ResNet):
    """A ``ResNet`` of these blocks, whose stem's pooling rounds the map's size up.

    ``block`` is ``"basic"``, ``"early_stride"``, or ``"bottleneck"``, which is a ``ResNet``'s.
    """

    blocks: ClassVar[Mapping[str, type[ResidualBlock]]] = {
        "basic": ActivatedBasicBlock,
        "early_stride": EarlyStrideBottleneck,
        "bottleneck": Bottleneck,
    }

    gate: Any = SIXTEENTH
    zero_init_residual: bool = False

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        if self.stem_pool != "max" or self.anti_aliasing is not None:
            return super()._pool(x, train)
        return max_pool(x, padding=0, ceil=True)


def _reference(*pairs: tuple[str, str]) -> Reference:
    """How timm names the stem's submodules, and what blocks have in common."""
    blocks = (
        (r"(layer\d)_(\d+)/se", r"\1.\2.se_module"),
        # A block's first convolution is called as the stem's.
        (r"(layer\d)_(\d+)/((conv|bn)\d)", r"\1.\2.\3"),
    )
    return Reference(stem=pairs[0][:1], classifier="last_linear", renamed=(*blocks, *pairs))


_REFERENCE = _reference(("conv1", "layer0.conv1"), ("bn1", "layer0.bn1"))
_DEEP = _reference(
    ("conv1_0", "layer0.conv1"),
    ("conv1_1", "layer0.bn1"),
    ("conv1_3", "layer0.conv2"),
    ("conv1_4", "layer0.bn2"),
    ("conv1_6", "layer0.conv3"),
    ("bn1", "layer0.bn3"),
)
_32X4D: dict[str, Any] = {"groups": 32, "base_width": 4}
_add = functools.partial(variants, SENet, paper="https://arxiv.org/abs/1709.01507")

_add(
    {
        "legacy_seresnet18": row(
            "SE-ResNet-18 in its first form", block="basic", layers=(2, 2, 2, 2)
        ),
        "legacy_seresnet34": row(
            "SE-ResNet-34 in its first form", block="basic", layers=(3, 4, 6, 3)
        ),
        "legacy_seresnet50": row(
            "SE-ResNet-50 in its first form", block="early_stride", layers=(3, 4, 6, 3)
        ),
        "legacy_seresnet101": row(
            "SE-ResNet-101 in its first form", block="early_stride", layers=(3, 4, 23, 3)
        ),
        "legacy_seresnet152": row(
            "SE-ResNet-152 in its first form", block="early_stride", layers=(3, 8, 36, 3)
        ),
        "legacy_seresnext26_32x4d": row(
            "SE-ResNeXt-26 in its first form, 32 groups of 4", layers=(2, 2, 2, 2), **_32X4D
        ),
        "legacy_seresnext50_32x4d": row(
            "SE-ResNeXt-50 in its first form, 32 groups of 4", layers=(3, 4, 6, 3), **_32X4D
        ),
        "legacy_seresnext101_32x4d": row(
            "SE-ResNeXt-101 in its first form, 32 groups of 4", layers=(3, 4, 23, 3), **_32X4D
        ),
    },
    reference=_REFERENCE,
)
_add(
    {
        "legacy_senet154": row(
            "SENet-154 in its first form",
            layers=(3, 8, 36, 3),
            stem="deep",
            stem_width=64,
            groups=64,
            base_width=4,
            reduce_first=2,
            down_kernel_size=3,
        ),
    },
    reference=_DEEP,
)
