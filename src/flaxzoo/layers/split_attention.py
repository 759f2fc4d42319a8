"""Split attention: a convolution whose branches weigh each other."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.gates import divisible
from flaxzoo.layers.norm import as_norm, call_norm


class SplitAttention(nn.Module):
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
      dtype: the dtype of the computation; None promotes inputs and parameters.
      param_dtype: the dtype of the parameters.
    """

    features: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    radix: int = 2
    activation: Any = "relu"
    norm: Any = "batch"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        act = as_activation(self.activation)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        width = self.features * self.radix
        hidden = divisible(x.shape[-1] * self.radix / 4, minimum=32)
        conv = Conv(
            width,
            3,
            stride=self.stride,
            dilation=self.dilation,
            groups=self.groups * self.radix,
            name="conv",
            **dtypes,
        )
        x = act(call_norm(as_norm(self.norm)(name="bn0", **dtypes), conv(x), train=train))
        branches = x.reshape(*x.shape[:-1], self.radix, self.features)
        gate = branches.sum(-2).mean((1, 2), keepdims=True)
        gate = Conv(hidden, 1, groups=self.groups, use_bias=True, name="fc1", **dtypes)(gate)
        gate = act(call_norm(as_norm(self.norm)(name="bn1", **dtypes), gate, train=train))
        gate = Conv(width, 1, groups=self.groups, use_bias=True, name="fc2", **dtypes)(gate)
        if self.radix == 1:
            return x * nn.sigmoid(gate)
        # The gates come ordered by group, then branch; the branches by branch, then group.
        gate = gate.reshape(gate.shape[0], self.groups, self.radix, -1)
        gate = nn.softmax(gate, axis=2).swapaxes(1, 2)
        gate = gate.reshape(gate.shape[0], 1, 1, self.radix, self.features)
        return (branches * gate).sum(-2)
