"""Features as columns: the arrays of nested containers, and the containers as JSON."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxzoo.errors import DataError


@dataclasses.dataclass(frozen=True)
class Column:
    """One array of the features: its file and what a row of it is.

    Attributes:
      file: its name in the directory.
      dtype: of its values, as ``jnp.dtype`` reads it.
      shape: of one row.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * jnp.dtype(self.dtype).itemsize

    def header(self, rows: int) -> bytes:
        """The header of a ``.npy`` file of so many rows; its length is the same for all."""
        stream = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            stream,
            {
                "descr": _npy_descr(jnp.dtype(self.dtype)),
                "fortran_order": False,
                "shape": (rows, *self.shape),
            },
        )
        return stream.getvalue()

    def open(self, directory: Path, rows: int) -> np.ndarray:
        """The array, memory-mapped.

        Raises:
          DataError: the file is missing or is not what the manifest says.
        """
        path = directory / self.file
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: not readable ({error})") from error
        wanted = np.dtype(_npy_descr(jnp.dtype(self.dtype)))
        if array.shape != (rows, *self.shape) or array.dtype != wanted:
            raise DataError(
                f"{path}: holds {array.dtype}{list(array.shape)}, the manifest says "
                f"{self.dtype}{[rows, *self.shape]}; run extract_features(..., resume=False)"
            )
        return array.view(jnp.dtype(self.dtype))


def columns_of(tree: Mapping[str, Any]) -> tuple[tuple[Column, ...], Any]:
    """The columns of a batch of features (arrays or their shapes) and the JSON of its structure.

    Raises:
      DataError: it holds what a file cannot: objects, or rows without a value.
    """
    names, leaves, structure = describe(tree)
    columns: list[Column] = []
    for name, leaf in zip(names, leaves, strict=True):
        dtype, shape = jnp.dtype(leaf.dtype), tuple(leaf.shape[1:])
        if dtype.hasobject:
            raise DataError(f"{name} holds Python objects, which a file of features cannot")
        stem = re.sub(r"[^\w.-]", "_", name)
        taken = {column.file for column in columns}
        file = f"{stem}.npy"
        if file in taken:
            file = f"{stem}-{len(columns)}.npy"
        columns.append(Column(file, dtype_text(dtype), shape))
        if columns[-1].row_bytes == 0:
            raise DataError(f"{name} has no values: its rows have the shape {list(shape)}")
    return tuple(columns), structure


def describe(tree: Any, name: str = "") -> tuple[list[str], list[Any], Any]:
    """Names and leaves of nested containers, and the containers as JSON.

    Unlike JAX's own flattening it can be written to a file: a leaf is its number, and the
    containers are dictionaries with text as keys, tuples, lists and None.

    Raises:
      DataError: it holds another container.
    """
    names: list[str] = []
    leaves: list[Any] = []

    def walk(node: Any, path: str) -> Any:
        if node is None:
            return None
        if isinstance(node, Mapping):
            if not all(isinstance(key, str) for key in node):
                raise DataError(
                    f"{path or 'the features'} has keys that are not text: {list(node)}"
                )
            return {"dict": {k: walk(v, f"{path}.{k}" if path else k) for k, v in node.items()}}
        if isinstance(node, tuple | list):
            kind = "list" if isinstance(node, list) else "tuple"
            return {kind: [walk(v, f"{path}.{i}" if path else f"{i}") for i, v in enumerate(node)]}
        if not hasattr(node, "shape") or not hasattr(node, "dtype"):
            raise DataError(
                f"{path} is a {type(node).__name__}; features may be arrays in dictionaries, "
                "tuples and lists"
            )
        names.append(path)
        leaves.append(node)
        return len(leaves) - 1

    return names, leaves, walk(tree, name)


def rebuild(structure: Any, leaves: Sequence[Any]) -> Any:
    """The containers that ``describe`` saw, around other leaves."""
    if structure is None:
        return None
    if isinstance(structure, int):
        return leaves[structure]
    (kind, content), *_ = structure.items()
    if kind == "dict":
        return {key: rebuild(value, leaves) for key, value in content.items()}
    return {"tuple": tuple, "list": list}[kind](rebuild(value, leaves) for value in content)


def dtype_text(dtype: np.dtype) -> str:
    """A dtype's name as ``jnp.dtype`` reads it back."""
    return dtype.str if dtype.kind in "US" else dtype.name


def _npy_descr(dtype: np.dtype) -> str:
    # The format has no name for bfloat16 and its like, which are stored as so many bytes.
    return f"|V{dtype.itemsize}" if dtype.isbuiltin == 2 else dtype.str
