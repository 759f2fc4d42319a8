"""Options of ``pandas.read_csv``: for a first look at a file, for later files, and in JSON."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from flaxzoo._config import NotJsonableError
from flaxzoo._config import to_json as value_to_json
from flaxzoo.errors import DataError

# They tell what becomes of values, columns and rows, but not where a line's fields begin and end.
_NOT_OF_THE_FORM = (
    *("usecols", "index_col", "nrows", "skipfooter", "low_memory", "on_bad_lines"),
    *("dtype", "dtype_backend", "converters", "parse_dates", "date_format", "dayfirst"),
    *("na_values", "keep_default_na", "na_filter", "true_values", "false_values"),
    *("thousands", "decimal", "float_precision"),
)
_IN_PIECES = ("chunksize", "iterator")


def peek_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that read a file's first two lines as text, the header for one, as a whole table."""
    form = {name: value for name, value in options.items() if name not in _NOT_OF_THE_FORM}
    if form.get("engine") == "pyarrow":
        # It cannot stop after two lines.
        del form["engine"]
    # The second line tells whether rows are longer than the header; index_col says what then.
    lines = 1 if "index_col" in options else 2
    # A column may be called "NA"; only an empty name is none.
    values = {"dtype": str, "keep_default_na": False, "na_values": [""]}
    return with_engine({**form, **values, "header": None, "nrows": lines})


def with_engine(options: Mapping[str, Any]) -> dict[str, Any]:
    """Chooses the parser that takes the options, which pandas does with warnings or not at all.

    Raises:
      DataError: an option that does not read the table as a whole.
    """
    chosen = dict(options)
    for name in _IN_PIECES:
        if chosen.get(name):
            raise DataError(f"read_options must read the table as a whole, without {name!r}")
    separator = chosen.get("delimiter")
    if separator is None:
        separator = chosen.get("sep", ",")
    wide = isinstance(separator, str) and len(separator.encode()) > 1 and separator != r"\s+"
    if "engine" not in chosen and (separator is None or wide or chosen.get("skipfooter")):
        chosen["engine"] = "python"
    if chosen.get("engine", "c") == "c":
        # Otherwise large files may get columns of mixed types.
        chosen.setdefault("low_memory", False)
    return chosen


def for_other_files(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that hold for further files of the same form, of other lengths and more columns."""
    left_out = {"nrows"}
    # A file to predict lacks the target; with names or index_col, places have their meaning.
    if not callable(options.get("usecols")) and not {"names", "index_col"} & options.keys():
        left_out.add("usecols")
    return {name: value for name, value in options.items() if name not in left_out}


def with_text(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Has columns read as text, unless the options say what they are."""
    wanted = [name for name in names if name not in (options.get("converters") or ())]
    dtype = options.get("dtype")
    if not wanted or not (dtype is None or isinstance(dtype, Mapping)):
        return dict(options)
    # A copy keeps a defaultdict's default.
    types: Any = {} if dtype is None else copy.copy(dtype)
    for name in wanted:
        if name not in types:
            types[name] = str
    return {**options, "dtype": types}


def to_json(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What JSON can hold of options, and the names of the others, such as functions."""
    chosen: dict[str, Any] = {}
    others: list[str] = []
    for name, value in options.items():
        try:
            if name == "converters" or isinstance(value, defaultdict):
                # A type among converters is a function; a defaultdict holds one.
                raise NotJsonableError(name)
            chosen[name] = value_to_json(value, _type_name)
        except NotJsonableError:
            others.append(name)
    return chosen, others


def _type_name(value: Any) -> str | None:
    """The name of one of Python's own types, as ``dtype`` takes it."""
    return value.__name__ if value in (str, int, float, bool, object) else None
