"""Checks of target values on the host: labels out of range, NaN, not a probability, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.errors import DataError


def _first(bad: np.ndarray) -> str:
    """Where the first True of ``bad`` is, and how many there are, in words."""
    position = tuple(int(i) for i in np.argwhere(bad)[0]) if bad.ndim else ()
    index = position[0] if len(position) == 1 else position
    count = int(bad.sum())
    place = f"at index {index}" if bad.ndim else ""
    return f"{place} ({count} of {bad.size} values are wrong)" if bad.size > 1 else place


def _reject(name: str, targets: np.ndarray, bad: np.ndarray, takes: str, hint: str = "") -> None:
    if not bad.any():
        return
    wrong = targets[bad]
    shown = ", ".join(str(value) for value in np.unique(wrong)[:5])
    more = ", ..." if np.unique(wrong).size > 5 else ""
    text = f"targets of loss {name!r} hold {shown}{more}, first {_first(bad)}; it takes {takes}."
    raise DataError(f"{text} {hint}" if hint else text)


def finite(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """No NaN and no infinity."""
    array = np.asarray(targets)
    if jnp.issubdtype(array.dtype, jnp.floating):
        # bfloat16 arrays have no NumPy isfinite of their own.
        bad = ~np.isfinite(array.astype(np.float32) if array.dtype.itemsize < 4 else array)
        _reject(name, array, bad, "finite numbers")


def non_negative(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """Finite numbers that are not negative: probabilities, relevances, counts."""
    finite(name, targets, predictions, options)
    array = np.asarray(targets)
    _reject(name, array, array < 0, "numbers >= 0")


def labels(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """Class indices in ``[0, num_classes)``."""
    array = np.asarray(targets)
    classes = predictions.shape[-1]
    hint = ""
    if array.min() == 1 and array.max() == classes:
        hint = "The labels seem to start at 1: subtract 1."
    elif array.min() >= 0:
        hint = f"The model needs at least {int(array.max()) + 1} classes for them."
    takes = f"class indices in [0, {classes}), as the predictions have {classes} classes"
    _reject(name, array, (array < 0) | (array >= classes), takes, hint)


def labels_or_distribution(
    name: str, targets: Any, predictions: Any, options: Mapping[str, Any]
) -> None:
    """Class indices, or probabilities where the targets have the predictions' shape."""
    same_shape = np.shape(targets) == predictions.shape
    (non_negative if same_shape else labels)(name, targets, predictions, options)


def unit_interval(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """Probabilities in ``[0, 1]``."""
    finite(name, targets, predictions, options)
    array = np.asarray(targets)
    is_sign = set(np.unique(array[(array < 0) | (array > 1)]).tolist()) == {-1}
    hint = "For targets of -1 and 1 use 'hinge_loss', or (targets + 1) / 2." if is_sign else ""
    _reject(name, array, (array < 0) | (array > 1), "probabilities in [0, 1]", hint)


def zero_or_one(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """Just 0 and 1."""
    array = np.asarray(targets)
    _reject(name, array, (array != 0) & (array != 1), "0 and 1")


def sign(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """Just -1 and 1."""
    array = np.asarray(targets)
    bad = (array != -1) & (array != 1)
    hint = "Make them signs with 2 * targets - 1." if not (array[bad] != 0).any() else ""
    _reject(name, array, bad, "-1 and 1", hint)


def all_finite(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """Every array of a user's targets is finite."""
    for leaf in jax.tree.leaves(targets):
        finite(name, leaf, predictions, options)


def nothing(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """The targets are not used."""


def groups(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """At least one pair of examples shares its group label."""
    array = np.asarray(targets)
    if np.unique(array).size == array.size:
        raise DataError(
            f"targets of loss {name!r} hold {array.size} different group labels; it takes at "
            "least one pair of equal labels, as the loss compares positive pairs"
        )


def segmentation(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """Class indices, or probabilities in ``[0, 1]``."""
    is_labels = np.shape(targets) == predictions.shape[:-1] and predictions.shape[-1] > 1
    (labels if is_labels else unit_interval)(name, targets, predictions, options)


def ranking(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """Relevances that are not negative, where the mask does not hide them."""
    relevance, mask = targets if isinstance(targets, tuple) else (targets, None)
    if mask is not None:
        relevance = np.where(np.asarray(mask).astype(bool), relevance, 0)
    non_negative(name, relevance, predictions, options)


def ctc(name: str, targets: Any, predictions: Any, options: Mapping[str, Any]) -> None:
    """Right-padded labels, none of them blank, short enough for the frames there are."""
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    values, paddings = targets if isinstance(targets, tuple) else (targets, None)
    values = np.asarray(values)
    if paddings is None:
        padded = values < 0
    else:
        paddings = np.asarray(paddings)
        if not np.isin(paddings, (0, 1)).all():
            raise DataError(f"label_paddings of loss {name!r} hold other values than 0 and 1")
        padded = paddings == 1
    frames, classes = logits.shape[1:]
    # A padded label followed by a real one: the loss reads only a prefix of each row.
    if (padded[:, :-1] & ~padded[:, 1:]).any():
        row = int(np.argwhere((padded[:, :-1] & ~padded[:, 1:]).any(axis=1))[0, 0])
        raise DataError(
            f"targets of loss {name!r} are padded before their end in row {row}; it takes labels "
            "on the left and padding on the right"
        )
    blank = options["blank_id"]
    bad = ~padded & ((values < 0) | (values >= classes) | (values == blank))
    _reject(name, values, bad, f"labels in [0, {classes}) other than the blank {blank}")
    repeats = (values[:, 1:] == values[:, :-1]) & ~padded[:, 1:]
    needed = (~padded).sum(axis=1) + repeats.sum(axis=1)
    if (needed > frames).any():
        row = int(np.argwhere(needed > frames)[0, 0])
        raise DataError(
            f"targets of loss {name!r} need {int(needed[row])} frames in row {row} (labels, and a "
            f"blank between equal ones), but the predictions have {frames}"
        )
