"""A convolution, or a dense layer, and the norm behind it: one module of many networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import FanIn, ones, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import normalise_and_activate


class ConvNorm(Layer):
    """Computes ``activation(norm(conv(x)))``.

    Attributes:
      features: the output's channels.
      kernel_size: the kernel's height and width, or one number for both.
      stride: the distances between windows, likewise.
      groups: the number of groups that the channels are split into.
      padding: the zeros around the image (``flaxzoo.layers.conv.Conv``).
      use_bias: whether the convolution has a bias.
      as_dense: whether the layer is dense, over the last axis of whatever it gets, with the kernel
        of one.
      norm: by name or module (``flaxzoo.layers.norm``); None for none.
      norm_epsilon: the norm's epsilon; None for its own.
      activation: behind the norm, by name or callable, unless that activates by itself; None for
        none, not even that of a norm such as ``flaxzoo.layers.norm.EvoNormS0``.
      names: those of the two submodules.
      kernel_init: the initialiser of the kernel, by default that of PyTorch's layers.
      bias_init: that of the bias, likewise.
      scale_init: that of the norm's scale.
      dilation: the distances between the kernel's elements.
    """

    features: int
    kernel_size: int | Sequence[int] = 1
    stride: int = 1
    groups: int = 1
    padding: int | str | Sequence[Any] | None = None
    use_bias: bool = False
    as_dense: bool = False
    norm: Any = "batch"
    norm_epsilon: float | None = None
    activation: str | Callable[[jax.Array], jax.Array] | None = None
    names: tuple[str, str] = ("conv", "bn")
    kernel_init: Any = FanIn()
    bias_init: Any = plain_bias
    scale_init: Any = ones
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]``, or ``[..., C]`` where the layer is dense, to as many axes.

        Args:
          x: maps or tokens.
          train: whether a BatchNorm uses the batch's statistics.
        """
        inits = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        options = {"use_bias": self.use_bias, **inits, **self.dtypes}
        first, second = self.names
        if self.as_dense:
            x = Dense(self.features, name=first, **options)(x)
        else:
            size = (self.features, self.kernel_size, self.stride)
            options |= {"groups": self.groups, "padding": self.padding, "dilation": self.dilation}
            x = Conv(*size, name=first, **options)(x)
        act = None if self.activation is None else as_activation(self.activation)
        if self.norm is None:
            return x if act is None else act(x)
        options = {"epsilon": self.norm_epsilon, "scale_init": self.scale_init, **self.dtypes}
        return normalise_and_activate(self.norm, second, x, act, train=train, **options)
