"""What a loss tells the code around it: which shapes and values it takes, and what it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._host import unmasked
from flaxzoo.errors import ShapeError

# (loss name, predictions, targets, options); arrays are given as jax.ShapeDtypeStruct.
ShapeCheck = Callable[[str, Any, Any, Mapping[str, Any]], None]
# (loss name, targets as NumPy arrays, predictions as jax.ShapeDtypeStruct, options).
ValueCheck = Callable[[str, Any, Any, Mapping[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Traits:
    """How a loss function behaves.

    Attributes:
      check: raises ShapeError for shapes and dtypes that the function does not take.
      check_values: raises DataError for target values that it does not take.
      per_example: whether the result keeps the batch axis; False for one number per batch.
      integer_labels: whether targets must be integer class indices.
      known: False for a user's function, whose result is looked at when it is traced.
    """

    check: ShapeCheck
    check_values: ValueCheck
    per_example: bool = True
    integer_labels: bool = False
    known: bool = True


def _has_array(tree: Any) -> bool:
    return any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(tree))


def map_arrays(function: Callable[[Any], Any], tree: Any, *, lists_are_arrays: bool) -> Any:
    """Applies ``function`` to the arrays of ``tree``; lists of numbers count as arrays.

    Args:
      function: called with an array, a number or a list.
      tree: a pytree; None stands for "no array" and is kept.
      lists_are_arrays: whether a list that holds arrays is stacked too, instead of being taken
        as a structure.
    """

    def is_leaf(node: Any) -> bool:
        return isinstance(node, list) and (lists_are_arrays or not _has_array(node))

    return jax.tree.map(function, tree, is_leaf=is_leaf)


def spec_of(value: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array, tracer, number or list, without reading its values.

    Raises:
      ShapeError: a ragged list, or a value that is no array of numbers.
    """
    value = unmasked(value, "an array of a loss")
    if not hasattr(value, "shape"):
        if isinstance(value, list) and _has_array(value):
            parts = [spec_of(part) for part in value]
            if len({part.shape for part in parts}) == 1:
                return jax.ShapeDtypeStruct((len(parts), *parts[0].shape), parts[0].dtype)
            raise ShapeError("a list of arrays of unequal shapes cannot be one array")
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ShapeError("a ragged list cannot be an array: rows differ in length") from error
    try:
        dtype = jnp.dtype(value.dtype)
    except TypeError:
        dtype = np.asarray(value).dtype
    if not (jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_):
        raise ShapeError(f"losses take arrays of numbers, got dtype {dtype}")
    return jax.ShapeDtypeStruct(tuple(value.shape), dtype)


def as_number_array(value: Any, *, floating: bool) -> jax.Array:
    """A JAX array of ``value``, never narrower than float32 where it is floating.

    Args:
      value: an array, a number or a list.
      floating: also turns integers and booleans into float32.
    """
    array = jnp.asarray(unmasked(value, "an array of a loss"))
    is_float = jnp.issubdtype(array.dtype, jnp.floating)
    if (is_float and array.dtype.itemsize < 4) or (floating and not is_float):
        # bfloat16 keeps 8 bits: sums over a batch or a vocabulary would lose most of them.
        return array.astype(jnp.float32)
    return array
