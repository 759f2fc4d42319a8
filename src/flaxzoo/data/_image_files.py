"""Finding image files and their labels: class folders, and tables of files."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxzoo._files import as_path
from flaxzoo._warnings import warn
from flaxzoo.errors import ArgumentError, DataError, UnknownNameError, did_you_mean

# What Pillow reads and people call pictures; other files beside them are not looked at.
EXTENSIONS = frozenset(
    (
        *(".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
        *(".pfm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    )
)
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}
_SHOWN = 5
# "2", and "2.0", which is what a table writes where a gap made floats of a column.
_WHOLE = re.compile(r"(0|[1-9][0-9]*)(\.0+)?", re.ASCII)


def scan_folders(
    root: str | os.PathLike[str], class_names: Sequence[str] | None = None
) -> tuple[list[str], np.ndarray, list[str]]:
    """The image files of a directory with one folder per class.

    Args:
      root: the directory.
      class_names: the folders to expect, in the order of their labels; None for all of them,
        sorted as text.

    Returns:
      Paths, sorted by class and then as text; int32 labels; class names.

    Raises:
      DataError: ``root`` is no directory, has no class folders or only one, has others than
        ``class_names``, or a folder without image files.
    """
    root = as_path(root)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"root {os.fspath(root)!r} {what}; it must be a directory of class folders")
    real = os.path.realpath(root)
    entries = [entry for entry in root.iterdir() if not entry.name.startswith(".")]
    folders: dict[str, list[str]] = {}
    for name in sorted(e.name for e in entries if e.is_dir() and not _leads_up(e, real)):
        # Two forms of one name are one class, whatever a file system makes of them.
        folders.setdefault(composed(name), []).append(name)
    if not folders:
        hint = ": use ImageCSV for files with a table, or labels= for classes in the file names"
        raise DataError(f"{root} has no class folders in it{hint * any(map(is_image, entries))}")
    if class_names is None:
        parts = set(map(str.lower, folders)) <= _PARTS
        if parts and all(_has_folders(root / name) for name in folders):
            raise DataError(
                f"{root} holds the parts {', '.join(folders)}, not classes: pass one of them, such "
                f"as {os.fspath(root / next(iter(folders)))!r}"
            )
        class_names = sorted(folders)
    there = sorted(folders)
    names = check_class_names(class_names, f"{root} has the folders {_listed(there)}")
    _same_names(names, there, root)
    files: list[tuple[str, str]] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        members = [file for folder in folders[name] for file in _images_in(root / folder)]
        if not members:
            raise DataError(
                f"class folder {os.fspath(root / name)!r} has no image files "
                f"({', '.join(sorted(EXTENSIONS))})"
            )
        files += members
        labels += [label] * len(members)
    start = 0 if root == Path() else len(os.fspath(root))
    if not all(real.endswith(file[start:]) for file, real in files):
        _warn_of_two_labels(files, labels)
    return [file for file, _ in files], np.asarray(labels, np.int32), names


def scan_names(
    root: str | os.PathLike[str], labels: Any, class_names: Sequence[str] | None = None
) -> tuple[list[str], np.ndarray, list[str]]:
    """The image files of a directory whose names tell their classes.

    Args:
      root: the directory; files are found at any depth.
      labels: a regular expression that is searched for in each file's name, whose one group is
        the class; or a function of a file's ``pathlib.Path`` that returns it.
      class_names: the classes in the order of their labels; None for those of the files, sorted
        as numbers if they are whole numbers, else as text.

    Returns:
      Paths, sorted as text; int32 labels; class names.

    Raises:
      DataError: ``root`` is no directory or holds no image files, a file has no class or none of
        ``class_names`` (it is named), or all have the same.
      ArgumentError: ``labels`` is neither of the two, or no expression with one group.
    """
    class_of = _class_of(labels)
    root = as_path(root)
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(f"root {os.fspath(root)!r} {what}; it must be a directory of image files")
    files = [file for file, _ in _images_in(root)]
    if not files:
        raise DataError(f"{root} has no image files ({', '.join(sorted(EXTENSIONS))})")
    texts = [class_of(file) for file in files]
    absent = [file for file, text in zip(files, texts, strict=True) if not text]
    if absent:
        shown = labels if isinstance(labels, str) else getattr(labels, "pattern", "the function")
        raise DataError(
            f"{len(absent)} of {len(files)} files have no class by labels={shown!r}: "
            f"{_listed(absent)}"
        )
    found = _sorted_classes(texts)
    names = check_class_names(
        found if class_names is None else class_names,
        f"labels= finds {_listed(found)} in the names of {len(files)} files, such as {files[0]}",
    )
    numbers = _numbered(
        texts,
        names,
        lambda count, i: (
            f"{count} of {len(files)} files are of no class in class_names: the first is "
            f"{files[i]}, of {texts[i]!r}"
        ),
    )
    return files, numbers, names


def _numbered(
    texts: Sequence[str], names: Sequence[str], told: Callable[[int, int], str]
) -> np.ndarray:
    """Labels as the positions of their names.

    Args:
      texts: a name for each file.
      names: all there are.
      told: says how many are none of them, and where the first one is.

    Raises:
      DataError: some are none of them.
    """
    index = {name: label for label, name in enumerate(names)}
    unknown = [i for i, text in enumerate(texts) if text not in index]
    if unknown:
        first = unknown[0]
        raise DataError(
            f"{told(len(unknown), first)}.{did_you_mean(texts[first], names)} The classes are "
            f"{_listed(names)}"
        )
    return np.asarray([index[text] for text in texts], np.int32)


def _class_of(labels: Any) -> Callable[[str], str]:
    """The class that a file's path tells; an empty text for none."""
    if callable(labels):
        return lambda file: _called(labels, file)
    example = "such as r'([a-z]+)\\.[0-9]+\\.jpg' for cat.0.jpg"
    if not isinstance(labels, str | re.Pattern):
        raise ArgumentError(
            f"labels must be a regular expression with one group, {example}, or a function of a "
            f"path, got {type(labels).__name__}; ImageDataset(files, labels, class_names) takes "
            "lists"
        )
    try:
        pattern = re.compile(labels)
    except re.error as error:
        raise ArgumentError(f"labels={labels!r} is no regular expression: {error}") from error
    if pattern.groups != 1 or isinstance(pattern.pattern, bytes):
        raise ArgumentError(
            f"labels must be a regular expression with one group, {example}, got "
            f"{pattern.pattern!r} with {pattern.groups}; for a folder per class leave labels out"
        )

    def searched(file: str) -> str:
        match = pattern.search(os.path.basename(file))
        return composed(match[1] or "") if match else ""

    return searched


def _called(function: Callable[[Path], Any], file: str) -> str:
    try:
        return composed(_text(function(Path(file))))
    except Exception as error:
        raise DataError(f"labels={function!r} fails for {file}: {error!r}") from error


def read_table(
    table: Any,
    root: str | os.PathLike[str] | None,
    *,
    file_column: str,
    label_column: str,
    class_names: Sequence[str] | None,
    delimiter: str,
) -> tuple[list[str], np.ndarray, list[str]]:
    """The files and labels that a CSV file, a data frame or a mapping of columns names.

    Args:
      table: path of a CSV file with a header, or columns by name.
      root: the directory that the paths are relative to; None for the CSV file's own.
      file_column: name of the column with the paths.
      label_column: name of the column with the classes.
      class_names: the classes in the order of their labels; None for those in the table, sorted
        as numbers if they are whole numbers, else as text.
      delimiter: between columns.

    Returns:
      Paths, in the table's order; int32 labels; class names.

    Raises:
      DataError: no table or an empty one, empty cells, a file listed twice or missing, one class
        only, a label that is not in ``class_names``. The first few are listed.
      UnknownNameError: (a KeyError) no such column; the columns are listed.
    """
    if isinstance(table, str | os.PathLike):
        name = os.path.expanduser(os.fspath(table))
        columns, lines = _read_csv(name, delimiter)
        root = Path(name).parent if root is None else as_path(root)
    else:
        name = f"the {type(table).__name__}"
        columns, lines = _columns_of(table), None
    for argument, column in (("file_column", file_column), ("label_column", label_column)):
        if column not in columns:
            raise UnknownNameError(
                f"{argument} {column!r} is not a column of {name}."
                f"{did_you_mean(str(column), columns)} "
                f"There are: {', '.join(map(repr, columns)) or 'none'}"
            )
    paths, texts = columns[file_column], list(map(composed, columns[label_column]))
    if not paths:
        raise DataError(f"{name} has no rows")
    where = lines or range(len(paths))
    kind = "line" if lines else "row"
    for column, values in ((file_column, paths), (label_column, texts)):
        empty = [str(place) for place, value in zip(where, values, strict=True) if not value]
        if empty:
            raise DataError(f"{name} has no {column!r} in {kind} {_listed(empty)}")
    files = [_on_disk(os.path.normpath(os.path.join(root or "", path))) for path in paths]
    first: dict[str, int] = {}
    for place, path, file in zip(where, paths, files, strict=True):
        if first.setdefault(file, place) != place:
            raise DataError(
                f"{name} lists {path!r} twice, in {kind}s {first[file]} and {place}: every file "
                "must have one label and belong to one part of a split"
            )
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} files of {name} do not exist: {_listed(missing)}"
        )
    names = check_class_names(
        _sorted_classes(texts) if class_names is None else class_names,
        f"{name} has the labels {_listed(_sorted_classes(texts))}",
    )
    known = set(names)
    texts = [text if text in known else _whole(text) for text in texts]
    numbers = _numbered(
        texts,
        names,
        lambda count, i: (
            f"{count} labels of {name} are not in class_names: the first is {texts[i]!r} in "
            f"{kind} {where[i]}"
        ),
    )
    return files, numbers, names


def _on_disk(file: str) -> str:
    """The path in the form of Unicode that the file system has, where it has one of them."""
    if file.isascii() or os.path.exists(file):
        return file
    forms = (unicodedata.normalize(form, file) for form in ("NFC", "NFD"))
    return next(filter(os.path.exists, forms), file)


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file is named like an image and is not hidden."""
    name = os.path.basename(os.fspath(path))
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def check_class_names(names: Iterable[Any], instead: str) -> list[str]:
    """``names`` as a list of at least two different texts; ``instead`` says what there is."""
    if isinstance(names, str):
        raise DataError(f"class_names must be a list of names, got the text {names!r}")
    result = [composed(_text(name)) for name in names]
    if len(set(result)) != len(result):
        raise DataError(f"class_names holds a name twice: {', '.join(result)}")
    if len(result) < 2:
        raise DataError(
            f"a classifier needs at least two classes, got {_listed(result) or 'none'}; {instead}"
        )
    return result


def _listed(values: Sequence[str]) -> str:
    more = len(values) - _SHOWN
    return ", ".join(values[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _same_names(names: list[str], folders: list[str], root: Path) -> None:
    absent = [name for name in names if name not in folders]
    if absent:
        raise DataError(
            f"{root} has no folder for the class {absent[0]!r}.{did_you_mean(absent[0], folders)} "
            f"It has {_listed(folders)}"
        )
    extra = [name for name in folders if name not in names]
    if extra:
        raise DataError(f"{root} has folders that are not in class_names: {_listed(extra)}")


def _has_folders(path: Path) -> bool:
    return any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir())


def composed(name: str) -> str:
    """A name in Unicode's composed form: one letter may be written as one character or as two."""
    return unicodedata.normalize("NFC", name)


def _leads_up(path: str | os.PathLike[str], real: str) -> bool:
    """Whether a path is a link to what it lies in itself, the directory ``real``, or above it."""
    if not os.path.islink(path):
        return False
    target = os.path.realpath(path)
    return real == target or real.startswith(target.rstrip(os.sep) + os.sep)


def _images_in(folder: Path) -> list[tuple[str, str]]:
    """Image files at any depth, sorted by their path inside ``folder``, and where they really are.

    Links are followed, but for those to a folder above them, which hold all that is here.
    """
    members = _walk(os.fspath(folder), os.path.realpath(folder), (), set())
    return [(os.path.join(folder, *parts), real) for parts, real in sorted(members)]


def _walk(
    folder: str, real: str, inside: tuple[str, ...], seen: set[str]
) -> Iterator[tuple[tuple[str, ...], str]]:
    # Two ways to one folder: the first one, on every machine.
    if real in seen:
        return
    seen.add(real)
    try:
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        place = (*inside, entry.name)
        path = os.path.join(real, entry.name)
        if _is_dir(entry):
            if not _leads_up(entry.path, real):
                yield from _walk(entry.path, os.path.realpath(path), place, seen)
        elif is_image(entry.name):
            yield place, os.path.realpath(path) if entry.is_symlink() else path


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        # A link to itself.
        return False


def _warn_of_two_labels(files: Sequence[tuple[str, str]], labels: Sequence[int]) -> None:
    """Warns of pictures that links put into two classes."""
    first: dict[str, tuple[str, int]] = {}
    twice = []
    for (file, real), label in zip(files, labels, strict=True):
        other, other_label = first.setdefault(real, (file, label))
        if other_label != label:
            twice.append(f"{other} and {file}")
    if twice:
        warn(f"links put {len(twice)} pictures into two classes each: {_listed(twice)}")


def _read_csv(path: str, delimiter: str) -> tuple[dict[str, list[str]], list[int]]:
    """Columns as text, and the line that each row ends in."""
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such CSV file")
    try:
        # Spreadsheets write a byte-order mark, which is no part of the first name.
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows, lines = [], []
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num}: {len(row)} values for the "
                        f"{len(header)} columns {', '.join(header)}"
                    )
                rows.append([value.strip() for value in row])
                lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error})") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}") from error
    if not header:
        raise DataError(f"{path} is empty")
    if len(set(header)) != len(header):
        raise DataError(f"{path} has two columns of one name: {', '.join(header)}")
    values = zip(*rows, strict=True) if rows else [[] for _ in header]
    return dict(zip(header, map(list, values), strict=True)), lines


def _columns_of(table: Any) -> dict[str, list[str]]:
    if not isinstance(table, Mapping) and not hasattr(table, "columns"):
        raise DataError(
            "csv must be the path of a CSV file, a data frame or a mapping of columns, got "
            f"{type(table).__name__}"
        )
    names = table if isinstance(table, Mapping) else table.columns
    columns = {name: [_text(value) for value in table[name]] for name in names}
    if len({len(values) for values in columns.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(values)}" for name, values in columns.items())
        raise DataError(f"the columns differ in length: {lengths}")
    return columns


def _text(value: Any) -> str:
    # A data frame's missing values, none of which has a text.
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, float | np.floating) and np.isnan(value):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _whole(text: str) -> str:
    """``"2.0"`` as ``"2"``; other texts as they are."""
    match = _WHOLE.fullmatch(text)
    return match[1] if match else text


def _sorted_classes(texts: Sequence[str]) -> list[str]:
    classes = set(texts)
    # Numbers keep their meaning: "2" comes before "10", and 0, 1, 2 are their own labels.
    if all(map(_WHOLE.fullmatch, classes)):
        return sorted(classes, key=lambda text: (int(_whole(text)), text))
    return sorted(classes)
