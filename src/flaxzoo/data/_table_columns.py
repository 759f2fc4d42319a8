"""Columns of a table to float32 features: fitted to the training part, then the same for all."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from flaxzoo._warnings import warn
from flaxzoo.errors import DataError


def _most_frequent(values: np.ndarray) -> float:
    """The most frequent value; of several the least."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct[np.argmax(counts)]


# What a missing number becomes, and what is subtracted from numbers and divides them then. They are
# the statistics of scikit-learn's SimpleImputer, StandardScaler and MinMaxScaler.
_FILLS: dict[str, Callable[[np.ndarray], Any] | None] = {
    "mean": np.mean,
    "median": np.median,
    "most_frequent": _most_frequent,
    "indicator": np.mean,
    "error": None,
}
_SCALINGS: dict[str, Callable[[np.ndarray], tuple[Any, Any]]] = {
    "standard": lambda values: (values.mean(), values.std()),
    "minmax": lambda values: (values.min(), np.ptp(values)),
    "none": lambda values: (0, 1),
}
SCALINGS, MISSING = tuple(_SCALINGS), tuple(_FILLS)
ENCODINGS = ("onehot", "integer")
# "1,234" and "1,234.5"; these, and "1,5" and "1.234,5"; "01".
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", re.ASCII)
_COMMAS = re.compile(rf"[+-]?(\d+|\d{{1,3}}(\.\d{{3}})+),\d+|{_THOUSANDS.pattern}", re.ASCII)
_MARKS = str.maketrans("", "", "%$\u20ac\u00a3\u00a5 \u00a0\u202f")
_CODE = re.compile(r"[+-]?0\d", re.ASCII)
_SHOWN = 3
# What a missing value of a categorical column is called among the categories.
ABSENT = "(missing)"


@dataclasses.dataclass(frozen=True)
class NumericColumn:
    """A column of numbers.

    Attributes:
      name: the column's name.
      fill: the number that a missing value becomes; None refuses missing values.
      shift: the number that is subtracted first.
      scale: the number that divides the difference.
      indicator: whether a second feature says where the value was missing.
    """

    name: str
    fill: float | None
    shift: float
    scale: float
    indicator: bool

    @classmethod
    def fit(
        cls, name: str, values: np.ndarray, rows: np.ndarray, scaling: str, missing: str
    ) -> NumericColumn:
        """Fits a column to its training values.

        Args:
          name: the column's name.
          values: all of its values, float64 ``[N]`` with NaN where missing.
          rows: the rows of the training part.
          scaling: one of ``SCALINGS``.
          missing: one of ``MISSING``.

        Raises:
          DataError: the values are all missing or all the same, or missing where none may be.
        """
        if missing == "error":
            _refuse_missing(name, np.isnan(values))
        values = values[rows]
        absent = np.isnan(values)
        known = values[~absent]
        _refuse_constant(name, [f"{value:g}" for value in np.unique(known)[:2]], len(rows))
        statistic = _FILLS[missing]
        fill = None if statistic is None else float(statistic(known))
        shift, scale = _SCALINGS[scaling](
            values if fill is None else np.where(absent, fill, values)
        )
        indicator = missing == "indicator" and bool(absent.any())
        return cls(name, fill, float(shift), float(scale), indicator)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features that it becomes."""
        return (self.name, f"{self.name}{ABSENT}") if self.indicator else (self.name,)

    def encode(self, values: np.ndarray, out: np.ndarray) -> None:
        """Writes the features of some rows into ``out``, float32 ``[N, features]``."""
        absent = np.isnan(values)
        if self.fill is None:
            _refuse_missing(self.name, absent)
        elif absent.any():
            values = np.where(absent, self.fill, values)
        out[:, 0] = (values - self.shift) / self.scale
        if self.indicator:
            out[:, 1] = absent


@dataclasses.dataclass(frozen=True)
class CategoricalColumn:
    """A column of categories.

    Attributes:
      name: the column's name.
      categories: the categories as text, in order; ``"(missing)"`` may be one of them.
      onehot: whether each category becomes a feature that is 0 or 1; else the column becomes one
        feature, the category's number from 1 on. A category that was not in the training part is
        0 everywhere.
      fill: the category that a missing value becomes; None leaves it ``"(missing)"``.
      refuse: whether a missing value is an error.
      text: whether the values were text: a file's codes, such as 01, are then read as text too.
    """

    name: str
    categories: tuple[str, ...]
    onehot: bool
    fill: str | None
    refuse: bool
    text: bool = False

    @classmethod
    def fit(
        cls,
        name: str,
        labels: np.ndarray,
        rows: np.ndarray,
        encoding: str,
        missing: str,
        limit: int,
        text: bool = False,
    ) -> CategoricalColumn:
        """Fits a column to its training values.

        Args:
          name: the column's name.
          labels: all of its values, as ``labels_of`` makes them.
          rows: the rows of the training part.
          encoding: one of ``ENCODINGS``.
          missing: one of ``MISSING``; numbers' means and medians leave ``"(missing)"``.
          limit: the largest number of categories.
          text: whether the values were text.

        Raises:
          DataError: the values are all missing or all the same, too many are different, or
            some are missing where none may be.
        """
        if missing == "error":
            _refuse_missing(name, labels == ABSENT)
        labels = labels[rows]
        absent = labels == ABSENT
        counts = Counter(labels[~absent].tolist())
        categories = tuple(sorted(counts, key=by_value))
        if categories and absent.any() and missing != "most_frequent":
            categories = (*categories, ABSENT)
        _refuse_constant(name, list(map(repr, categories)), len(labels))
        # The first by letter where several are as frequent.
        most = max(sorted(counts), key=counts.__getitem__)
        fill = most if missing == "most_frequent" else None
        if len(categories) > limit:
            hint = numbers_hint(categories)
            raise DataError(
                f"column {name!r} has {len(categories)} categories in {len(labels)} rows, more "
                f"than max_categories={limit}: leave it out of the features if its values are "
                f"names or numbers of the rows, or raise max_categories.{hint}"
            )
        return cls(name, categories, encoding == "onehot", fill, missing == "error", text)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features that it becomes."""
        if self.onehot:
            return tuple(f"{self.name}={category}" for category in self.categories)
        return (f"{self.name}",)

    def encode(self, labels: np.ndarray, out: np.ndarray) -> None:
        """Writes the features of some rows into ``out``, float32 ``[N, features]``."""
        if self.refuse:
            _refuse_missing(self.name, labels == ABSENT)
        if self.fill is not None:
            labels = np.where(labels == ABSENT, self.fill, labels)
        codes = codes_of(labels, self.categories, numbers=not self.text)
        if self.onehot:
            out[:] = 0
            known = np.flatnonzero(codes >= 0)
            out[known, codes[known]] = 1
        else:
            out[:, 0] = codes + 1


def labels_of(series: Any) -> np.ndarray:
    """Categories as text, object ``[N]``; missing ones are ``"(missing)"``.

    A whole number reads the same whether a file's other rows made it an int or a float.
    """
    import pandas as pd

    codes, values = pd.factorize(series)
    names = np.array([*map(_label, values), ABSENT], dtype=object)
    return names[codes]


def codes_of(labels: np.ndarray, categories: Iterable[str], *, numbers: bool) -> np.ndarray:
    """The place of each label among the categories, int64 ``[N]``; -1 for others.

    Args:
      labels: what ``labels_of`` makes of a column.
      categories: the categories as text, in order.
      numbers: whether the categories were numbers once: ``"02"`` and ``"2.0"``, which are text in
        a file that has words beside them, are then ``"2"``.
    """
    import pandas as pd

    index = pd.Index([unicodedata.normalize("NFC", name) for name in categories], dtype=object)
    codes = index.get_indexer(pd.Index(labels, dtype=object))
    if numbers and (unknown := codes < 0).any():
        codes[unknown] = index.get_indexer(pd.Index(map(_same_number, labels[unknown]), object))
    return codes


def numbers_of(series: Any, name: str) -> np.ndarray:
    """Numbers, float64 ``[N]``; NaN where missing.

    Raises:
      DataError: a value is no number, or is infinite; the message gives its row.
    """
    import pandas as pd

    if pd.api.types.is_complex_dtype(series.dtype) or pd.api.types.is_datetime64_any_dtype(
        series.dtype
    ):
        raise DataError(
            f"column {name!r} holds {series.dtype} values; make numbers of them first, such as "
            "days since a date"
        )
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    values = pd.to_numeric(series, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = np.isnan(values) & ~series.isna().to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"column {name!r} is numeric, but row {row} (from 0) holds {series.iloc[row]!r} "
            f"({int(wrong.sum())} of {len(values)} values are no numbers)"
            + _reading(str(series.iloc[row]))
        )
    if np.isinf(values).any():
        row = int(np.argmax(np.isinf(values)))
        raise DataError(f"column {name!r} holds {values[row]} in row {row} (from 0)")
    return values


def is_text(series: Any) -> bool:
    """Whether a column holds text and nothing else, but for missing values."""
    import pandas as pd

    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.cat.categories
    return bool(pd.api.types.infer_dtype(series, skipna=True) == "string")


def is_numeric(series: Any) -> bool:
    """Whether a column's type is one of numbers; bool counts."""
    import pandas as pd

    return bool(pd.api.types.is_numeric_dtype(series.dtype))


def _refuse_constant(name: str, values: Sequence[str], rows: int) -> None:
    """Refuses a column that cannot teach anything, by its different values."""
    if not values:
        raise DataError(
            f"column {name!r} has no value in the training part ({rows} rows); leave it out of "
            "the features"
        )
    if len(values) == 1:
        raise DataError(
            f"column {name!r} is constant in the training part (always {values[0]}): it says "
            "nothing; leave it out of the features"
        )


def _refuse_missing(name: str, absent: np.ndarray) -> None:
    if absent.any():
        raise DataError(
            f"column {name!r} lacks {int(absent.sum())} of {len(absent)} values (first in row "
            f"{int(np.argmax(absent))}, from 0) and missing='error' allows none"
        )


def _label(value: Any) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    # One letter may be written as one character or as two: a name is one all the same.
    return unicodedata.normalize("NFC", str(value))


def _same_number(label: str) -> str:
    number = _number(label)
    return label if number is None else _label(number)


def by_value(label: str) -> tuple[int, float, str]:
    """Numbers by size, before words by letter."""
    number = _number(label)
    return (1, 0.0, label) if number is None else (0, number, label)


def numbers_hint(labels: Iterable[str]) -> str:
    """How text of which most is numbers is read as numbers, in words; nothing for other text.

    Args:
      labels: the different values of a column, as ``labels_of`` makes them.
    """
    commas, numbers, marked, others = [], [], [], []
    for label in labels:
        if label == ABSENT:
            continue
        if _number(label) is not None:
            numbers.append(label)
        elif _COMMAS.fullmatch(label.strip()):
            commas.append(label)
        elif _number(label.translate(_MARKS)) is not None:
            marked.append(label)
        else:
            others.append(label)
    count = len(commas) + len(numbers) + len(marked)
    # Zeros in front are those of codes.
    if count < 2 or count <= len(others) or any(map(_CODE.match, numbers)):
        return ""
    odd, options = "", []
    if commas:
        odd += f" with a comma, such as {commas[0]!r}"
        thousands = all(_THOUSANDS.fullmatch(label.strip()) for label in commas)
        options.append("'thousands': ','" if thousands else "'decimal': ','")
    if marked:
        odd += f" with a mark, such as {marked[0]!r}"
        options.append("'converters': {column: function}")
    if others:
        odd += f", but not {', '.join(map(repr, others[:_SHOWN]))}"
        options.append(f"'na_values': {others[:_SHOWN]}")
    way = f"read_options={{{', '.join(options)}}}" if options else "numeric="
    alone = bool(others) and len(options) == 1
    reads = "makes such values of a file missing" if alone else "reads them from a file"
    return f"most of its values are numbers{odd}: {way} {reads if options else 'reads them'}"


def warn_of_numbers(what: str, labels: np.ndarray, otherwise: str) -> None:
    """Warns of text of which most is numbers where each value would count for itself.

    Args:
      what: becomes what for each value, for the message.
      labels: the column, as ``labels_of`` makes it.
      otherwise: the argument that says that the values are names.
    """
    names = sorted(set(labels.tolist()) - {ABSENT}, key=by_value)
    hint = numbers_hint(names)
    if hint:
        warn(
            f"{what} for each of its {len(names)} values, though {hint}; {otherwise} "
            "says that they are names",
        )


def _reading(value: str) -> str:
    """How a file's value that is no number would become one, or missing."""
    if _THOUSANDS.fullmatch(value.strip()):
        return "; read_options={'thousands': ','} reads it as one"
    if _COMMAS.fullmatch(value.strip()):
        return "; read_options={'decimal': ','} reads it as one"
    return f"; read_options={{'na_values': [{value!r}]}} makes it missing"


def _number(label: Any) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return None if np.isnan(number) else number
