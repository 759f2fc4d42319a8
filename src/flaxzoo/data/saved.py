"""JSON files of what was fitted to data: written whole, and checked when they are read."""

from __future__ import annotations

import json
import os
from typing import Any

from flaxzoo._files import as_path
from flaxzoo.errors import DataError
from flaxzoo.weights.files import write_text

_VERSION = 1


def write_document(
    path: str | os.PathLike[str], kind: str, document: dict[str, Any], *, indent: int | None = None
) -> None:
    """Writes a document, marked with its kind and version.

    Args:
      path: the file; its directory is made if need be.
      kind: such as ``"text_vectorizer"``.
      document: what JSON can hold.
      indent: the number of spaces that ``json.dumps`` indents by; None for one line.

    Raises:
      DataError: the file cannot be written.
    """
    marked = {"format": f"flaxzoo.{kind}", "format_version": _VERSION, **document}
    write_text(as_path(path), json.dumps(marked, indent=indent) + "\n")


def read_document(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Reads what ``write_document`` wrote.

    Raises:
      DataError: the file is missing, damaged, of another kind or of a later version.
    """
    path = as_path(path)
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; it cannot be read") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(document, dict) or document.get("format") != f"flaxzoo.{kind}":
        raise DataError(f"{path}: holds no {kind.replace('_', ' ')} of flaxzoo")
    version = document.get("format_version")
    if not isinstance(version, int) or version > _VERSION:
        raise DataError(f"{path}: written in a later format ({version}); pip install -U flaxzoo")
    return document
