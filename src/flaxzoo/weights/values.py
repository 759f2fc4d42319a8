"""What tensors may become weights: of the right kind, within the dtype's range, and finite."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._trees import SHOWN
from flaxzoo._warnings import warn
from flaxzoo.errors import ArgumentError, CheckpointError

_KINDS = (
    (jnp.floating, "floating-point numbers"),
    (jnp.integer, "integers"),
    (jnp.complexfloating, "complex numbers"),
    (jnp.bool_, "booleans"),
)


def as_weights(
    leaves: Mapping[str, Any],
    expected: Mapping[str, Any],
    *,
    source: str,
    origins: Mapping[str, Any] | None = None,
    own: bool = False,
    chosen: bool = True,
) -> dict[str, jax.Array]:
    """Tensors of a file as arrays of a model, once ``checked``.

    Its arguments and errors are those of ``checked``. Unless the caller has ``chosen`` the dtype of
    the parameters, half precision that becomes float32, or the other way round, is a warning.
    """
    arrays = checked(leaves, expected, source=source, origins=origins, own=own)
    if not chosen:
        _tell_of_other_dtypes(origins or leaves, arrays, source)
    return {path: jnp.asarray(array) for path, array in arrays.items()}


def in_dtype(variables: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Variables whose floating parameters have a dtype; other collections stay.

    Raises:
      ArgumentError: (a ValueError) it is no floating dtype.
    """
    try:
        wanted = jnp.dtype(dtype)
    except TypeError:
        wanted = jnp.dtype(bool)
    if not jnp.issubdtype(wanted, jnp.floating):
        raise ArgumentError(
            f"param_dtype must be a floating dtype such as 'float32', or None, got {dtype!r}"
        )

    def cast(leaf: Any) -> Any:
        return leaf.astype(wanted) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return {**variables, "params": jax.tree.map(cast, variables["params"])}


def _tell_of_other_dtypes(
    origins: Mapping[str, Any], arrays: Mapping[str, np.ndarray], source: str
) -> None:
    """Warns of tensors in half precision that become wider, and of wider ones that become half."""
    changes = collections.Counter(
        (np.asarray(origins[path]).dtype, array.dtype)
        for path, array in arrays.items()
        if np.asarray(origins[path]).dtype != array.dtype
    )
    for (theirs, ours), count in changes.items():
        if jnp.issubdtype(theirs, jnp.inexact) and min(theirs.itemsize, ours.itemsize) < 4:
            warn(
                f"{source}: {count} of {len(arrays)} tensors are {theirs} and become {ours}, as "
                f"the model's parameters are: param_dtype={theirs.name!r} keeps them, "
                f"param_dtype={ours.name!r} says that this is meant"
            )


def checked(
    leaves: Mapping[str, Any],
    expected: Mapping[str, Any],
    *,
    source: str,
    origins: Mapping[str, Any] | None = None,
    own: bool = False,
) -> dict[str, np.ndarray]:
    """Tensors of a file in the dtypes of a model, if they can be its weights.

    Args:
      leaves: arrays by path.
      expected: the model's leaves by path, or their shapes; the result has its paths.
      source: names the file in messages.
      origins: the tensors by path as the file has them, where the leaves were adapted to the
        model, which may have made numbers of another kind of them.
      own: whether they are of a model that flaxzoo saved: they keep their dtype, and what is not
        finite is a warning, so that a model that diverged can be looked at; so is what JAX's dtypes
        round here.

    Returns:
      The arrays in the model's dtypes, or with ``own`` in theirs, as wide as JAX has them.

    Raises:
      CheckpointError: a tensor is of another kind than the model's leaf (integers, booleans or
        complex numbers for floating-point ones), holds values beyond the dtype's range, or, without
        ``own``, values that are not finite; the first ten are listed.
    """
    arrays: dict[str, np.ndarray] = {}
    wrong, infinite, rounded = [], [], []
    for path, leaf in expected.items():
        array = np.asarray(leaves[path])
        origin = array.dtype if origins is None else origins[path].dtype
        if kind_of(origin) != kind_of(leaf.dtype):
            wrong.append(f"{path} is {origin}, the model's is {leaf.dtype}")
            continue
        # As wide as the model wants it, not as the file has it.
        dtype = jax.dtypes.canonicalize_dtype(array.dtype if own else leaf.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = array.astype(dtype, copy=False)
        if beyond := _beyond(array, cast):
            wrong.append(f"{path} is {array.dtype} and holds {beyond}, which {dtype} does not")
        elif bad := _not_finite(cast):
            infinite.append(f"{path} ({bad} of {cast.size} values)")
        if own and dtype != array.dtype and jnp.issubdtype(dtype, jnp.inexact):
            rounded.append(f"{path} is {array.dtype}")
        arrays[path] = cast
    if wrong:
        raise CheckpointError(f"{source}: what it holds cannot be weights: {_first(wrong)}")
    if infinite:
        message = f"{source}: values that are not finite (NaN or infinity) in {_first(infinite)}"
        if not own:
            raise CheckpointError(f"{message}; flaxzoo.weights.read_tensors gives them as they are")
        warn(f"{message}, as the model was saved")
    if rounded:
        warn(
            f"{source}: what has more digits than JAX holds here was rounded: {_first(rounded)}; "
            "for all digits call jax.config.update('jax_enable_x64', True) first"
        )
    return arrays


def check_values(leaves: Mapping[str, Any], *, source: str) -> None:
    """Checks that leaves are finite floating-point numbers; of shapes, that they are to be.

    Args:
      leaves: arrays, or their shapes, by path.
      source: names them in messages.

    Raises:
      CheckpointError: one is not; the first ten are listed.
    """
    check_floating(leaves, source)
    infinite = [
        path
        for path, leaf in leaves.items()
        if isinstance(leaf, np.ndarray | jax.Array)
        and not isinstance(leaf, jax.core.Tracer)
        and _not_finite(np.asarray(leaf))
    ]
    if infinite:
        raise CheckpointError(
            f"{source}: values that are not finite (NaN or infinity) in {_first(infinite)}"
        )


def check_floating(leaves: Mapping[str, Any], source: str) -> None:
    """Raises CheckpointError for leaves of other numbers; what has no dtype passes."""
    wrong = [
        f"{path} is {leaf.dtype}"
        for path, leaf in leaves.items()
        if hasattr(leaf, "dtype") and not jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if wrong:
        raise CheckpointError(
            f"{source}: parameters are floating-point numbers, but {_first(wrong)}"
        )


def kind_of(dtype: Any) -> str:
    """``"integers"``, ``"floating-point numbers"``, ...: what a dtype is of."""
    return next((name for kind, name in _KINDS if jnp.issubdtype(dtype, kind)), str(dtype))


def _beyond(array: np.ndarray, cast: np.ndarray) -> str:
    """A value that the cast has lost, as text; empty if there is none."""
    if array.dtype == cast.dtype:
        return ""
    if jnp.issubdtype(array.dtype, jnp.integer):
        lost = cast.astype(array.dtype) != array
    elif not _not_finite(cast):
        return ""
    else:
        lost = np.isfinite(array) & ~np.isfinite(cast)
    return str(array[lost].flat[0]) if lost.any() else ""


def _not_finite(array: np.ndarray) -> int:
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return 0
    if array.dtype.kind in "fc" and array.dtype.itemsize > 2:
        # A sum is finite only if all its terms are; one that overflows is looked at more closely.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.sum(array)):
                return 0
    return int(np.count_nonzero(~np.isfinite(array)))


def _first(parts: list[str]) -> str:
    return "; ".join(parts[:SHOWN]) + (" ..." if len(parts) > SHOWN else "")
