"""ResNeSt: ResNet-D with split attention in its blocks, and its fast forms.

Zhang et al. 2020, https://arxiv.org/abs/2004.08955; names and numbers are those of timm's
``resnest`` module. In ``resnest50d_4s2x40d`` there are 4 splits (the radix), 2 groups and 40
channels per 64 of the width.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.gates import divisible
from flaxzoo.layers.initializers import plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import as_norm, call_norm
from flaxzoo.layers.pool import avg_pool
from flaxzoo.layers.residual import ResidualBlock
from flaxzoo.models.registry import row, variants
from flaxzoo.models.resnet import REFERENCE, ResNet


class SplitAttention(Layer):
    """A 3 x 3 convolution into ``radix`` branches, summed with weights computed from all of them.

    Zhang et al. 2020, https://arxiv.org/abs/2004.08955. Parameters are named as timm's
    ``SplitAttn``: ``conv``, ``bn0``, ``fc1``, ``bn1``, ``fc2``.

    Attributes:
      features: the channels of the output.
      stride: the stride of the convolution.
      dilation: the dilation of the convolution.
      groups: the number of groups that attend separately (the cardinality).
      radix: the number of branches; with one, the output is gated instead.
      activation: the activation function, by name or callable.
      norm: the normalisation, by name or module (``flaxzoo.layers.norm``).
    """

    features: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    radix: int = 2
    activation: Any = "relu"
    norm: Any = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        act = as_activation(self.activation)
        width = self.features * self.radix
        hidden = divisible(x.shape[-1] * self.radix / 4, minimum=32)
        conv = Conv(
            width,
            3,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups * self.radix,
            name="conv",
            **self.dtypes,
        )
        x = act(call_norm(as_norm(self.norm)(name="bn0", **self.dtypes), conv(x), train=train))
        branches = x.reshape(*x.shape[:-1], self.radix, self.features)
        gate = branches.sum(-2).mean((1, 2), keepdims=True)
        options = {"groups": self.groups, "use_bias": True, "bias_init": plain_bias, **self.dtypes}
        gate = Conv(hidden, 1, name="fc1", **options)(gate)
        gate = act(call_norm(as_norm(self.norm)(name="bn1", **self.dtypes), gate, train=train))
        gate = Conv(width, 1, name="fc2", **options)(gate)
        if self.radix == 1:
            return x * nn.sigmoid(gate)
        # The gates come ordered by group, then branch; the branches by branch, then group.
        gate = gate.reshape(gate.shape[0], self.groups, self.radix, -1)
        wide = gate.astype(jnp.promote_types(gate.dtype, jnp.float32))
        gate = nn.softmax(wide, axis=2).astype(gate.dtype).swapaxes(1, 2)
        gate = gate.reshape(gate.shape[0], 1, 1, self.radix, self.features)
        return (branches * gate).sum(-2)


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
            **self.dtypes,
        )(y, train)
        if self.stride > 1 and not self.pool_first:
            y = avg_pool(y, 3, self.stride, padding=1)
        y = self.conv(self.features * self.expansion, 1, "conv3")(y)
        y = self.normalise(y, "bn3", train, last=True)
        return self.add(x, y, train)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("gate", "anti_aliasing"):
            if getattr(self, name) is not None:
                raise ValueError(f"ResNeSt's blocks take no {name}, got {getattr(self, name)!r}")


class FastResNeStBlock(ResNeStBlock):
    """The block of the fast forms: one or more splits, pooled before the attention."""

    pool_first: bool = True


class OneSplitResNeStBlock(FastResNeStBlock):
    """The fast block with a single split, whose output is gated."""

    radix: int = 1


class FourSplitResNeStBlock(FastResNeStBlock):
    """The fast block with four splits."""

    radix: int = 4


# timm's letters: the width of the deep stem.
_D: dict[str, Any] = {"stem": "deep", "stem_width": 32, "avg_down": True}
_E: dict[str, Any] = {"stem": "deep", "stem_width": 64, "avg_down": True}

variants(
    ResNet,
    {
        "resnest14d": row("ResNeSt-14", block=ResNeStBlock, layers=(1, 1, 1, 1), **_D),
        "resnest26d": row("ResNeSt-26", block=ResNeStBlock, layers=(2, 2, 2, 2), **_D),
        "resnest50d": row("ResNeSt-50", block=ResNeStBlock, layers=(3, 4, 6, 3), **_D),
        "resnest50d_1s4x24d": row(
            "ResNeSt-50 fast, 1 split, 4 groups of 24",
            block=OneSplitResNeStBlock,
            layers=(3, 4, 6, 3),
            groups=4,
            base_width=24,
            **_D,
        ),
        "resnest50d_4s2x40d": row(
            "ResNeSt-50 fast, 4 splits, 2 groups of 40",
            block=FourSplitResNeStBlock,
            layers=(3, 4, 6, 3),
            groups=2,
            base_width=40,
            **_D,
        ),
        "resnest101e": row("ResNeSt-101", block=ResNeStBlock, layers=(3, 4, 23, 3), **_E),
        "resnest200e": row("ResNeSt-200", block=ResNeStBlock, layers=(3, 24, 36, 3), **_E),
        "resnest269e": row("ResNeSt-269", block=ResNeStBlock, layers=(3, 30, 48, 8), **_E),
    },
    paper="https://arxiv.org/abs/2004.08955",
    reference=REFERENCE,
    renamed={"attention": "gate"},
)
