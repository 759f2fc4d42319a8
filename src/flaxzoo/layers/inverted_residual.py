"""The blocks of mobile networks: depthwise convolutions between layers on each pixel.

Submodules are named as timm's. Kernels begin as in TensorFlow's implementations of these networks:
normal, by the fan-out of each group.

References:
  MobileNetV2, inverted residuals: https://arxiv.org/abs/1801.04381
  EfficientNet: https://arxiv.org/abs/1905.11946
  MixNet, kernels of several sizes: https://arxiv.org/abs/1907.09595
  CondConv: https://arxiv.org/abs/1904.04971
  Fused blocks: https://arxiv.org/abs/2003.02838
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv, as_padding
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import GlorotUniform, HeNormal, Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import normalise_and_activate
from flaxzoo.layers.pool import anti_alias


class MobileBlock(Layer):
    """What the blocks have in common: their convolutions, norms, gates and shortcuts.

    Attributes:
      features: the channels of the output.
      hidden: the channels inside.
      kernel_sizes: those of the convolution over the image; several split the channels between
        them (MixConv).
      expand_kernel_sizes: likewise, of the convolution that widens.
      project_kernel_sizes: likewise, of the one that makes the output.
      stride: the distances between windows.
      dilation: the distances between the elements of the kernels over the image.
      group_size: the channels that each of their groups sees; 0 for all.
      squeeze: the width inside the gate; 0 for no gate.
      skip: whether the input is added to an output of its shape.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      padding: of all convolutions (``flaxzoo.layers.conv.Conv``).
      gate: a module that takes ``width``, ``activation``, ``gate_activation``, ``name`` and dtypes,
        and scales channels.
      gate_activation: the function that makes gates.
      squeeze_activation: the function inside the gate; None for that of the block.
      anti_aliasing: ``"avg"``, ``"blur"``, ``"blur_zeros"`` or None: low-pass before pixels are
        dropped (``flaxzoo.layers.pool.anti_alias``).
      drop_path: rate at which the branch of an example is dropped.
    """

    features: int
    hidden: int
    kernel_sizes: Sequence[int] = (3,)
    expand_kernel_sizes: Sequence[int] = (1,)
    project_kernel_sizes: Sequence[int] = (1,)
    stride: int = 1
    dilation: int = 1
    group_size: int = 1
    squeeze: int = 0
    skip: bool = True
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float | None = None
    padding: str | None = None
    gate: Any = SqueezeExcite
    gate_activation: str | Callable[[jax.Array], jax.Array] = "sigmoid"
    squeeze_activation: str | Callable[[jax.Array], jax.Array] | None = None
    anti_aliasing: str | None = None
    drop_path: float = 0.0

    @nn.nowrap
    def conv(
        self, x: jax.Array, features: int, name: str, sizes: Sequence[int] = (1,), **options: Any
    ) -> jax.Array:
        """Convolves ``[B, H, W, C]`` by kernels of these sizes, each of its share of the channels.

        Args:
          x: the maps.
          features: the channels of the output.
          name: of the submodule, behind which each of several has its number.
          sizes: of the kernels.
          **options: of the ``Conv``.
        """
        options = {"padding": self.padding, **self.dtypes, **options}
        groups = options.pop("groups", 1)
        if len(sizes) == 1:
            kernel_init = HeNormal(groups=groups)
            options |= {"groups": groups, "kernel_init": kernel_init, "name": name}
            return Conv(features, sizes[0], **options)(x)
        maps, start = [], 0
        shares = zip(_split(x.shape[-1], len(sizes)), _split(features, len(sizes)), strict=True)
        for i, (size, (inputs, outputs)) in enumerate(zip(sizes, shares, strict=True)):
            share = jax.lax.slice_in_dim(x, start, start + inputs, axis=-1)
            own = inputs if groups > 1 else 1
            options |= {"groups": own, "kernel_init": HeNormal(groups=own), "name": f"{name}_{i}"}
            maps.append(Conv(outputs, size, **options)(share))
            start += inputs
        return jnp.concatenate(maps, -1)

    @nn.nowrap
    def over_image(self, x: jax.Array, features: int, name: str) -> jax.Array:
        """The convolution over the image, strided unless pixels are dropped by a low-pass."""
        groups = features // self.group_size if self.group_size else 1
        stride = 1 if self.anti_aliasing else self.stride
        options: dict[str, Any] = {"stride": stride, "dilation": self.dilation, "groups": groups}
        if any(size % 2 == 0 for size in self.kernel_sizes):
            # The same zeros on both sides would make the map larger.
            options["padding"] = "SAME"
        return self.conv(x, features, name, self.kernel_sizes, **options)

    @nn.nowrap
    def normalise(self, x: jax.Array, name: str, train: bool, active: bool = True) -> jax.Array:
        """The norm ``name``, and the activation behind it."""
        act = as_activation(self.activation) if active else None
        options = {"epsilon": self.norm_epsilon, **self.dtypes}
        return normalise_and_activate(self.norm, name, x, act, train=train, **options)

    @nn.nowrap
    def low_pass(self, x: jax.Array) -> jax.Array:
        """Drops pixels behind a low-pass, where there is one."""
        if self.anti_aliasing is None or self.stride == 1:
            return x
        return anti_alias(x, self.anti_aliasing, self.stride)

    @nn.nowrap
    def gated(self, x: jax.Array) -> jax.Array:
        """Scales the channels by the gate ``se``, where there is one."""
        if not self.squeeze:
            return x
        options = {
            "activation": self.squeeze_activation or self.activation,
            "gate_activation": self.gate_activation,
            "name": "se",
            **self.dtypes,
        }
        return self.gate(width=self.squeeze, **options)(x)

    @nn.nowrap
    def add(self, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
        """Adds the branch to the input, where they have one shape."""
        if not self.skip or self.stride > 1 or x.shape[-1] != self.features:
            return y
        drop = DropPath(self.drop_path, name="drop_path")
        return x + drop(y, deterministic=not train)


def _split(channels: int, parts: int) -> list[int]:
    """Shares of the channels as equal as can be, the first the larger one."""
    share = channels // parts
    return [channels - share * (parts - 1), *[share] * (parts - 1)]


class ConvBlock(MobileBlock):
    """One convolution ``conv`` and its norm: no channels inside, and no gate."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        y = self.over_image(x, self.features, "conv")
        y = self.low_pass(self.normalise(y, "bn1", train))
        return self.add(x, y, train)


class SeparableBlock(MobileBlock):
    """A depthwise convolution and a layer on each pixel (MobileNet).

    ``hidden`` are the channels of its input, four times as many where pixels are stacked.

    Attributes:
      stacked: whether 2 x 2 pixels become one of four times the channels first, by the convolution
        ``conv_s2d`` (EfficientNet-X, https://arxiv.org/abs/2102.05610).
      last_activation: whether the activation follows the last norm as well.
    """

    stacked: bool = False
    last_activation: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        y = x
        if self.stacked:
            y = self.conv(y, self.hidden, "conv_s2d", (2,), stride=2, padding="SAME")
            y = self.normalise(y, "bn_s2d", train)
        y = self.normalise(self.over_image(y, self.hidden, "conv_dw"), "bn1", train)
        y = self.gated(y if self.stacked else self.low_pass(y))
        y = self.conv(y, self.features, "conv_pw", self.project_kernel_sizes)
        y = self.normalise(y, "bn2", train, self.last_activation)
        return self.add(x, y, train)


class InvertedResidual(MobileBlock):
    """Widens, convolves each channel, and narrows again (MobileNetV2, "MBConv").

    Attributes:
      experts: the number of kernels that ``CondConv`` mixes; 0 for plain convolutions.
    """

    experts: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        if self.experts:
            return self._by_experts(x, train)
        y = self.conv(x, self.hidden, "conv_pw", self.expand_kernel_sizes)
        y = self.normalise(y, "bn1", train)
        y = self.normalise(self.over_image(y, self.hidden, "conv_dw"), "bn2", train)
        y = self.gated(self.low_pass(y))
        y = self.conv(y, self.features, "conv_pwl", self.project_kernel_sizes)
        return self.add(x, self.normalise(y, "bn3", train, active=False), train)

    @nn.nowrap
    def _by_experts(self, x: jax.Array, train: bool) -> jax.Array:
        # Of variance 1 / 3 (fan-in + fan-out), as timm's.
        init = GlorotUniform((1 / 6) ** 0.5)
        route = Dense(self.experts, kernel_init=init, name="routing_fn", **self.dtypes)
        shares = nn.sigmoid(route(x.mean((1, 2))))
        options = {"experts": self.experts, "padding": self.padding, **self.dtypes}
        y = CondConv(self.hidden, name="conv_pw", **options)(x, shares)
        y = self.normalise(y, "bn1", train)
        middle: dict[str, Any] = {"stride": self.stride, "dilation": self.dilation}
        middle["groups"] = self.hidden
        size = self.kernel_sizes[0]
        y = CondConv(self.hidden, size, name="conv_dw", **middle, **options)(y, shares)
        y = self.gated(self.normalise(y, "bn2", train))
        y = CondConv(self.features, name="conv_pwl", **options)(y, shares)
        return self.add(x, self.normalise(y, "bn3", train, active=False), train)


class FusedResidual(MobileBlock):
    """One convolution that widens, and a layer that narrows again ("FusedMBConv")."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        y = self.over_image(x, self.hidden, "conv_exp")
        y = self.gated(self.low_pass(self.normalise(y, "bn1", train)))
        y = self.conv(y, self.features, "conv_pwl", self.project_kernel_sizes)
        return self.add(x, self.normalise(y, "bn2", train, active=False), train)


class CondConv(Layer):
    """A convolution whose kernel is another for each image: a sum of several kernels.

    Yang et al. 2019, https://arxiv.org/abs/1904.04971.

    Attributes:
      features: the channels of the output.
      kernel_size: the kernel's height and width.
      experts: the number of kernels.
      stride: the distances between windows.
      dilation: the distances between the kernel's elements.
      groups: the number of groups that the channels are split into.
      padding: the zeros around the image (``flaxzoo.layers.conv.Conv``).
    """

    features: int
    kernel_size: int = 1
    experts: int = 4
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    padding: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, shares: jax.Array) -> jax.Array:
        """Convolves images ``[B, H, W, C]``, each by its own kernel.

        Args:
          x: the images.
          shares: how much of each kernel an image gets, ``[B, experts]``.

        Returns:
          ``[B, H', W', features]``.
        """
        size = (self.kernel_size, self.kernel_size)
        # Flat, and in the order of PyTorch's kernels, as the reference's checkpoints keep them.
        shape = (self.features, x.shape[-1] // self.groups, *size)
        fan_out = self.features // self.groups * size[0] * size[1]
        init = Normal(math.sqrt(2 / fan_out))
        flat = (self.experts, math.prod(shape))
        experts = self.param("experts", init, flat, self.param_dtype)
        x, shares, experts = nn.dtypes.promote_dtype(x, shares, experts, dtype=self.dtype)
        kernels = (shares @ experts).reshape(-1, *shape).transpose(0, 3, 4, 2, 1)

        def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
            return jax.lax.conv_general_dilated(
                image[None],
                kernel,
                (self.stride, self.stride),
                as_padding(self.padding, size, (self.dilation, self.dilation)),
                rhs_dilation=(self.dilation, self.dilation),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.groups,
            )[0]

        return jax.vmap(convolve)(x, kernels)
