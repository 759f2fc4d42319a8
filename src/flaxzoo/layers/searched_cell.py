"""Cells that a search found: what they are made of, and how one is computed from its recipe.

Zoph et al. 2018 (NASNet), https://arxiv.org/abs/1707.07012, figure 4, and Liu et al. 2018
(PNASNet), https://arxiv.org/abs/1712.00559, figure 1. A cell sees the maps of the two before it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import FanIn
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.pool import avg_pool_same, max_pool_same

PREVIOUS, CURRENT = "previous", "current"
# An operation, and what it is applied to: a map by name, or the sum of that number.
Step = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a cell computes its output.

    Attributes:
      sums: pairs of steps, whose results are added: ``("sep5", "current")`` is a separable
        convolution of 5 x 5 of the current map, ``"max"`` and ``"avg"`` are pools of 3 x 3,
        ``"skip"`` is the map itself; ``("avg", "0")`` is of the first sum.
      outputs: what is joined.
    """

    sums: tuple[tuple[Step, Step], ...]
    outputs: tuple[str, ...]


class CellLayers(Layer):
    """What cells and their layers share: their fields.

    Attributes:
      width: channels of each branch.
      stride: by which the map is reduced.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      activation: by name or callable.
    """

    width: int
    stride: int = 1
    norm: Any = "batch"
    norm_epsilon: float | None = None
    activation: Any = "relu"

    @property
    def shared(self) -> dict[str, Any]:
        """The fields that layers have as well, but for the stride."""
        own = ("width", "norm", "norm_epsilon", "activation", "dtype", "param_dtype")
        return {name: getattr(self, name) for name in own}

    def conv(self, x: jax.Array, features: int, size: int, name: str, **options: Any) -> jax.Array:
        """Convolves, with the padding of TensorFlow."""
        options |= {"padding": "SAME", "kernel_init": FanIn(), **self.dtypes}
        return Conv(features, size, name=name, **options)(x)

    def normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Normalises the last axis."""
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    def activate(self, x: jax.Array) -> jax.Array:
        """Applies the activation."""
        return as_activation(self.activation)(x)


class ActConvNorm(CellLayers):
    """An activation, a 1 x 1 convolution ``conv`` and a norm ``bn``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, width]``, rounded up."""
        x = self.conv(self.activate(x), self.width, 1, "conv", stride=self.stride)
        return self.normalise(x, "bn", train)


class SeparableBranch(CellLayers):
    """Twice an activation, a depthwise convolution, one of each pixel, and a norm.

    Parameters are named as timm's ``BranchSeparables``.

    Attributes:
      kernel_size: of the depthwise convolutions, of which the first has the stride.
    """

    kernel_size: int = 3

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, width]``, rounded up."""
        for i, stride in ((1, self.stride), (2, 1)):
            channels = x.shape[-1]
            options = {"stride": stride, "groups": channels}
            name = f"separable_{i}"
            x = self.activate(x)
            x = self.conv(x, channels, self.kernel_size, f"{name}_depthwise_conv2d", **options)
            x = self.conv(x, self.width, 1, f"{name}_pointwise_conv2d")
            x = self.normalise(x, f"bn_sep_{i}", train)
        return x


class HalfSize(CellLayers):
    """Two convolutions of every other pixel, of the even ones and of the odd ones, and a norm.

    Parameters are named as timm's ``FactorizedReduction``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, width]``, rounded up."""
        x = self.activate(x)
        shifted = jnp.pad(x[:, 1:, 1:], ((0, 0), (0, 1), (0, 1), (0, 0)))
        half = self.width // 2
        paths = [
            self.conv(pixels[:, ::2, ::2], half, 1, f"path_{i}_conv")
            for i, pixels in ((1, x), (2, shifted))
        ]
        return self.normalise(jnp.concatenate(paths, axis=-1), "final_path_bn", train)


class SearchedCell(CellLayers):
    """Sums of two operations each, joined side by side.

    Attributes:
      recipe: which operations.
      previous: what is done to the previous map first: ``"conv"`` gives it the cell's channels,
        ``"halve"`` halves it, too, where the map before it was reduced; None where the cell is
        the first, and gets one map.
      keeps_previous: whether the next cell gets the same previous map, rather than this one's
        current map.
    """

    recipe: Recipe = Recipe((), (CURRENT,))
    previous: str | None = "conv"
    keeps_previous: bool = False

    @nn.compact
    def __call__(self, maps: Any, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Computes the next map of two, and returns that behind the one before.

        Args:
          maps: the previous and the current one, ``[B, H, W, C]``; or one alone.
          train: whether norms use the batch's statistics.
        """
        before, current = (maps, maps) if self.previous is None else maps
        made = {PREVIOUS: before}
        if self.previous == "halve":
            made[PREVIOUS] = HalfSize(name="halved", **self.shared)(before, train)
        elif self.previous == "conv":
            made[PREVIOUS] = ActConvNorm(name="conv_prev_1x1", **self.shared)(before, train)
        made[CURRENT] = ActConvNorm(name="conv_1x1", **self.shared)(current, train)
        for i, steps in enumerate(self.recipe.sums):
            sides = zip(("left", "right"), steps, strict=True)
            left, right = (
                self.operate(*step, made, f"comb_iter_{i}_{side}", train) for side, step in sides
            )
            made[str(i)] = left + right
        out = jnp.concatenate([made[name] for name in self.recipe.outputs], axis=-1)
        return (before if self.keeps_previous else current), out

    def operate(
        self, operation: str, source: str, made: dict[str, jax.Array], name: str, train: bool
    ) -> jax.Array:
        """Computes a step of the recipe; what is a sum already has the reduced size."""
        x, stride = made[source], self.stride if source in (PREVIOUS, CURRENT) else 1
        if operation.startswith("sep"):
            size = int(operation.removeprefix("sep"))
            options = {"kernel_size": size, "stride": stride, **self.shared}
            return SeparableBranch(name=name, **options)(x, train)
        if operation == "skip":
            if stride == 1:
                return x
            return ActConvNorm(name=name, stride=stride, **self.shared)(x, train)
        x = (max_pool_same if operation == "max" else avg_pool_same)(x, 3, stride)
        if x.shape[-1] == self.width:
            return x
        # Of the first map, which no layer has given the cell's channels.
        options = {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.dtypes}
        return ConvNorm(self.width, name=name, **options)(x, train)
