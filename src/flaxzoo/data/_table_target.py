"""The target column of a table: classes, or numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from flaxzoo.data._table_columns import (
    by_value,
    codes_of,
    is_numeric,
    is_text,
    labels_of,
    numbers_of,
)
from flaxzoo.errors import DataError

TASKS = ("classification", "regression")
# Whole numbers of more values than this are counts or measurements rather than classes.
_MOST_CLASSES = 20


@dataclasses.dataclass(frozen=True)
class Target:
    """What is to be predicted.

    Attributes:
      name: the column's name.
      task: ``"classification"`` or ``"regression"``.
      class_names: the classes in the order of their labels; empty for regression.
      shift: the number that is subtracted from numbers.
      scale: the number that divides the difference.
      text: whether the classes were text: a file's codes, such as 01, are then read as text too.
    """

    name: str
    task: str
    class_names: tuple[str, ...] = ()
    shift: float = 0.0
    scale: float = 1.0
    text: bool = False

    def encode(self, series: Any) -> np.ndarray:
        """int32 labels ``[N]``, or float32 ``[N, 1]``.

        Raises:
          DataError: a value is missing, of no known class, or no number.
        """
        _refuse_missing(series, self.name)
        if self.task == "regression":
            numbers = numbers_of(series, self.name)
            return ((numbers - self.shift) / self.scale).astype(np.float32)[:, None]
        labels = labels_of(series)
        codes = codes_of(labels, self.class_names, numbers=not self.text)
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            raise DataError(
                f"target {self.name!r} holds {labels[row]!r} in row {row} (from 0), which is none "
                f"of the classes {', '.join(self.class_names[:10])}"
            )
        return codes.astype(np.int32)


def infer_task(series: Any) -> str:
    """Classes for text, bool and few whole numbers; regression for other numbers."""
    if not is_numeric(series) or series.dtype == bool:
        return "classification"
    numbers = series.dropna().to_numpy(np.float64)
    whole = bool(np.all(numbers == np.round(numbers)))
    few = len(np.unique(numbers)) <= _MOST_CLASSES
    return "classification" if whole and few else "regression"


def class_target(series: Any, name: str) -> Target:
    """The classes of a column.

    Raises:
      DataError: a value is missing, or all are of one class.
    """
    _refuse_missing(series, name)
    names = sorted({str(label) for label in labels_of(series)}, key=by_value)
    if len(names) < 2:
        raise DataError(f"target {name!r} has one class, {names[0]!r}; two at least are needed")
    return Target(name, "classification", tuple(names), text=is_text(series))


def number_target(train: Any, name: str, scaled: bool) -> Target:
    """A numeric target, with the statistics of the training part where it is to be scaled.

    Raises:
      DataError: a value is missing or no number, or all are the same.
    """
    _refuse_missing(train, name)
    numbers = numbers_of(train, name)
    if numbers.min() == numbers.max():
        raise DataError(f"target {name!r} is constant in the training part: {numbers[0]:g}")
    if not scaled:
        return Target(name, "regression")
    return Target(name, "regression", (), float(numbers.mean()), float(numbers.std()))


def _refuse_missing(series: Any, name: str) -> None:
    absent = series.isna().to_numpy()
    if absent.any():
        raise DataError(
            f"target {name!r} is missing in {int(absent.sum())} of {len(absent)} rows (first in "
            f"row {int(np.argmax(absent))}, from 0); drop these rows first"
        )
