"""Tables from CSV files, mappings and data frames, as data frames of pandas."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flaxzoo._extras import require
from flaxzoo.errors import DataError, did_you_mean


def read_table(
    table: Any,
    names: Iterable[str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """A data frame.

    Args:
      table: one, a mapping of columns, or the path of a CSV file.
      names: columns that are needed; a file's others are not read. None reads them all.
      options: for ``pandas.read_csv``.

    Raises:
      DataError: the file is absent, empty or no CSV; a column is absent or there twice; there are
        no rows.
      MissingExtraError: pandas is not installed.
    """
    pd = require("pandas", extra="data", purpose="reading tables")
    what = "the table"
    if isinstance(table, str | os.PathLike):
        what = str(table)
        frame = _read_csv(pd, Path(table), names, dict(options or {}))
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
    if not len(frame):
        raise DataError(f"{what} has no rows")
    return frame


def column(frame: Any, name: str) -> Any:
    """A column, or DataError with the names closest to its."""
    if name not in frame.columns:
        raise _absent(name, list(frame.columns), "the table")
    return frame[name]


def _read_csv(pd: Any, path: Path, names: Iterable[str] | None, options: dict[str, Any]) -> Any:
    if "header" not in options and "names" not in options:
        # Two things pass in silence otherwise: read_csv renames the second of two columns of one
        # name, and takes the first for names of rows where rows are longer than the header.
        first = {k: v for k, v in options.items() if k in ("sep", "encoding", "compression")}
        head = _checked(pd, path, {**first, "header": None, "nrows": 2, "dtype": str})
        header = [
            f"Unnamed: {place}" if pd.isna(value) else str(value)
            for place, value in enumerate(head.iloc[0])
        ]
        if not any(key in options for key in ("skiprows", "comment", "usecols", "index_col")):
            _check_columns(header, names, str(path))
            if names is not None:
                options["usecols"] = list(dict.fromkeys(names))
    # Without low_memory=False, large files may get columns of mixed types.
    return _checked(pd, path, {"low_memory": False, **options})


def _checked(pd: Any, path: Path, options: dict[str, Any]) -> Any:
    if options.get("engine", "c") != "c":
        options.pop("low_memory", None)
    try:
        return pd.read_csv(path, **options)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty") from error
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from error


def _check_columns(found: list[Any], names: Iterable[str] | None, what: str) -> None:
    wanted = set(names) if names is not None else set(found)
    for name in sorted({name for name in found if found.count(name) > 1 and name in wanted}):
        raise DataError(f"{what} has {found.count(name)} columns named {name!r}")
    for name in names or ():
        if name not in found:
            raise _absent(name, found, what)


def _absent(name: str, found: list[Any], what: str) -> DataError:
    columns = [str(each) for each in found]
    shown = ", ".join(columns[:20]) + (", ..." if len(columns) > 20 else "")
    return DataError(
        f"{what} has no column {name!r}.{did_you_mean(str(name), columns)} It has {shown}"
    )
