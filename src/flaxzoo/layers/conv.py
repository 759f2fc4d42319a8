"""Convolution with PyTorch's padding, or XLA's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_kernel, check_size, is_size
from flaxzoo.layers.channels import per_channel
from flaxzoo.layers.initializers import HeNormal, bias_initializer, zeros
from flaxzoo.layers.lowering.convolution import conv_general_dilated

Pair = tuple[int, int]


class Conv(nn.Module):
    """Two-dimensional convolution over ``[..., H, W, C]``.

    By default the padding is the same number on both sides, as PyTorch's checkpoints expect;
    ``"SAME"`` of XLA pads strided convolutions of even sizes on one side only.

    Attributes:
      features: the output's channels.
      kernel_size: the kernel's height and width, or one number for both.
      stride: the distances between windows, along height and width, or one number for both.
      dilation: the distances between the kernel's elements, likewise.
      groups: the number of groups that the channels are split into.
      padding: the zeros around the image: None for ``dilation * (kernel_size - 1) // 2`` on each
        side, which keeps the size at stride 1; one number for all sides; a pair, one number for
        above and below and one for left and right; two pairs, before and after along each axis;
        ``"SAME"`` or ``"VALID"`` as in XLA.
      use_bias: whether a bias is added.
      kernel_init: the initialiser of the kernel ``[height, width, C / groups, features]``.
      bias_init: the initialiser of the bias.
      dtype: the dtype of the computation; None promotes inputs and parameters.
      param_dtype: the dtype of the parameters.
    """

    features: int
    kernel_size: int | Sequence[int] = 3
    stride: int | Sequence[int] = 1
    dilation: int | Sequence[int] = 1
    groups: int = 1
    padding: int | str | Sequence[Any] | None = None
    use_bias: bool = False
    kernel_init: Any = HeNormal()
    bias_init: Any = zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves ``[..., H, W, C]`` to ``[..., H', W', features]``.

        Raises:
          ValueError: a field holds what it does not take.
        """
        check_size("features", self.features)
        size = as_pair("kernel_size", self.kernel_size)
        dilation = as_pair("dilation", self.dilation)
        shape = (*size, x.shape[-1] // self.groups, self.features)
        kernel = self.prepare(self.param("kernel", self.kernel_init, shape, self.param_dtype))
        bias = None
        if self.use_bias:
            init = bias_initializer(self.bias_init, shape)
            bias = self.param("bias", init, (self.features,), self.param_dtype)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        images = x if x.ndim == 4 else x.reshape(-1, *x.shape[-3:])
        y = conv_general_dilated(
            images,
            kernel,
            window_strides=as_pair("stride", self.stride),
            padding=as_padding(self.padding, size, dilation),
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )
        y = y if x.ndim == 4 else y.reshape(*x.shape[:-3], *y.shape[1:])
        return y if bias is None else y + per_channel(bias, y)

    @nn.nowrap
    def prepare(self, kernel: jax.Array) -> jax.Array:
        """Returns the kernel that is convolved with, for layers that do not take it as it is."""
        return kernel


def as_pair(name: str, value: Any) -> Pair:
    """Returns a number for height and one for width.

    Args:
      name: the field's name, for the message.
      value: an int of at least 1, or a pair of them.

    Raises:
      ValueError: it is neither.
    """
    check_kernel(name, value)
    height, width = (value, value) if is_size(value) else value
    return int(height), int(width)


def as_padding(value: Any, size: Pair, dilation: Pair = (1, 1)) -> str | tuple[Pair, Pair]:
    """Returns XLA's padding for what ``Conv.padding`` takes.

    Args:
      value: the field's value.
      size: the kernel's height and width.
      dilation: the distances between the kernel's elements.

    Raises:
      ValueError: it is none of what the field takes.
    """
    if value is None:
        sides: Any = tuple(d * (n - 1) // 2 for n, d in zip(size, dilation, strict=True))
    else:
        sides = (value, value) if is_size(value, 0) else value
    if isinstance(sides, str) and sides in ("SAME", "VALID"):
        return sides
    if _is_pair(sides):
        pairs = [(side, side) if is_size(side, 0) else side for side in sides]
        if all(_is_pair(pair) and all(is_size(n, 0) for n in pair) for pair in pairs):
            (top, bottom), (left, right) = pairs
            return (top, bottom), (left, right)
    raise ValueError(
        "padding must be None, an int of at least 0, a pair of them, two pairs, 'SAME' or 'VALID', "
        f"got {value!r}"
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2
