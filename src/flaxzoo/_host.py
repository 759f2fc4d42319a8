"""NumPy arrays as users give them, made plain ones of numbers or refused."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from flaxzoo.errors import DataError

# What a kind of dtype holds, for messages; JAX computes with none of them.
_NO_NUMBERS = {"O": "objects", "U": "text", "S": "text", "T": "text", "M": "dates", "m": "times"}
_NUMBER = int | float | np.number | np.bool_
# Objects among which one that is no number is looked for.
_LOOKED_AT = 1000


def as_host(value: Any, name: str) -> np.ndarray:
    """A plain NumPy array; a memory map keeps its buffer.

    Args:
      value: an array, a number or a list.
      name: of the argument, for the message.

    Raises:
      DataError: values are masked, or a list is ragged.
    """
    if isinstance(value, np.ma.MaskedArray):
        return unmasked(value, name)
    refuse_sparse(value, name)
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError(
            f"{name} is no array: {str(error).rstrip('.')}. Bring its rows to one length, or mask "
            "what is missing with weights"
        ) from error


def refuse_sparse(value: Any, name: str) -> None:
    """Refuses sparse matrices, such as SciPy's, which NumPy takes for one object.

    Raises:
      DataError: it is one.
    """
    if hasattr(value, "toarray"):
        raise DataError(
            f"{name} is a sparse matrix ({type(value).__name__}): pass {name}.toarray(), batch by "
            "batch where that would not fit into memory"
        )


def unmasked(value: Any, name: str) -> Any:
    """What is no masked array as it is; a masked array in which nothing is masked as a plain one.

    Most of NumPy and all of JAX look at what lies under a mask as if it were data.

    Args:
      value: anything.
      name: of the argument, for the message.

    Raises:
      DataError: values are masked; the message gives their number and the first one's place.
    """
    if not isinstance(value, np.ma.MaskedArray):
        return value
    masked = np.ma.getmaskarray(value)
    if masked.any():
        raise DataError(
            f"{name} is a masked array in which {int(masked.sum())} of {masked.size} values are "
            f"masked, first at index {list(first_place(masked))}: fill them in "
            "(array.filled(value)), or leave these examples out, with a weight of 0 in (inputs, "
            "targets, weight) for instance"
        )
    return value.data


def first_place(wrong: np.ndarray) -> tuple[int, ...]:
    """The index of the first True of a mask, for messages."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))


def check_numbers(array: Any, name: str, hint: str = "") -> None:
    """Refuses arrays of objects, text and dates; what is no array passes.

    Args:
      array: an array of NumPy, JAX or another package.
      name: of the argument, for the message.
      hint: what to do, in place of the usual words.

    Raises:
      DataError: it is one of them; the message shows its first value.
    """
    kind = getattr(getattr(array, "dtype", None), "kind", "")
    if kind not in _NO_NUMBERS:
        return
    values = np.asarray(array, object).ravel()[:_LOOKED_AT].tolist()
    odd = next((value for value in values if not isinstance(value, _NUMBER)), *values[:1] or [None])
    shown = f", such as {type(odd).__name__} {odd!r:.40}" if values else ""
    raise DataError(
        f"{name} holds {_NO_NUMBERS[kind]} (dtype {array.dtype}){shown}, which no model computes "
        f"with: {hint or 'make numbers of them, array.astype(np.float32) for instance'}"
    )


def check_fits(array: np.ndarray, name: str) -> None:
    """Refuses numbers of 64 bits that become others in JAX's 32: infinite, or wrapped around.

    Args:
      array: a NumPy array; narrower ones pass without a look, and all do under ``jax_enable_x64``.
      name: of the argument, for the message.

    Raises:
      DataError: a number is out of range; the message shows the range.
    """
    dtype = array.dtype
    if dtype.itemsize < 8 or dtype.kind not in "iuf" or not array.size:
        return
    narrow = jax.dtypes.canonicalize_dtype(dtype)
    if narrow == dtype:
        return
    least, most = array.min(), array.max()
    lowest, highest = _range(narrow)
    if least < lowest or most > highest:
        raise DataError(
            f"{name} holds {dtype} from {least:.6g} to {most:.6g}, beyond the {narrow} that JAX "
            "computes with: scale them, divide by a unit or subtract an offset for instance"
        )


@functools.cache
def _range(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    info: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return info.min, info.max


def is_numbers(value: Any) -> bool:
    """Whether a tuple or list holds numbers, of Python's or NumPy's, and nothing else."""
    return isinstance(value, tuple | list) and all(isinstance(v, _NUMBER) for v in value)


def is_array_like(value: Any) -> bool:
    """Whether a list stands for one array: it holds numbers or texts, or lists of them.

    A range, and a tuple of numbers alone, stand for one as well.
    """
    if isinstance(value, range) or (isinstance(value, tuple) and value and is_numbers(value)):
        return True
    if not isinstance(value, list):
        return False
    while isinstance(value, list) and value:
        value = value[0]
    scalar = getattr(value, "shape", None) == () and not isinstance(value, jax.core.Tracer)
    return scalar or value is None or isinstance(value, list | _NUMBER | str | bytes)
