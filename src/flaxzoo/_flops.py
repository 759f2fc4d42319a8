"""Counting multiply-adds from a jaxpr, by module.

XLA's own cost analysis counts the body of a loop once, whatever its length, and knows nothing of
modules. The jaxpr has both: scans carry their length and every equation its name stack.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from flaxzoo.layers.lowering.convolution import convolution_flops


def count_flops(function: Callable[..., Any], *args: Any) -> Counter[tuple[str, ...]]:
    """Floating-point operations of ``function(*args)``, by the path of the module they stand in.

    Matrix products and convolutions count, two operations per multiply-add, as papers count
    them; element-wise work does not. The body of a ``scan`` counts once per iteration, the body
    of a ``while`` once, and of a ``cond`` its costliest branch.

    Args:
      function: a traceable function.
      *args: arrays or ``jax.ShapeDtypeStruct``; nothing is computed.

    Returns:
      A counter of paths such as ``("backbone", "conv_0")``; its total is the whole function's.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr, ())


def _count(jaxpr: Any, prefix: tuple[str, ...]) -> Counter[tuple[str, ...]]:
    total: Counter[tuple[str, ...]] = Counter()
    for eqn in jaxpr.eqns:
        stack = str(eqn.source_info.name_stack)
        path = prefix + tuple(part for part in stack.split("/") if part)
        if eqn.primitive.name == "dot_general":
            total[path] += _dot_flops(eqn)
        elif eqn.primitive.name == "conv_general_dilated":
            total[path] += _conv_flops(eqn)
        elif eqn.primitive.name.startswith("flaxzoo_conv"):
            total[path] += convolution_flops(eqn)
        else:
            counts = [_count(body, path) for body in bodies(eqn)]
            if eqn.primitive.name == "cond" and counts:
                counts = [max(counts, key=lambda count: count.total())]
            repeat = eqn.params["length"] if eqn.primitive.name == "scan" else 1
            for count in counts:
                for key, value in count.items():
                    total[key] += repeat * value
    return total


def bodies(eqn: Any) -> Iterator[Any]:
    """The jaxprs that an equation calls, in the order of its parameters."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _dot_flops(eqn: Any) -> int:
    (contract, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[i] for i in contract)


def _conv_flops(eqn: Any) -> int:
    kernel = eqn.invars[1].aval.shape
    # rhs_spec lists the kernel's axes as (out channels, in channels per group, *spatial).
    out_axis = eqn.params["dimension_numbers"].rhs_spec[0]
    per_output = math.prod(kernel) // kernel[out_axis]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * per_output
