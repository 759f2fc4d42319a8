"""Features in a directory: one growing ``.npy`` file per array and a manifest that says how far.

Rows are appended, and the manifest, renamed into place, counts those that are on the disk for
certain. Whatever a killed process left beyond that count is cut off before more is appended, and
the headers of the ``.npy`` files get their final shape before the manifest says ``complete``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from flaxzoo._version import __version__
from flaxzoo.data.saved import read_document, write_document
from flaxzoo.errors import DataError

MANIFEST = "features.json"
_KIND = "features"
# To wait for the disk after every batch would cost more than a second's work done twice.
_COMMIT_SECONDS = 1.0
_BLOCK = 1 << 20
_DAMAGED = (
    f"damaged: the SHA-256 of its rows is not the one in {MANIFEST}; "
    "run extract_features(..., resume=False)"
)


@dataclasses.dataclass(frozen=True)
class Column:
    """One array of the features: its file and what a row of it is.

    Attributes:
      file: the file's name in the directory.
      dtype: the dtype of the values, as ``jnp.dtype`` reads it.
      shape: the shape of one row.
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
        layout = {"descr": self._stored, "fortran_order": False, "shape": (rows, *self.shape)}
        np.lib.format.write_array_header_1_0(stream, layout)
        return stream.getvalue()

    def open(self, directory: Path, rows: int, sha256: str | None = None) -> np.ndarray:
        """The array, memory-mapped.

        Args:
          directory: of the file.
          rows: how many it has.
          sha256: what the digest of their bytes must be; None where nobody noted it.

        Raises:
          DataError: the file is missing, damaged or not what the manifest says.
        """
        path = directory / self.file
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: not readable ({error})") from error
        if array.shape != (rows, *self.shape) or array.dtype != np.dtype(self._stored):
            raise DataError(
                f"{path}: holds {array.dtype}{list(array.shape)}, the manifest says "
                f"{self.dtype}{[rows, *self.shape]}; run extract_features(..., resume=False)"
            )
        if sha256 is not None and hashlib.sha256(_bytes(array)).hexdigest() != sha256:
            raise DataError(f"{path}: {_DAMAGED}")
        return array.view(jnp.dtype(self.dtype))

    @property
    def _stored(self) -> str:
        dtype = jnp.dtype(self.dtype)
        # The format has no name for bfloat16 and its like, which are stored as so many bytes.
        return f"|V{dtype.itemsize}" if dtype.isbuiltin == 2 else dtype.str


def columns_of(tree: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns of a batch of features (arrays or their shapes), in the order of their leaves.

    Raises:
      DataError: it holds what a file cannot: objects, or rows without a value.
    """
    columns: list[Column] = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = keystr(path, simple=True, separator=".")
        dtype, shape = jnp.dtype(leaf.dtype), tuple(leaf.shape[1:])
        if dtype.hasobject:
            raise DataError(f"{name} holds Python objects, which a file of features cannot")
        stem = re.sub(r"[^\w.-]", "_", name)
        taken = f"{stem}.npy" in {column.file for column in columns}
        file = f"{stem}-{len(columns)}.npy" if taken else f"{stem}.npy"
        text = dtype.str if dtype.kind in "US" else dtype.name
        columns.append(Column(file, text, shape))
        if columns[-1].row_bytes == 0:
            raise DataError(f"{name} has no values: its rows have the shape {list(shape)}")
    return tuple(columns)


def structure_of(tree: Any) -> Any:
    """The containers of a tree as JSON: a leaf is its number in JAX's order.

    Raises:
      DataError: containers other than dictionaries with text as keys, tuples, lists and None.
    """

    def encode(node: Any) -> Any:
        if node is None or isinstance(node, int):
            return node
        if isinstance(node, Mapping):
            if not all(isinstance(key, str) for key in node):
                raise DataError(f"the features have keys that are not text: {list(node)}")
            return {"dict": {key: encode(value) for key, value in node.items()}}
        if isinstance(node, tuple | list):
            return {"list" if isinstance(node, list) else "tuple": list(map(encode, node))}
        raise DataError(
            f"the features hold a {type(node).__name__}; they may be arrays in dictionaries, "
            "tuples and lists"
        )

    leaves, definition = jax.tree.flatten(tree)
    return encode(jax.tree.unflatten(definition, range(len(leaves))))


def rebuild(structure: Any, leaves: Sequence[Any]) -> Any:
    """The containers that ``structure_of`` saw, around other leaves."""
    if structure is None:
        return None
    if isinstance(structure, int):
        return leaves[structure]
    (kind, content), *_ = structure.items()
    if kind == "dict":
        return {key: rebuild(value, leaves) for key, value in content.items()}
    return {"tuple": tuple, "list": list}[kind](rebuild(value, leaves) for value in content)


@dataclasses.dataclass
class Manifest:
    """What the directory holds; ``features.json``.

    Attributes:
      model: the model's name, for people.
      fingerprint: what the features depend on; see ``flaxzoo.transfer._fingerprints``.
      columns: the arrays.
      structure: how they make inputs, targets and weights; see ``structure_of``.
      total_batches: the number of batches of the data, where it tells.
      examples: rows that are in all files for certain.
      batches: batches of the data that they are from.
      complete: whether that is all of the data.
      digests: the SHA-256 of these rows of each column; None in manifests of older versions.
    """

    model: str
    fingerprint: dict[str, Any]
    columns: tuple[Column, ...]
    structure: Any
    total_batches: int | None = None
    examples: int = 0
    batches: int = 0
    complete: bool = False
    digests: tuple[str, ...] | None = None

    def write(self, directory: Path) -> None:
        """Renames a new manifest over the old one."""
        document = {"flaxzoo": __version__, **dataclasses.asdict(self)}
        write_document(directory / MANIFEST, _KIND, document, indent=2)

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Reads and checks the manifest.

        Raises:
          DataError: there is none, or it is damaged.
        """
        path = directory / MANIFEST
        document = read_document(path, _KIND)
        try:
            manifest = cls.of({"digests": None, **document})
            rebuild(manifest.structure, manifest.columns)
            for column in manifest.columns:
                column.header(manifest.examples)
                if Path(column.file).name != column.file or not column.file.endswith(".npy"):
                    raise ValueError(f"the file {column.file!r} is none of ours")
            if min(manifest.examples, manifest.batches) < 0:
                raise ValueError("a count is negative")
            if manifest.digests is not None and len(manifest.digests) != len(manifest.columns):
                raise ValueError("digests and columns are not of one number")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"{path}: not understood ({type(error).__name__}: {error})") from error
        return manifest

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Manifest:
        """A manifest from its fields, as ``dataclasses.asdict`` and JSON give them."""
        known = {field.name: fields[field.name] for field in dataclasses.fields(cls)}
        columns = (Column(c["file"], c["dtype"], tuple(c["shape"])) for c in known["columns"])
        return cls(**known | {"columns": tuple(columns)})

    @property
    def noted(self) -> Sequence[str | None]:
        """The digest of each column, or None where there is none."""
        return [None] * len(self.columns) if self.digests is None else self.digests

    @property
    def progress(self) -> str:
        """``"12 of 40 batches (768 examples)"``."""
        total = "" if self.total_batches is None else f" of {self.total_batches}"
        return f"{self.batches}{total} batches ({self.examples} examples)"


class FeatureWriter:
    """Appends rows to the files of a manifest; a context manager.

    On leaving, whatever ends it, what has been appended is committed.

    Args:
      directory: the directory to write to.
      manifest: fresh, or that of an extraction to go on with.

    Raises:
      DataError: the directory cannot be written, holds files that the manifest does not account
        for, or fewer rows than it says.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self._directory = directory
        self.manifest = manifest
        self._files: list[io.FileIO] = []
        # Of the rows, of each column; the headers change when all rows are there.
        self._digests = [hashlib.sha256() for _ in manifest.columns]
        self._rows, self._batches = manifest.examples, manifest.batches
        self._committed = time.monotonic()

    def __enter__(self) -> FeatureWriter:
        with contextlib.ExitStack() as stack, self._failures_told():
            self._files = [
                stack.enter_context(self._open(*each))
                for each in zip(
                    self.manifest.columns, self._digests, self.manifest.noted, strict=True
                )
            ]
            self._closing = stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        # What ended the extraction is the news, not that it could not be noted.
        quiet = contextlib.suppress(DataError) if kind else contextlib.nullcontext()
        with self._closing, quiet:
            self.commit()

    def append(self, leaves: Sequence[np.ndarray]) -> None:
        """Appends the rows of one batch, of which there may be none.

        Raises:
          DataError: the disk is full, or another failure to write.
        """
        with self._failures_told():
            for file, digest, leaf in zip(self._files, self._digests, leaves, strict=True):
                _write(file, _bytes(leaf))
                digest.update(_bytes(leaf))
        self._rows += len(leaves[0])
        self._batches += 1
        if time.monotonic() - self._committed >= _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Puts what has been appended on the disk, and then says so in the manifest."""
        if self._batches == self.manifest.batches:
            return
        self._sync()
        self.manifest.examples, self.manifest.batches = self._rows, self._batches
        self.manifest.digests = tuple(digest.hexdigest() for digest in self._digests)
        self.manifest.write(self._directory)
        self._committed = time.monotonic()

    def finish(self) -> None:
        """Completes the files' headers, and then the manifest."""
        self.commit()
        if self._rows == 0:
            raise DataError("no example of the data has a weight above 0: there are no features")
        with self._failures_told():
            for file, column in zip(self._files, self.manifest.columns, strict=True):
                file.seek(0)
                _write(file, column.header(self._rows))
        self._sync()
        self.manifest.total_batches = self._batches
        self.manifest.complete = True
        self.manifest.write(self._directory)

    def _open(self, column: Column, digest: Any, noted: str | None) -> io.FileIO:
        path = self._directory / column.file
        header = column.header(0)
        if self.manifest.batches == 0:
            # A new file, not the old one emptied: somebody may have that mapped.
            path.unlink(missing_ok=True)
            file = io.FileIO(path, "x+")
            _write(file, header)
            return file
        end = len(header) + self.manifest.examples * column.row_bytes
        if not path.is_file() or path.stat().st_size < end:
            raise DataError(
                f"{path}: holds fewer rows than {MANIFEST} says; "
                "run extract_features(..., resume=False)"
            )
        file = io.FileIO(path, "r+")
        # What was appended after the last commit may be half a batch.
        file.truncate(end)
        file.seek(len(header))
        while block := file.read(_BLOCK):
            digest.update(block)
        if noted not in (None, digest.hexdigest()):
            file.close()
            raise DataError(f"{path}: {_DAMAGED}")
        return file

    def _sync(self) -> None:
        with self._failures_told():
            for file in self._files:
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"cannot write features to {self._directory}: {error.strerror or error}. "
                f"{self.manifest.progress} are there; extract_features with the same arguments "
                "goes on from them"
            ) from error


def _bytes(array: np.ndarray) -> Any:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _write(file: io.FileIO, data: Any) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
