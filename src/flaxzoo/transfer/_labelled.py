"""Features and labels as the probes take them: checked matrices and class numbers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxzoo._finite import check_finite
from flaxzoo._host import as_host
from flaxzoo.errors import DataError, ShapeError
from flaxzoo.transfer.features import Features


def as_matrix(features: Any, name: str = "features", width: int | None = None) -> np.ndarray:
    """Features as a matrix of float32 or float64.

    Args:
      features: ``Features``, or an array ``[N, D]``, or maps ``[N, H, W, D]``, which are averaged
        as by ``flaxzoo.models.Head(pooling="auto")``.
      name: the name of the argument, for messages.
      width: what D has to be, if that is known.

    Returns:
      ``[N, D]``; not copied where that can be avoided.

    Raises:
      ShapeError: another rank, or another D.
      DataError: there are none, they are no numbers, or some value is not finite.
    """
    if isinstance(features, Features):
        features = features.inputs
    if not hasattr(features, "shape") or not hasattr(features, "dtype"):
        features = as_host(features, name)
    array = as_host(features, name)
    if array.ndim == 3:
        raise ShapeError(
            f"{name} has the shape {list(array.shape)}: tokens are pooled as the backbone does it "
            'by extract_features(..., pooling="auto")'
        )
    if array.ndim not in (2, 4):
        raise ShapeError(
            f"{name} must have shape [N, D], or [N, H, W, D] to be averaged, got "
            f"{list(array.shape)}"
        )
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool):
        raise DataError(f"{name} must be numbers, got {array.dtype}")
    if 0 in array.shape:
        raise DataError(f"{name} is empty: its shape is {list(array.shape)}")
    check_finite(array, name)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32)
    if array.ndim == 4:
        array = array.mean((1, 2))
    if width is not None and array.shape[1] != width:
        raise ShapeError(f"{name} must have {width} columns, got {array.shape[1]}")
    return array


def as_precision(dtype: Any) -> np.dtype:
    """The dtype of a computation.

    Raises:
      DataError: neither float32 nor float64.
    """
    kind = np.dtype(dtype)
    if kind not in (np.float32, np.float64):
        raise DataError(f"dtype must be float32 or float64, got {kind}")
    return kind


def as_labels(
    labels: Any, features: Any, rows: int, *, name: str = "labels", num_classes: int | None = None
) -> np.ndarray:
    """Labels as class numbers, one per example.

    Args:
      labels: ints ``[N]``; None for the targets of ``features``.
      features: what the caller gave, whose targets count where ``labels`` is None.
      rows: the number of examples.
      name: the name of the argument, for messages.
      num_classes: labels must be below it, where it is known.

    Returns:
      int32 ``[N]``.

    Raises:
      ShapeError: not one label per example.
      DataError: there are none, or they are no class numbers.
    """
    if labels is None:
        if not isinstance(features, Features) or features.targets is None:
            raise DataError(f"{name} are missing: the features bring no targets of their own")
        labels = features.targets
    array = as_host(labels, name)
    if array.shape != (rows,):
        hint = " (one-hot labels: pass labels.argmax(-1))" if array.ndim == 2 else ""
        raise ShapeError(
            f"{name} must have shape [{rows}], one per example, got {list(array.shape)}{hint}"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{name} must be ints, the numbers of the classes, got {array.dtype}")
    limit = np.iinfo(np.int32).max if num_classes is None else num_classes
    wrong = (array < 0) | (array >= limit)
    if wrong.any():
        first = int(np.argmax(wrong))
        known = "" if num_classes is None else f" of {num_classes} classes, 0 to {num_classes - 1}"
        raise DataError(f"{name} holds {array[first]} at index {first}, which is no class{known}")
    return array.astype(np.int32)
