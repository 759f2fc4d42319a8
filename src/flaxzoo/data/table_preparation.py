"""What turns rows of a table into features, fitted once and kept."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from flaxzoo._finite import check_scores
from flaxzoo._host import as_host
from flaxzoo.data._table_columns import (
    CategoricalColumn,
    NumericColumn,
    is_numeric,
    is_text,
    labels_of,
    numbers_of,
    warn_of_numbers,
)
from flaxzoo.data._table_files import column, read_table
from flaxzoo.data._table_options import to_json
from flaxzoo.data._table_target import Target
from flaxzoo.data.saved import read_document, write_document
from flaxzoo.errors import DataError

_KIND = "table_preparation"
_KINDS = {"numeric": NumericColumn, "categorical": CategoricalColumn}


@dataclasses.dataclass(frozen=True)
class TablePreparation:
    """Columns, their statistics and the target of a table: all that prediction needs.

    ``TableCSV`` fits one; ``load`` reads it back where there is no training data any more.

    Attributes:
      columns: the columns that become features, in their order.
      target: what is to be predicted.
      read_options: the keywords for ``pandas.read_csv`` where a file is read.
      unsaved: the names of options that JSON could not hold when it was saved, functions mostly.
    """

    columns: tuple[NumericColumn | CategoricalColumn, ...]
    target: Target
    # A dict has no hash.
    read_options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    unsaved: tuple[str, ...] = ()

    @property
    def feature_names(self) -> tuple[str, ...]:
        """A name for each feature: ``age``, ``island=Biscoe``, ``age(missing)``."""
        return tuple(name for column in self.columns for name in column.feature_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, as text, in the order of their labels; empty for regression."""
        return self.target.class_names

    @property
    def categories(self) -> dict[str, tuple[str, ...]]:
        """The categories of each categorical column.

        With ``encoding="integer"`` a column's values run from 0 (unknown) to their number: an
        embedding needs one row more than there are categories.
        """
        return {
            column.name: column.categories
            for column in self.columns
            if isinstance(column, CategoricalColumn)
        }

    def transform(self, table: Any, *, read_options: Mapping[str, Any] | None = None) -> np.ndarray:
        """The features of new rows.

        Args:
          table: a data frame, a mapping of columns, or the path of a CSV file. Further columns,
            the target for one, do not matter.
          read_options: keywords for ``pandas.read_csv``, in place of the training file's, which
            hold otherwise (but for ``nrows``, and ``usecols``: what is needed is read).

        Returns:
          float32 ``[N, features]``.

        Raises:
          DataError: a column is absent, or a value is no number, infinite, or missing where
            ``missing="error"``; the file cannot be read.
        """
        return self.features_of(self._read(table, self._names(), read_options))

    def features_of(self, frame: Any, rows: np.ndarray | None = None) -> np.ndarray:
        """``transform`` of a data frame, of some of its rows only."""
        size = len(frame) if rows is None else len(rows)
        features = np.empty((size, len(self.feature_names)), np.float32)
        start = 0
        # Column by column, so that no second copy of the table is ever made.
        for each in self.columns:
            stop = start + len(each.feature_names)
            series = column(frame, each.name)
            series = series if rows is None else series.iloc[rows]
            values = (
                numbers_of(series, each.name)
                if isinstance(each, NumericColumn)
                else labels_of(series)
            )
            each.encode(values, features[:, start:stop])
            start = stop
        return features

    def transform_target(
        self, table: Any, *, read_options: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """The targets of new rows.

        Args:
          table: the rows, as ``transform`` takes them.
          read_options: keywords for ``pandas.read_csv``, as ``transform`` takes them.

        Returns:
          int32 labels ``[N]``, or float32 ``[N, 1]``.

        Raises:
          DataError: the column is absent, or a value is missing, no known class, or no number.
        """
        frame = self._read(table, [self.target.name], read_options)
        return self.target.encode(column(frame, self.target.name))

    def arrays(
        self, table: Any, *, read_options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features and targets of another table, a test set for instance.

        Args:
          table: the rows, as ``transform`` takes them.
          read_options: keywords for ``pandas.read_csv``, as ``transform`` takes them.

        Returns:
          ``(transform(table), transform_target(table))``; the errors are theirs.
        """
        frame = self._read(table, [*self._names(), self.target.name], read_options)
        return self.transform(frame), self.transform_target(frame)

    def inverse_target(self, predictions: Any) -> np.ndarray:
        """Predictions in the units of the target column.

        Args:
          predictions: what a model gave: logits ``[N, classes]``, or numbers ``[N, 1]``.

        Returns:
          The names of the highest logits' classes, object ``[N]``; or float32 ``[N]``, with the
          scaling of the target undone.

        Raises:
          DataError: predictions of another shape, or NaN where a class is to be told.
        """
        array = as_host(predictions, "predictions")
        width = len(self.class_names) or 1
        if array.ndim != 2 or array.shape[1] != width:
            raise DataError(f"predictions must be [N, {width}], got {list(array.shape)}")
        if self.class_names:
            check_scores(array, "predictions")
            return np.array(self.class_names, object)[array.argmax(axis=1)]
        return (array[:, 0] * self.target.scale + self.target.shift).astype(np.float32)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a JSON file.

        Functions among ``read_options`` cannot be written: after ``load``, a file then needs its
        ``read_options`` again.

        Raises:
          DataError: the file cannot be written.
        """
        kinds = {kind: name for name, kind in _KINDS.items()}
        columns = [{"kind": kinds[type(c)], **dataclasses.asdict(c)} for c in self.columns]
        target = dataclasses.asdict(self.target)
        options, others = to_json(self.read_options)
        document = {
            "columns": columns,
            "target": target,
            "read_options": options,
            "unsaved": sorted({*self.unsaved, *others}),
        }
        write_document(path, _KIND, document, indent=2)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TablePreparation:
        """Reads what ``save`` wrote.

        Raises:
          DataError: the file is missing, damaged or of something else.
        """
        document = read_document(path, _KIND)
        try:
            columns = tuple(
                _KINDS[fields["kind"]](**{k: _frozen(v) for k, v in fields.items() if k != "kind"})
                for fields in document["columns"]
            )
            target = Target(**{k: _frozen(v) for k, v in document["target"].items()})
            options = dict(document.get("read_options", {}))
            unsaved = tuple(document.get("unsaved", ()))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: not understood ({error})") from error
        return cls(columns, target, options, unsaved)

    def _names(self) -> list[str]:
        return [column.name for column in self.columns]

    def _read(self, table: Any, names: list[str], options: Mapping[str, Any] | None) -> Any:
        if options is None and self.unsaved and isinstance(table, str | os.PathLike):
            raise DataError(
                f"{table} needs read_options=: {', '.join(map(repr, self.unsaved))} of the "
                "training file's could not be saved"
            )
        text = [
            each.name
            for each in (*self.columns, self.target)
            if not isinstance(each, NumericColumn) and each.text
        ]
        return read_table(
            table, names, self.read_options if options is None else options, text=text
        )


def fit_columns(
    frame: Any,
    names: Iterable[str],
    rows: np.ndarray,
    *,
    kinds: Mapping[str, str],
    scaling: str,
    encoding: str,
    missing: str,
    max_categories: int,
) -> tuple[NumericColumn | CategoricalColumn, ...]:
    """Fits each column to the training rows.

    Args:
      frame: the whole table.
      names: the names of the columns.
      rows: the rows of the training part.
      kinds: ``"numeric"`` or ``"categorical"`` for columns where the type is not to decide.
      scaling: what to do to numbers; see ``TableCSV``.
      encoding: what to do to categories; see ``TableCSV``.
      missing: what to do about missing values; see ``TableCSV``.
      max_categories: the largest number of categories of a column.

    Raises:
      DataError: a column is empty or constant, lacks values where none may be missing, holds
        something other than numbers, or has too many categories.
    """
    columns: list[NumericColumn | CategoricalColumn] = []
    for name in names:
        series = column(frame, name)
        kind = kinds.get(name) or ("numeric" if is_numeric(series) else "categorical")
        if kind == "numeric":
            numbers = numbers_of(series, name)
            columns.append(NumericColumn.fit(name, numbers, rows, scaling, missing))
        elif series.isna().all():
            # An empty column has no type that would tell its kind.
            raise DataError(f"column {name!r} has no value at all; leave it out of the features")
        else:
            labels, text = labels_of(series), is_text(series)
            columns.append(
                CategoricalColumn.fit(name, labels, rows, encoding, missing, max_categories, text)
            )
            if text and name not in kinds:
                what, otherwise = f"column {name!r} becomes a feature", f"categorical=[{name!r}]"
                warn_of_numbers(what, labels, otherwise)
    return tuple(columns)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
