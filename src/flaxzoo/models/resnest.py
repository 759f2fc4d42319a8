"""ResNeSt: ResNet-D with split attention in its blocks, and its fast forms.

Zhang et al. 2020, https://arxiv.org/abs/2004.08955; names and numbers are those of timm's
``resnest`` module. In ``resnest50d_4s2x40d`` there are 4 splits (the radix), 2 groups and 40
channels per 64 of the width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax

from flaxzoo.activations import as_activation
from flaxzoo.layers.pool import avg_pool
from flaxzoo.layers.residual import ResidualBlock
from flaxzoo.layers.split_attention import SplitAttention
from flaxzoo.models.resnet import add_variant


class ResNeStBlock(ResidualBlock):
    """A bottleneck with split attention, and an average pooling that takes over its stride.

    It has neither ``gate`` nor ``anti_aliasing`` besides its own.

    Attributes:
      radix: branches of the split attention.
      pool_first: whether the pooling comes before the split attention (the fast forms).
    """

    expansion: ClassVar[int] = 4

    radix: int = 2
    pool_first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H / stride, W / stride, 4 * features]``."""
        for name in ("gate", "anti_aliasing"):
            if getattr(self, name) is not None:
                raise ValueError(f"ResNeSt's blocks take no {name}, got {getattr(self, name)!r}")
        act = as_activation(self.activation)
        width = self.features * self.base_width // 64 * self.groups
        y = self.conv(width, 1, "conv1")(x)
        y = act(self.normalise(y, "bn1", train))
        if self.stride > 1 and self.pool_first:
            y = avg_pool(y, 3, self.stride, padding=1)
        y = SplitAttention(
            width,
            dilation=self.first_dilation,
            groups=self.groups,
            radix=self.radix,
            activation=self.activation,
            norm=self.norm,
            name="conv2",
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )(y, train)
        if self.stride > 1 and not self.pool_first:
            y = avg_pool(y, 3, self.stride, padding=1)
        y = self.conv(self.features * self.expansion, 1, "conv3")(y)
        y = self.normalise(y, "bn3", train, last=True)
        return self.add(x, y, train)


class FastResNeStBlock(ResNeStBlock):
    """The block of the fast forms: one or more splits, pooled before the attention."""

    pool_first: bool = True


class OneSplitResNeStBlock(FastResNeStBlock):
    """The fast block with a single split, whose output is gated."""

    radix: int = 1


class FourSplitResNeStBlock(FastResNeStBlock):
    """The fast block with four splits."""

    radix: int = 4


def _add(name: str, title: str, layers: tuple[int, ...], width: int, **fields: Any) -> None:
    fields = {"block": ResNeStBlock, "stem": "deep", "stem_width": width, "avg_down": True} | fields
    add_variant(name, title, "2004.08955", layers=layers, **fields)


_ONE: dict[str, Any] = {"block": OneSplitResNeStBlock, "groups": 4, "base_width": 24}
_FOUR: dict[str, Any] = {"block": FourSplitResNeStBlock, "groups": 2, "base_width": 40}
_add("resnest14d", "ResNeSt-14", (1, 1, 1, 1), 32)
_add("resnest26d", "ResNeSt-26", (2, 2, 2, 2), 32)
_add("resnest50d", "ResNeSt-50", (3, 4, 6, 3), 32)
_add("resnest50d_1s4x24d", "ResNeSt-50 fast, 1 split, 4 groups of 24", (3, 4, 6, 3), 32, **_ONE)
_add("resnest50d_4s2x40d", "ResNeSt-50 fast, 4 splits, 2 groups of 40", (3, 4, 6, 3), 32, **_FOUR)
_add("resnest101e", "ResNeSt-101", (3, 4, 23, 3), 64)
_add("resnest200e", "ResNeSt-200", (3, 24, 36, 3), 64)
_add("resnest269e", "ResNeSt-269", (3, 30, 48, 8), 64)
