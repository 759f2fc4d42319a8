"""Tables: CSV files and data frames as features and targets for training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from flaxzoo._checks import check_choice, check_size
from flaxzoo._explain import explained
from flaxzoo.data._table_columns import ENCODINGS, MISSING, SCALINGS, warn_of_numbers
from flaxzoo.data._table_files import column, read_table
from flaxzoo.data._table_options import for_other_files
from flaxzoo.data._table_target import TASKS, Target, class_target, infer_task, number_target
from flaxzoo.data.arrays import train_test_split
from flaxzoo.data.table_preparation import TablePreparation, fit_columns
from flaxzoo.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray]


@explained
class TableCSV:
    """A table, split and turned into arrays that go into ``Trainer.fit`` as they are.

    All statistics (means, ranges, categories) are those of the training part: nothing of the
    validation part reaches the model. Columns of numbers and bools are numeric, others are
    categorical, unless you say so.

    Args:
      table: the path of a CSV file, a data frame of pandas, or a mapping of columns.
      target: the column to predict.
      features: the columns to predict it from; None takes all others.
      exclude: columns to leave out.
      numeric: columns that hold numbers, whatever their type.
      categorical: columns that hold categories, whatever their type: numbers that are codes.
      scaling: what is done to numeric columns: ``"standard"`` brings them to mean 0 and standard
        deviation 1, ``"minmax"`` to 0..1, and ``"none"`` leaves them.
      missing: what missing numbers become: ``"mean"``, ``"median"``, ``"most_frequent"``, or
        ``"indicator"``, the mean and a further feature that says so; ``"error"`` refuses them. In
        categorical columns ``"most_frequent"`` fills and ``"error"`` refuses, and otherwise
        missing is a category of its own.
      encoding: what categorical columns become: ``"onehot"``, a feature of 0 or 1 for each
        category, or ``"integer"``, the category's number from 1 on. A category that the training
        part does not have is 0 in both.
      max_categories: more categories than this in a column are an error, as it is names or
        numbers of the rows that have so many.
      task: ``"classification"`` or ``"regression"``; by default text, bools and whole numbers of
        at most 20 values are classes, and other numbers are regression.
      scale_target: whether a numeric target is standardised; ``inverse_target`` undoes it.
      validation_fraction: the validation part as a fraction, or as a number of rows; 0 for none.
      stratify: whether every class has its share of both parts; by default for classification.
      seed: a non-negative int that selects the split.
      read_options: keywords for ``pandas.read_csv``, such as ``{"sep": ";", "na_values": ["?"]}``,
        also for the files that are transformed later.

    Attributes:
      train: ``(features, targets)`` of the training part: float32 ``[N, F]``, and int32 labels
        ``[N]`` or float32 ``[N, 1]``.
      validation: those of the validation part; None without one.
      preparation: the ``TablePreparation``, for prediction.
      task: ``"classification"`` or ``"regression"``.
      class_names: the classes, as text; empty for regression.
      feature_names: a name for each feature.

    Raises:
      DataError: the file is absent, empty or no CSV; a column is absent (the message shows the
        closest names), there twice, constant, without values or with too many categories; a
        numeric column holds something else (with row and value); the target is missing in a row
        or has one class; a part would be empty.
      ArgumentError: an unknown setting.
      MissingExtraError: pandas is not installed.
    """

    def __init__(
        self,
        table: str | os.PathLike[str] | Any,
        target: str,
        *,
        features: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        numeric: Iterable[str] = (),
        categorical: Iterable[str] = (),
        scaling: str = "standard",
        missing: str = "mean",
        encoding: str = "onehot",
        max_categories: int = 100,
        task: str | None = None,
        scale_target: bool = False,
        validation_fraction: float | int = 0.2,
        stratify: bool | None = None,
        seed: int = 0,
        read_options: Mapping[str, Any] | None = None,
    ) -> None:
        check_choice("scaling", scaling, SCALINGS)
        check_choice("missing", missing, MISSING)
        check_choice("encoding", encoding, ENCODINGS)
        if task is not None:
            check_choice("task", task, TASKS)
        max_categories = check_size("max_categories", max_categories, minimum=2)
        listed = None if features is None else _names("features", features)
        left_out = _names("exclude", exclude)
        chosen = {
            "numeric": _names("numeric", numeric),
            "categorical": _names("categorical", categorical),
        }
        frame = read_table(
            table,
            None if listed is None else [*listed, target],
            read_options,
            present=[*left_out, *chosen["numeric"], *chosen["categorical"]],
        )
        names = _features(frame, target, listed, left_out)
        kinds = _kinds(chosen, names)
        targets = column(frame, target)
        self.task = infer_task(targets) if task is None else task
        if scale_target and self.task == "classification":
            raise DataError("scale_target is for regression; classes have no scale")
        classes = class_target(targets, target) if self.task == "classification" else None
        if classes is not None and classes.text and task is None:
            warn_of_numbers(
                f"target {target!r} becomes a class",
                np.array(classes.class_names, object),
                "task='classification'",
            )
        labels = None if classes is None else classes.encode(targets)
        rows, held_out = _split(len(frame), labels, validation_fraction, stratify, seed)
        if classes is not None and labels is not None:
            _check_classes(classes, labels[rows])
        fitted: Target = classes or number_target(targets.iloc[rows], target, scale_target)
        columns = fit_columns(
            frame,
            names,
            rows,
            kinds=kinds,
            scaling=scaling,
            encoding=encoding,
            missing=missing,
            max_categories=max_categories,
        )
        self.preparation = TablePreparation(columns, fitted, for_other_files(read_options or {}))
        self.train = self._part(frame, rows)
        self.validation = None if held_out is None else self._part(frame, held_out)

    def __repr__(self) -> str:
        held_out = 0 if self.validation is None else len(self.validation[0])
        return (
            f"TableCSV({self.preparation.target.name!r}, {self.task}: {len(self.train[0])} rows "
            f"to train and {held_out} to validate, {len(self.feature_names)} features)"
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """A name for each feature: ``age``, ``island=Biscoe``, ``age(missing)``."""
        return self.preparation.feature_names

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, as text, in the order of their labels; empty for regression."""
        return self.preparation.class_names

    def split(self) -> tuple[Arrays, Arrays | None]:
        """``(train, validation)``."""
        return self.train, self.validation

    def transform(self, table: Any, *, read_options: Mapping[str, Any] | None = None) -> np.ndarray:
        """The features of new rows; see ``TablePreparation.transform``."""
        return self.preparation.transform(table, read_options=read_options)

    def arrays(self, table: Any, *, read_options: Mapping[str, Any] | None = None) -> Arrays:
        """Features and targets of another table; see ``TablePreparation.arrays``."""
        return self.preparation.arrays(table, read_options=read_options)

    def inverse_target(self, predictions: Any) -> np.ndarray:
        """Class names or numbers; see ``TablePreparation.inverse_target``."""
        return self.preparation.inverse_target(predictions)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the preparation to a JSON file, for ``TablePreparation.load``."""
        self.preparation.save(path)

    def _part(self, frame: Any, rows: np.ndarray) -> Arrays:
        prepared = self.preparation
        targets = column(frame, prepared.target.name).iloc[rows]
        return prepared.features_of(frame, rows), prepared.target.encode(targets)


def _features(frame: Any, target: str, features: list[str] | None, exclude: list[str]) -> list[str]:
    column(frame, target)
    if features is not None and target in features:
        raise DataError(f"the target {target!r} is among the features")
    chosen = [name for name in frame.columns if name != target] if features is None else features
    names = [name for name in chosen if name not in exclude]
    unnamed = [name for name in names if str(name).startswith("Unnamed: ")]
    if features is None and unnamed:
        # Row numbers tell the target of a sorted table.
        raise DataError(
            f"column {unnamed[0]!r} has no name in the file, like the row numbers that pandas "
            f"writes; leave it out with exclude=[{unnamed[0]!r}], or list the features"
        )
    if not names:
        raise DataError("there are no features: no column is left beside the target")
    return names


def _names(argument: str, names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise DataError(f"{argument} must be a list of column names, got the str {names!r}")
    columns = list(names)
    for name in columns:
        if columns.count(name) > 1:
            raise DataError(f"{argument} has {name!r} {columns.count(name)} times")
    return columns


def _kinds(chosen: Mapping[str, list[str]], names: list[str]) -> dict[str, str]:
    kinds: dict[str, str] = {}
    for kind, columns in chosen.items():
        for name in columns:
            if name not in names:
                raise DataError(f"{kind} has {name!r}, which is not among the features")
            if kinds.setdefault(name, kind) != kind:
                raise DataError(f"column {name!r} is listed as numeric and as categorical")
    return kinds


def _split(
    size: int,
    labels: np.ndarray | None,
    fraction: float | int,
    stratify: bool | None,
    seed: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    if stratify and labels is None:
        raise DataError("stratify is for classification; numbers have no classes")
    rows = np.arange(size)
    if not isinstance(fraction, bool) and fraction == 0:
        return rows, None
    strata = labels if stratify or stratify is None else None
    return train_test_split(rows, fraction, seed=seed, stratify=strata)


def _check_classes(target: Target, labels: np.ndarray) -> None:
    counts = np.bincount(labels, minlength=len(target.class_names))
    if not counts.all():
        name = target.class_names[int(np.argmin(counts))]
        raise DataError(
            f"no row of class {name!r} of target {target.name!r} is in the training part; it is "
            "too rare to split: leave the class out, take another seed, or, if it is a quantity, "
            "pass task='regression'"
        )
