"""Branches of one input that are joined: what Inception's networks are made of.

Szegedy et al. 2014, https://arxiv.org/abs/1409.4842.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import FanIn, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.pool import avg_pool, max_pool, neighbour_mean


class Unit(NamedTuple):
    """A convolution of a branch, with its norm and activation.

    Attributes:
      name: the submodule's.
      features: the output's channels.
      size: the kernel's height and width, or one number for both.
      stride: the distance between windows.
      padding: the zeros around the map, as ``flaxzoo.layers.conv.Conv`` takes them.
    """

    name: str
    features: int
    size: int | tuple[int, int] = 1
    stride: int = 1
    padding: Any = None


# What a branch does, step by step: a convolution, a function such as a pooling, or convolutions
# side by side, whose outputs are joined.
Step: TypeAlias = Unit | Callable[[jax.Array], jax.Array] | tuple[Unit, ...]


class Branches(Layer):
    """Computes branches of one input and joins their channels.

    Attributes:
      branches: each the steps of one: a ``Unit``; a function of maps, such as a pooling; a tuple of
        units that see the same map, and whose outputs are joined.
      width_factor: what the features of all units are multiplied by.
      norm: behind each convolution, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      activation: behind each norm, by name or callable.
      kernel_init: the initialiser of the kernels.
    """

    branches: Sequence[Sequence[Step]]
    width_factor: float = 1.0
    norm: Any = "batch"
    norm_epsilon: float | None = None
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    kernel_init: Any = FanIn()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H', W', C']``."""
        return self.joined(x, train)

    def joined(self, x: jax.Array, train: bool) -> jax.Array:
        """Computes the branches and joins them."""
        outputs = []
        for branch in self.branches:
            y = x
            for step in branch:
                y = self.step(step, y, train)
            outputs.append(y)
        return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)

    def step(self, step: Any, x: jax.Array, train: bool) -> jax.Array:
        """Computes one step of a branch."""
        if isinstance(step, Unit):
            return ConvNorm(
                scaled(step.features, self.width_factor),
                step.size,
                step.stride,
                padding=step.padding,
                norm=self.norm,
                norm_epsilon=self.norm_epsilon,
                activation=self.activation,
                kernel_init=self.kernel_init,
                name=step.name,
                **self.dtypes,
            )(x, train)
        if isinstance(step, tuple):
            return jnp.concatenate([self.step(unit, x, train) for unit in step], axis=-1)
        return step(x)


class ResidualBranches(Branches, kw_only=True):
    """Branches whose joined output is convolved, scaled and added to their input.

    Szegedy et al. 2016 (Inception-ResNet), https://arxiv.org/abs/1602.07261, section 3.3.

    Attributes:
      scale: what is added is multiplied by it.
      active: whether the sum is activated.
    """

    scale: float = 1.0
    active: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        y = self.joined(x, train)
        init = {"kernel_init": self.kernel_init, "bias_init": plain_bias}
        y = Conv(x.shape[-1], 1, use_bias=True, name="conv2d", **init, **self.dtypes)(y)
        y = y * self.scale + x
        return as_activation(self.activation)(y) if self.active else y


def scaled(features: int, factor: float) -> int:
    """Returns a width times a factor, rounded, of at least 1."""
    return max(1, round(features * factor))


def halved(x: jax.Array) -> jax.Array:
    """Takes the maximum over 3 x 3 pixels at stride 2, without padding."""
    return max_pool(x, 3, 2, 0)


def neighbours(x: jax.Array) -> jax.Array:
    """Averages the 3 x 3 neighbours of each pixel that there are."""
    return neighbour_mean(x, 3)


def neighbours_and_zeros(x: jax.Array) -> jax.Array:
    """Averages the 3 x 3 neighbours of each pixel, of which there are zeros beyond the edges."""
    return avg_pool(x, 3, 1, 1)
