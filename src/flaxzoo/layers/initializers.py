"""Initialisers of the zoo's layers, as values that compare equal and can be recognised.

``jax.nn.initializers`` returns a new function at every call. These are frozen dataclasses: two
modules built alike are equal and share compiled code. And ``flaxzoo.Model.init`` can have their
numbers drawn on the host: compiling a program that draws those of a ResNet-50 takes longer than
reading its weights and classifying an image with them.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

_STAGED: contextvars.ContextVar[bool] = contextvars.ContextVar("staged", default=False)


@contextlib.contextmanager
def staged() -> Iterator[None]:
    """Within it, a traced initialiser is one equation ``initialise`` that can be found again."""
    token = _STAGED.set(True)
    try:
        yield
    finally:
        _STAGED.reset(token)


class Initializer:
    """What the zoo's initialisers share: ``init(key, shape, dtype)``, as Flax calls them."""

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        """An array of this shape and dtype, drawn from ``key``."""
        shape, dtype = tuple(shape), jnp.dtype(dtype)
        if not _STAGED.get():
            return self.draw(key, shape, dtype)
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            key = jax.random.key_data(key)
        return initialise_p.bind(key, initializer=self, shape=shape, dtype=dtype)

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """The array, by JAX."""
        raise NotImplementedError

    def draw_on_host(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: Any
    ) -> np.ndarray:
        """An array of the same distribution, by NumPy."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Constant(Initializer):
    """All elements have one value.

    Attributes:
      value: of every element.
    """

    value: float

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """``shape`` filled with the value; ``key`` plays no part."""
        return jnp.full(shape, self.value, dtype)

    def draw_on_host(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: Any
    ) -> np.ndarray:
        """``shape`` filled with the value."""
        return np.full(shape, self.value, dtype)


@dataclasses.dataclass(frozen=True)
class HeNormal(Initializer):
    """Normal numbers of variance 2 / fan, for layers before a ReLU (He et al. 2015, eq. 10, 14).

    The fan-out of a kernel ``[..., in, out]`` is ``out`` times its spatial size, whatever the
    number of groups, as in PyTorch's ``kaiming_normal_(mode="fan_out")``, which is how timm and
    torchvision initialise ResNets. https://arxiv.org/abs/1502.01852

    Attributes:
      mode: ``"fan_out"`` or ``"fan_in"``.
    """

    mode: str = "fan_out"

    def std(self, shape: Sequence[int]) -> float:
        """The standard deviation for a kernel of this shape."""
        fan = shape[-1 if self.mode == "fan_out" else -2] * math.prod(shape[:-2])
        return math.sqrt(2 / fan)

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """A kernel ``[..., in, out]``, by JAX."""
        return jax.random.normal(key, shape, dtype) * jnp.asarray(self.std(shape), dtype)

    def draw_on_host(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: Any
    ) -> np.ndarray:
        """A kernel ``[..., in, out]``, by NumPy."""
        numbers = _standard_normal(generator, shape, dtype)
        numbers *= numbers.dtype.type(self.std(shape))
        return numbers.astype(dtype, copy=False)


@dataclasses.dataclass(frozen=True)
class LecunNormal(Initializer):
    """Normal numbers of variance 1 / fan-in, cut at two deviations: Flax's for dense layers.

    "Efficient BackProp", LeCun et al. 1998, section 4.6. By JAX the numbers are those of
    ``jax.nn.initializers.lecun_normal``.
    """

    def draw(self, key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """A kernel ``[..., in, out]``, by JAX."""
        return jax.nn.initializers.lecun_normal()(key, shape, dtype)

    def draw_on_host(
        self, generator: np.random.Generator, shape: tuple[int, ...], dtype: Any
    ) -> np.ndarray:
        """A kernel ``[..., in, out]``, by NumPy."""
        numbers = _standard_normal(generator, shape, dtype)
        while (outside := np.abs(numbers) > 2).any():
            numbers[outside] = _standard_normal(generator, (int(outside.sum()),), dtype)
        # 0.8796 is the deviation that the cut leaves of one.
        std = math.sqrt(1 / math.prod(shape[:-1])) / 0.87962566103423978
        numbers *= numbers.dtype.type(std)
        return numbers.astype(dtype, copy=False)


def _standard_normal(
    generator: np.random.Generator, shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
    # Half precision is drawn in single.
    wide = np.float64 if jnp.dtype(dtype) == np.float64 else np.float32
    return generator.standard_normal(shape, wide)


zeros = Constant(0.0)
ones = Constant(1.0)

initialise_p = Primitive("initialise")


@initialise_p.def_impl
def _initialise(key: Any, *, initializer: Initializer, shape: Any, dtype: Any) -> jax.Array:
    return initializer.draw(key, shape, dtype)


@initialise_p.def_abstract_eval
def _abstract(key: Any, *, initializer: Initializer, shape: Any, dtype: Any) -> Any:
    return jax.core.ShapedArray(shape, dtype)


def _batched(args: Any, axes: Any, *, initializer: Initializer, shape: Any, dtype: Any) -> Any:
    keys = jnp.moveaxis(args[0], axes[0], 0)
    return jax.vmap(lambda key: initializer.draw(key, shape, dtype))(keys), 0


batching.primitive_batchers[initialise_p] = _batched
# Inside a loop or a remat the equation stays where it is, and JAX draws.
mlir.register_lowering(initialise_p, mlir.lower_fun(_initialise, multiple_results=False))
