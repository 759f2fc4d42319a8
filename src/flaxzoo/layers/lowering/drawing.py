"""Fresh parameters drawn on the host: an equation that can be found, and its numbers by NumPy.

Compiling a program that draws the parameters of a ResNet-50 takes longer than reading its weights
and classifying an image with them. So an initialiser says which ``Distribution`` its numbers have,
and while ``staged`` holds it is traced as one equation, ``initialise_p``, which
``flaxzoo.layers.lowering.initialise`` finds and evaluates without compiling anything.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

_STAGED: contextvars.ContextVar[bool] = contextvars.ContextVar("staged", default=False)


@contextlib.contextmanager
def staged() -> Iterator[None]:
    """Makes traced initialisers equations ``initialise``, which can be told from others."""
    token = _STAGED.set(True)
    try:
        yield
    finally:
        _STAGED.reset(token)


def is_staged() -> bool:
    """Returns whether ``staged`` holds."""
    return _STAGED.get()


@dataclasses.dataclass(frozen=True)
class Distribution:
    """The distribution of an array's elements, which are independent of each other.

    Attributes:
      std: the standard deviation; 0 for a constant. An array has one for each place of the last
        axis.
      mean: the mean, likewise.
      cut: how many deviations of the uncut normal distribution an element may be from the mean;
        None for any. ``std`` is what remains after the cut.
      uniform: whether all numbers up to a distance from the mean are as likely, rather than normal.
    """

    std: float | np.ndarray
    mean: float | np.ndarray = 0.0
    cut: float | None = None
    uniform: bool = False


# The standard deviation of a standard normal distribution cut at two deviations.
STD_OF_CUT = 0.87962566103423978

# How far uniform numbers of deviation 1 lie from their mean at most.
LIMIT_OF_UNIFORM = math.sqrt(3)


def draw_on_host(
    distribution: Distribution, generator: np.random.Generator, shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
    """Draws an array of this shape and dtype by NumPy.

    Raises:
      ValueError: the distribution is cut elsewhere than at two deviations.
    """
    if not np.any(distribution.std):
        return np.full(shape, distribution.mean, dtype)
    std = distribution.std
    if distribution.uniform:
        numbers = _uniform(generator, shape, dtype)
    else:
        numbers = _standard_normal(generator, shape, dtype)
    if distribution.cut is not None:
        if distribution.cut != 2:
            raise ValueError(f"cut must be 2 or None, got {distribution.cut!r}")
        while (outside := np.abs(numbers) > 2).any():
            numbers[outside] = _standard_normal(generator, (int(outside.sum()),), dtype)
        std = std / STD_OF_CUT
    numbers *= numbers.dtype.type(std)
    if np.any(distribution.mean):
        numbers += numbers.dtype.type(distribution.mean)
    return numbers.astype(dtype, copy=False)


def _standard_normal(
    generator: np.random.Generator, shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
    return generator.standard_normal(shape, _wide(dtype))


def _uniform(generator: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Numbers of deviation 1."""
    numbers = generator.random(shape, _wide(dtype))
    numbers -= 0.5
    numbers *= 2 * LIMIT_OF_UNIFORM
    return numbers


def _wide(dtype: Any) -> Any:
    # Half precision is drawn in single.
    return np.float64 if jnp.dtype(dtype) == np.float64 else np.float32


# Its parameter ``initializer`` has ``draw(key, shape, dtype)`` and ``distribution(shape)``.
initialise_p = Primitive("initialise")


@initialise_p.def_impl
def _initialise(key: Any, *, initializer: Any, shape: Any, dtype: Any) -> jax.Array:
    return initializer.draw(key, shape, dtype)


@initialise_p.def_abstract_eval
def _abstract(key: Any, *, initializer: Any, shape: Any, dtype: Any) -> Any:
    return jax.core.ShapedArray(shape, dtype)


def _batched(args: Any, axes: Any, *, initializer: Any, shape: Any, dtype: Any) -> Any:
    keys = jnp.moveaxis(args[0], axes[0], 0)
    return jax.vmap(lambda key: initializer.draw(key, shape, dtype))(keys), 0


batching.primitive_batchers[initialise_p] = _batched
# Inside a loop or a remat the equation stays where it is, and JAX draws.
mlir.register_lowering(initialise_p, mlir.lower_fun(_initialise, multiple_results=False))
