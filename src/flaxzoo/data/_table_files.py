"""Tables from CSV files, mappings and data frames, as data frames of pandas."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flaxzoo._extras import require
from flaxzoo._files import as_path
from flaxzoo.data._table_options import peek_options, with_engine, with_text
from flaxzoo.errors import DataError, did_you_mean


def read_table(
    table: Any,
    names: Iterable[str] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    present: Iterable[str] = (),
    text: Iterable[str] = (),
) -> Any:
    """A data frame.

    Args:
      table: one, a mapping of columns, or the path of a CSV file.
      names: columns that are needed; a file's others are not read. None reads them all.
      options: keywords for ``pandas.read_csv``.
      present: columns that must be there, but need not be read.
      text: columns of a file that are text, even where all of its values look like numbers.

    Raises:
      DataError: the file is absent, empty or no CSV, or the options are none; a column is absent
        or there twice; there are no rows.
      MissingExtraError: pandas is not installed.
    """
    pd = require("pandas", extra="data", purpose="reading tables")
    what = "the table"
    if isinstance(table, str | os.PathLike):
        what = str(table)
        frame = _read_csv(pd, as_path(table), names, with_text(options or {}, text), present)
        present = ()
    elif isinstance(table, Mapping):
        try:
            frame = pd.DataFrame(dict(table))
        except ValueError as error:
            raise DataError(f"the table's columns do not fit together: {error}") from error
    elif isinstance(table, pd.DataFrame):
        frame = table
    else:
        raise DataError(
            "a table must be a data frame, a mapping of columns or the path of a CSV file, got "
            f"{type(table).__name__}"
        )
    _check_columns(list(frame.columns), names, what)
    _check_present(list(frame.columns), present, what)
    if not len(frame):
        raise DataError(f"{what} has no rows")
    return frame


def column(frame: Any, name: str) -> Any:
    """A column, or DataError with the names closest to its."""
    if name not in frame.columns:
        raise _absent(name, list(frame.columns), "the table")
    return frame[name]


def _read_csv(
    pd: Any,
    path: Path,
    names: Iterable[str] | None,
    options: dict[str, Any],
    present: Iterable[str],
) -> Any:
    header = None
    if options.get("header", "infer") in ("infer", 0) and options.get("names") is None:
        # Two things pass in silence otherwise: read_csv renames the second of two columns of one
        # name, and takes the first for names of rows where rows are longer than the header.
        head = _checked(pd, path, peek_options(options))
        header = [
            f"Unnamed: {place}" if pd.isna(value) else str(value)
            for place, value in enumerate(head.iloc[0])
        ]
        _check_present(header, present, str(path))
        if "usecols" not in options and "index_col" not in options:
            _check_columns(header, names, str(path))
            if names is not None:
                options["usecols"] = list(dict.fromkeys(names))
    frame = _checked(pd, path, with_engine(options))
    if header is None:
        _check_present(list(frame.columns), present, str(path))
    return frame


def _checked(pd: Any, path: Path, options: dict[str, Any]) -> Any:
    try:
        return pd.read_csv(path, **options)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError) as error:
        # Damaged files and bytes of another encoding, but options that read_csv refuses as well.
        raise DataError(f"{path} cannot be read as CSV: {error}") from error


def _check_columns(columns: list[Any], names: Iterable[str] | None, what: str) -> None:
    wanted = set(names) if names is not None else set(columns)
    for name in sorted({name for name in columns if columns.count(name) > 1 and name in wanted}):
        raise DataError(f"{what} has {columns.count(name)} columns named {name!r}")
    _check_present(columns, names or (), what)


def _check_present(columns: list[Any], names: Iterable[str], what: str) -> None:
    for name in names:
        if name not in columns:
            raise _absent(name, columns, what)


def _absent(name: str, columns: list[Any], what: str) -> DataError:
    names = [str(each) for each in columns]
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return DataError(
        f"{what} has no column {name!r}.{did_you_mean(str(name), names)} It has {shown}"
    )
