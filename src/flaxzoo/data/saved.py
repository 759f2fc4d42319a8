"""JSON files of what was fitted to data: written whole, and checked when they are read."""

from __future__ import annotations

import os
from typing import Any

from flaxzoo._files import as_path, read_json, write_json
from flaxzoo.errors import DataError

_VERSION = 1


def write_document(
    path: str | os.PathLike[str], kind: str, document: dict[str, Any], *, indent: int | None = None
) -> None:
    """Writes a document, marked with its kind, its version and its digest.

    Args:
      path: the file; its directory is made if need be.
      kind: such as ``"text_vectorizer"``.
      document: what JSON can hold.
      indent: the number of spaces that ``json.dumps`` indents by; None for one line.

    Raises:
      DataError: the file cannot be written.
    """
    marked = {"format": f"flaxzoo.{kind}", "format_version": _VERSION, **document}
    write_json(as_path(path), marked, indent=indent)


def read_document(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Reads what ``write_document`` wrote.

    Raises:
      DataError: the file is missing, damaged, of another kind or of a later version.
    """
    content = f"{kind.replace('_', ' ')} of flaxzoo"
    path = as_path(path)
    missing = f"{path}: no such file; it cannot be read"
    document = read_json(path, error=DataError, content=content, missing=missing)
    if document.get("format") != f"flaxzoo.{kind}":
        raise DataError(f"{path}: holds no {content}")
    version = document.get("format_version")
    if not isinstance(version, int) or version > _VERSION:
        raise DataError(f"{path}: written in a later format ({version}); pip install -U flaxzoo")
    return document
