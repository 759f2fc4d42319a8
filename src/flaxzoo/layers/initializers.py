"""Initialisers of the zoo's layers, as values that compare equal and can be recognised.

``jax.nn.initializers`` returns a new function at every call. These are frozen dataclasses: two
modules built alike are equal and share compiled code. Each says which distribution its numbers
have, so that ``flaxzoo.Model.init`` can draw them without compiling a program.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.layers.lowering.drawing import (
    LIMIT_OF_UNIFORM,
    STD_OF_CUT,
    Distribution,
    draw_on_host,
    initialise_p,
    is_staged,
)


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
        std = jnp.asarray(distribution.std, dtype)
        if distribution.uniform:
            limit = LIMIT_OF_UNIFORM
            return jax.random.uniform(key, shape, dtype, -limit, limit) * std
        return jax.random.normal(key, shape, dtype) * std

    def on_host(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: Any
    ) -> np.ndarray:
        """Draws the array by NumPy."""
        return draw_on_host(self.distribution(shape), generator, shape, dtype)


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
class Uniform(Initializer):
    """Uniform numbers of one range, whatever the shape.

    Attributes:
      limit: how far they lie from 0 at most.
    """

    limit: float

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the uniform distribution of this range."""
        return Distribution(std=self.limit / LIMIT_OF_UNIFORM, uniform=True)


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
    """Normal numbers of variance ``scale`` / fan (He et al. 2015, eq. 10, 14).

    The fan-out of a kernel ``[..., in, out]`` is ``out`` times its spatial size, whatever the
    number of groups, as in PyTorch's ``kaiming_normal_(mode="fan_out")``, which is how timm and
    torchvision initialise ResNets. https://arxiv.org/abs/1502.01852

    Attributes:
      mode: ``"fan_out"`` or ``"fan_in"``.
      groups: a number that the fan-out is divided by: that of a convolution's groups, as timm
        counts it in networks of depthwise convolutions.
      scale: the variance times the fan: 2 for layers before a ReLU, 1 for those before none.
    """

    mode: str = "fan_out"
    groups: int = 1
    scale: float = 2.0

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the normal distribution for a kernel ``[..., in, out]`` of this shape."""
        width = shape[-1] // self.groups if self.mode == "fan_out" else shape[-2]
        fan = width * math.prod(shape[:-2])
        return Distribution(std=math.sqrt(self.scale / fan))


@dataclasses.dataclass(frozen=True)
class GlorotUniform(Initializer):
    """Uniform numbers of variance 2 / (fan-in + fan-out) (Glorot and Bengio 2010, eq. 16).

    They are those of PyTorch's ``xavier_uniform_``.

    Attributes:
      gain: a number that they are multiplied by.
    """

    gain: float = 1.0

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the uniform distribution for a kernel ``[..., in, out]`` of this shape."""
        fans = (shape[-2] + shape[-1]) * math.prod(shape[:-2])
        return Distribution(std=self.gain * math.sqrt(2 / fans), uniform=True)


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
    """Uniform numbers of variance ``scale`` / fan-in.

    Of scale 1/3 they are those that PyTorch's own linear layers and convolutions begin with
    (``kaiming_uniform_(a=sqrt(5))``): no larger than one over the root of the fan-in. Some networks
    leave them so.

    Attributes:
      scale: the variance times the fan-in.
    """

    scale: float = 1 / 3

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the uniform distribution for a kernel ``[..., in, out]`` of this shape."""
        return Distribution(std=math.sqrt(self.scale / math.prod(shape[:-1])), uniform=True)


@dataclasses.dataclass(frozen=True)
class FanInBias:
    """Uniform numbers of variance ``scale`` / fan-in, for a bias: PyTorch's own at a scale of 1/3.

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
    return Uniform(math.sqrt(3 * initializer.scale / math.prod(kernel_shape[:-1])))


@dataclasses.dataclass(frozen=True)
class FanOut(Initializer):
    """Uniform numbers of variance ``scale`` / fan-out.

    Of scale 1/3 they are those that TensorFlow's EfficientNets begin their classifiers with.

    Attributes:
      scale: the variance times the fan-out.
    """

    scale: float = 1 / 3

    def distribution(self, shape: tuple[int, ...]) -> Distribution:
        """Returns the uniform distribution for a kernel ``[..., in, out]`` of this shape."""
        fan = shape[-1] * math.prod(shape[:-2])
        return Distribution(std=math.sqrt(self.scale / fan), uniform=True)


@dataclasses.dataclass(frozen=True)
class Halves(Initializer):
    """The second half of the last axis begins otherwise than the first.

    Attributes:
      first: the initialiser of the first half, which sees the shape of both.
      second: that of the second half, likewise.
    """

    first: Any
    second: Any

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """Draws both by JAX."""
        keys, half = jax.random.split(key), shape[-1] // 2
        first = self.first.draw(keys[0], shape, dtype)[..., :half]
        return jnp.concatenate([first, self.second.draw(keys[1], shape, dtype)[..., half:]], -1)

    def on_host(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: Any
    ) -> np.ndarray:
        """Draws both by NumPy."""
        half = shape[-1] // 2
        first = self.first.on_host(generator, shape, dtype)[..., :half]
        return np.concatenate([first, self.second.on_host(generator, shape, dtype)[..., half:]], -1)


zeros = Constant(0.0)
# How PyTorch's linear layers and convolutions begin their biases.
plain_bias = FanInBias()
# How they begin altogether, as keywords of a layer.
PLAIN: Mapping[str, Any] = types.MappingProxyType({"kernel_init": FanIn(), "bias_init": plain_bias})
ones = Constant(1.0)
