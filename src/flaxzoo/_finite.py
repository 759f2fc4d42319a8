"""Refusing values that are not finite, wherever they come in."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from flaxzoo._host import as_host, first_place
from flaxzoo.errors import DataError


def check_scores(scores: np.ndarray, what: str) -> None:
    """Refuses scores that rank nothing, because argmax takes NaN for the highest.

    Args:
      scores: ``[N, C]``, of any dtype.
      what: name of the data, for the message.

    Raises:
      DataError: a score is NaN; the message gives the first row and the count.
    """
    # jnp knows bfloat16 as floating; NumPy does not.
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        return
    bad = np.isnan(scores).any(-1)
    if bad.any():
        raise DataError(
            f"{what} holds NaN in row {int(np.argmax(bad))} ({int(bad.sum())} of {len(bad)} rows), "
            "which has no best class"
        )


def all_finite(tree: Any) -> jax.Array:
    """Whether all floating values of a tree of arrays are finite, a bool scalar; under ``jit``."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.inexact)]
    flags = [jnp.all(jnp.isfinite(x)) for x in leaves]
    return jnp.all(jnp.stack(flags)) if flags else jnp.array(True)


def check_finite(tree: Any, what: str = "data") -> None:
    """Refuses NaN and infinity; integer arrays pass.

    Args:
      tree: pytree of arrays.
      what: name of the data, for the message.

    Raises:
      DataError: some value is not finite, or masked; the message gives the first one's place and
        the count.
    """
    for path, leaf in tree_flatten_with_path(tree)[0]:
        array = leaf if type(leaf) is np.ndarray else as_host(leaf, f"{what}{keystr(path)}")
        # jnp knows bfloat16 and float8 as floating; NumPy does not.
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            continue
        # A sum is finite only if every term is; float64 is not needed as an overflowing sum
        # of finite terms is merely looked at more closely.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.sum(array)):
                continue
        bad = ~np.isfinite(array)
        count = int(np.count_nonzero(bad))
        if count:
            index = first_place(bad)
            place = f" at index {list(index)}" if index else ""
            raise DataError(
                f"{what}{keystr(path)} holds {array[index]}{place} "
                f"({count} of {array.size} values are not finite)"
            )
