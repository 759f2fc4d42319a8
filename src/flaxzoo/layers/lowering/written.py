"""Where XLA is to write an array to memory instead of computing it again for each that reads it.

XLA's CPU backend joins what makes an array with each operation that reads it, back to the last
product or convolution, unless one of them is none that it can join. A sum of shortcuts is read by
the next block and by the next sum, so that each is computed from the first, over and over: the work
of a stage grows by the square of its blocks. Barriers do not keep it from that, for they are gone
before it joins. The operand of a condition that it cannot foresee does.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from flaxzoo.layers.lowering.switch import is_divided, is_plain

# Less than this is computed again in less time than a condition takes.
_FEWEST_BYTES = 1 << 18


def written(x: jax.Array) -> jax.Array:
    """Returns ``x``, which a CPU is to compute once and write to memory.

    It is the identity in every transformation, and nothing where XLA's own lowering is asked for,
    on accelerators, and in programs for several devices.

    Args:
      x: an array of any shape, of real or Boolean numbers.
    """
    return x if is_plain() else _written_p.bind(x)


def _on_cpu(x: jax.Array) -> jax.Array:
    # No number is as small, but XLA does not know; nor that the other branch is never taken.
    first = jax.lax.slice(x, (0,) * x.ndim, (1,) * x.ndim).reshape(())
    never = jnp.abs(first.astype(jnp.float32)) < -1
    other = jnp.negative if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.bitwise_not
    return jax.lax.cond(never, other, lambda x: x, x)


def _lower(context: Any, x: Any) -> Any:
    (aval,) = context.avals_in
    # Sizes are symbols while a program for images of any size is exported.
    static = all(isinstance(size, int) for size in aval.shape)
    large = static and math.prod(aval.shape) * aval.dtype.itemsize >= _FEWEST_BYTES
    if is_divided(context) or not large:
        return [x]
    return mlir.lower_fun(_on_cpu, multiple_results=False)(context, x)


_written_p = Primitive("flaxzoo_written")
_written_p.def_impl(lambda x: x)
_written_p.def_abstract_eval(lambda x: x)
mlir.register_lowering(_written_p, lambda _context, x: [x])
mlir.register_lowering(_written_p, _lower, platform="cpu")
ad.deflinear(_written_p, lambda cotangent: [_written_p.bind(cotangent)])
batching.defvectorized(_written_p)
