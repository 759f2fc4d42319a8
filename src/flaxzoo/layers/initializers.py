"""Initialisers of the zoo's layers, as values that compare equal and can be recognised.

``jax.nn.initializers`` returns a new function at every call. These are frozen dataclasses: two
modules built alike are equal and share compiled code. Each says which distribution its numbers
have, so that ``flaxzoo.Model.init`` can draw them without compiling a program.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.layers.lowering.drawing import STD_OF_CUT, Distribution, initialise_p, is_staged


class Initializer:
    """What the zoo's initialisers share: ``init(key, shape, dtype)``, as Flax calls them."""

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        """Draws an array of this shape and dtype from ``key``."""
        shape, dtype = tuple(shape), jnp.dtype(dtype)
        if not is_staged():
            return self.draw(key, shape, dtype)
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.key_data(key)
        return initialise_p.bind(key, initializer=self, shape=shape, dtype=dtype)

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the distribution of the elements of an array of this shape."""
        raise NotImplementedError

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Draws the array by JAX."""
        distribution = self.distribution(shape)
        return jax.random.normal(key, shape, dtype) * jnp.asarray(distribution.std, dtype)


@dataclasses.dataclass(frozen=True)
class Constant(Initializer):
    """All elements have one value.

    Attributes:
      value: the value of every element.
    """

    value: float

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the distribution that has but the value."""
        return Distribution(std=0.0, mean=self.value)

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Fills an array with the value; ``key`` plays no part."""
        return jnp.full(shape, self.value, dtype)


@dataclasses.dataclass(frozen=True)
class Normal(Initializer):
    """Normal numbers of one standard deviation, whatever the shape.

    timm's ``trunc_normal_(std=0.02)`` cuts them at -2 and 2, a hundred deviations away.

    Attributes:
      std: the standard deviation.
      mean: the mean.
    """

    std: float = 0.02
    mean: float = 0.0

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the normal distribution of this deviation and mean."""
        return Distribution(std=self.std, mean=self.mean)

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Draws the array by JAX."""
        numbers = super().draw(key, shape, dtype)
        return numbers + jnp.asarray(self.mean, dtype) if self.mean else numbers


@dataclasses.dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal numbers, cut at two deviations: TensorFlow's, and timm's ``trunc_normal_tf_``.

    Attributes:
      std: the standard deviation before the cut, of which 0.88 remains.
    """

    std: float = 0.02

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the cut normal distribution."""
        return Distribution(std=self.std * STD_OF_CUT, cut=2.0)

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Draws the array by JAX."""
        numbers = jax.random.truncated_normal(key, -2, 2, shape, dtype)
        return numbers * jnp.asarray(self.std, dtype)


@dataclasses.dataclass(frozen=True)
class HeNormal(Initializer):
    """Normal numbers of variance 2 / fan, for layers before a ReLU (He et al. 2015, eq. 10, 14).

    The fan-out of a kernel ``[..., in, out]`` is ``out`` times its spatial size, whatever the
    number of groups, as in PyTorch's ``kaiming_normal_(mode="fan_out")``, which is how timm and
    torchvision initialise ResNets. https://arxiv.org/abs/1502.01852

    Attributes:
      mode: ``"fan_out"`` or ``"fan_in"``.
      groups: a number that the fan-out is divided by: that of a convolution's groups, as timm
        counts it in networks of depthwise convolutions.
    """

    mode: str = "fan_out"
    groups: int = 1

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the normal distribution for a kernel ``[..., in, out]`` of this shape."""
        width = shape[-1] // self.groups if self.mode == "fan_out" else shape[-2]
        fan = width * math.prod(shape[:-2])
        return Distribution(std=math.sqrt(2 / fan))


@dataclasses.dataclass(frozen=True)
class GlorotNormal(Initializer):
    """Normal numbers of variance 2 / (fan-in + fan-out) (Glorot and Bengio 2010, eq. 12).

    PyTorch's ``xavier_uniform_`` draws uniform numbers of the same variance.

    Attributes:
      gain: a number that they are multiplied by.
    """

    gain: float = 1.0

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the normal distribution for a kernel ``[..., in, out]`` of this shape."""
        fans = (shape[-2] + shape[-1]) * math.prod(shape[:-2])
        return Distribution(std=self.gain * math.sqrt(2 / fans))


@dataclasses.dataclass(frozen=True)
class LecunNormal(Initializer):
    """Normal numbers of variance 1 / fan-in, cut at two deviations: Flax's for dense layers.

    "Efficient BackProp", LeCun et al. 1998, section 4.6. By JAX the numbers are those of
    ``jax.nn.initializers.lecun_normal``.
    """

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the cut normal distribution for a kernel ``[..., in, out]`` of this shape."""
        return Distribution(std=math.sqrt(1 / math.prod(shape[:-1])), cut=2.0)

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Draws a kernel ``[..., in, out]`` by JAX."""
        return jax.nn.initializers.lecun_normal()(key, shape, dtype)


@dataclasses.dataclass(frozen=True)
class FanIn(Initializer):
    """Normal numbers of variance ``scale`` / fan-in.

    PyTorch's own linear layers and convolutions begin with uniform numbers of the variance of a
    scale of 1/3 (``kaiming_uniform_(a=sqrt(5))``), and some networks leave them so.

    Attributes:
      scale: the variance times the fan-in.
    """

    scale: float = 1 / 3

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the normal distribution for a kernel ``[..., in, out]`` of this shape."""
        return Distribution(std=math.sqrt(self.scale / math.prod(shape[:-1])))


@dataclasses.dataclass(frozen=True)
class FanInBias:
    """Normal numbers of variance ``scale`` / fan-in, for a bias: PyTorch's own at a scale of 1/3.

    A bias does not tell how many inputs each output sees, its layer's kernel does: ``Dense`` and
    ``Conv`` of ``flaxzoo.layers`` ask ``bias_initializer`` with its shape.

    Attributes:
      scale: the variance times the fan-in.
    """

    scale: float = 1 / 3

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        """Refuses to draw: of the bias alone the fan-in is not known."""
        raise TypeError("FanInBias is for the biases of flaxzoo.layers' Dense and Conv")


def bias_initializer(initializer: Any, kernel_shape: Sequence[int]) -> Any:
    """Returns the initialiser of a layer's bias.

    Args:
      initializer: the layer's field; any but a ``FanInBias`` is returned as it is.
      kernel_shape: that of the layer's kernel, ``[..., in, out]``.
    """
    if not isinstance(initializer, FanInBias):
        return initializer
    return Normal(math.sqrt(initializer.scale / math.prod(kernel_shape[:-1])))


@dataclasses.dataclass(frozen=True)
class FanOut(Initializer):
    """Normal numbers of variance ``scale`` / fan-out.

    Of scale 1/3 they have the variance of the uniform numbers that TensorFlow's EfficientNets
    begin their classifiers with.

    Attributes:
      scale: the variance times the fan-out.
    """

    scale: float = 1 / 3

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the normal distribution for a kernel ``[..., in, out]`` of this shape."""
        fan = shape[-1] * math.prod(shape[:-2])
        return Distribution(std=math.sqrt(self.scale / fan))


@dataclasses.dataclass(frozen=True)
class Halves(Initializer):
    """The second half of the last axis begins otherwise than the first.

    Attributes:
      first: the initialiser of the first half, which sees the shape of both; one without a cut.
      second: that of the second half, likewise.
    """

    first: Any
    second: Any

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the distribution of each place of the last axis."""
        both = [half.distribution(shape) for half in (self.first, self.second)]
        counts = (shape[-1] // 2, shape[-1] - shape[-1] // 2)
        return Distribution(
            std=np.repeat([half.std for half in both], counts),
            mean=np.repeat([half.mean for half in both], counts),
        )

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Draws both by JAX."""
        keys, half = jax.random.split(key), shape[-1] // 2
        first = self.first.draw(keys[0], shape, dtype)[..., :half]
        return jnp.concatenate([first, self.second.draw(keys[1], shape, dtype)[..., half:]], -1)


zeros = Constant(0.0)
# How PyTorch's linear layers and convolutions begin their biases.
plain_bias = FanInBias()
ones = Constant(1.0)
