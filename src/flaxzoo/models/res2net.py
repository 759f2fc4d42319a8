"""Res2Net: ResNets whose 3 x 3 convolutions see each other's results, in several scales.

The channels of a bottleneck are split into ``scale`` groups. Each goes through a convolution of its
own, together with what the group before became, so that one block sees regions of several sizes. In
``res2net50_26w_4s`` there are 4 groups of 26 channels per 64 of the width. Names and numbers are
those of timm's ``res2net`` module.

Reference: https://arxiv.org/abs/1904.01169
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size
from flaxzoo.activations import as_activation
from flaxzoo.layers.pool import avg_pool
from flaxzoo.layers.residual import ResidualBlock
from flaxzoo.models.registry import row, variants
from flaxzoo.models.resnet import REFERENCE, ResNet


class Res2NetBlock(ResidualBlock):
    """A bottleneck whose middle is a chain of 3 x 3 convolutions, each of a share of the channels.

    It has no ``anti_aliasing``, and ``reduce_first`` is 1.

    Attributes:
      scale: how many shares there are; the last one stays as it is, or is averaged where a stage
        begins. There the convolutions don't see each other.
    """

    expansion: ClassVar[int] = 4

    scale: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H / stride, W / stride, 4 * features]``."""
        act = as_activation(self.activation)
        width = self.features * self.base_width // 64 * self.groups
        y = self.conv(width * self.scale, 1, "conv1")(x)
        shares = jnp.split(act(self.normalise(y, "bn1", train)), self.scale, -1)
        begins = self.stride > 1 or self.project
        middle = {"stride": self.stride, "dilation": self.first_dilation, "groups": self.groups}
        maps: list[jax.Array] = []
        for i, share in enumerate(shares[: max(1, self.scale - 1)]):
            y = share if begins or not maps else maps[-1] + share
            y = self.conv(width, 3, f"convs_{i}", **middle)(y)
            maps.append(act(self.normalise(y, f"bns_{i}", train)))
        if self.scale > 1:
            last = shares[-1]
            maps.append(avg_pool(last, 3, self.stride, padding=1) if begins else last)
        y = self.conv(self.features * self.expansion, 1, "conv3")(jnp.concatenate(maps, -1))
        return self.add(x, self.normalise(y, "bn3", train, last=True), train)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name, only in (("anti_aliasing", None), ("reduce_first", 1)):
            if getattr(self, name) != only:
                raise ValueError(
                    f"Res2Net's blocks take {name}={only}, got {getattr(self, name)!r}"
                )


class Res2Net(ResNet):
    """A ``ResNet`` of ``Res2NetBlock``, which ``block="bottleneck"`` stands for.

    Attributes:
      scale: how many shares of the channels the convolutions of a block see one after another.
    """

    blocks: ClassVar[Mapping[str, type[ResidualBlock]]] = {"bottleneck": Res2NetBlock}

    scale: int = 4

    @nn.nowrap
    def block_fields(self) -> dict[str, Any]:
        """The fields that all blocks have from the network as they are."""
        return {**super().block_fields(), "scale": self.scale}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_size("scale", self.scale)
        super().check_fields()


_50, _101 = (3, 4, 6, 3), (3, 4, 23, 3)
_D: dict[str, Any] = {"stem": "deep", "stem_width": 32, "avg_down": True}

variants(
    Res2Net,
    {
        "res2net50_14w_8s": row("Res2Net-50, 8 of 14", layers=_50, base_width=14, scale=8),
        "res2net50_26w_4s": row("Res2Net-50, 4 of 26", layers=_50, base_width=26),
        "res2net50_26w_6s": row("Res2Net-50, 6 of 26", layers=_50, base_width=26, scale=6),
        "res2net50_26w_8s": row("Res2Net-50, 8 of 26", layers=_50, base_width=26, scale=8),
        "res2net50_48w_2s": row("Res2Net-50, 2 of 48", layers=_50, base_width=48, scale=2),
        "res2net50d": row("Res2Net-50-D, 4 of 26", layers=_50, base_width=26, **_D),
        "res2net101_26w_4s": row("Res2Net-101, 4 of 26", layers=_101, base_width=26),
        "res2net101d": row("Res2Net-101-D, 4 of 26", layers=_101, base_width=26, **_D),
        "res2next50": row("Res2NeXt-50, 4 of 8 groups of 4", layers=_50, base_width=4, groups=8),
    },
    paper="https://arxiv.org/abs/1904.01169",
    reference=REFERENCE,
)
