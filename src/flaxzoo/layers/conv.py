"""Convolution with PyTorch's padding."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size
from flaxzoo.layers.initializers import HeNormal, zeros
from flaxzoo.layers.lowering.convolution import conv_general_dilated

# Flax's own module, lowered as Conv is.
LinenConv = functools.partial(nn.Conv, conv_general_dilated=conv_general_dilated)


class Conv(nn.Module):
    """Two-dimensional convolution over ``[B, H, W, C]`` with a square kernel.

    Padding is the same number on both sides, as PyTorch's checkpoints expect; ``"SAME"`` of XLA
    pads strided convolutions of even sizes on one side only.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel.
      stride: of the windows, along both axes.
      dilation: distance between the kernel's elements.
      groups: into how many the channels are split.
      padding: zeros on each side; None for ``dilation * (kernel_size - 1) // 2``, which keeps the
        size at stride 1.
      use_bias: whether a bias is added.
      kernel_init: of the kernel ``[kernel_size, kernel_size, C / groups, features]``.
      bias_init: of the bias.
      dtype: of the computation; None keeps the promotion of inputs and parameters.
      param_dtype: of the parameters.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: int | None = None
    use_bias: bool = False
    kernel_init: Any = HeNormal()
    bias_init: Any = zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves ``[B, H, W, C]`` to ``[B, H', W', features]``."""
        check_size("features", self.features)
        size = self.kernel_size
        shape = (size, size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        pad = self.padding
        if pad is None:
            pad = self.dilation * (size - 1) // 2
        x = conv_general_dilated(
            x,
            kernel,
            window_strides=(self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            rhs_dilation=(self.dilation, self.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        return x if bias is None else x + bias
