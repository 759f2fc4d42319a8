"""Features in a directory: one growing ``.npy`` file per array and a manifest that says how far.

Rows are appended, and the manifest, renamed into place, counts those that are on the disk for
certain. Whatever a killed process left beyond that count is cut off before more is appended, and
the headers of the ``.npy`` files get their final shape before the manifest says ``complete``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxzoo._version import __version__
from flaxzoo.errors import DataError
from flaxzoo.transfer._feature_layout import Column, dtype_text, rebuild
from flaxzoo.weights.files import write_text

MANIFEST = "features.json"
FORMAT = "flaxzoo.features"
_VERSION = 1
# To wait for the disk after every batch would cost more than a second's work done twice.
_COMMIT_SECONDS = 1.0


@dataclasses.dataclass
class Manifest:
    """What the directory holds; ``features.json``.

    Attributes:
      model: the model's name, for people.
      fingerprint: what the features depend on; see ``flaxzoo.transfer._fingerprints``.
      columns: the arrays.
      structure: how they make inputs, targets and weights; see ``describe``.
      total_batches: of the data, where it tells.
      examples: rows that are in all files for certain.
      batches: batches of the data that they are from.
      weighted: whether some weight is not 1.
      complete: whether that is all of the data.
    """

    model: str
    fingerprint: dict[str, Any]
    columns: tuple[Column, ...]
    structure: Any
    total_batches: int | None = None
    examples: int = 0
    batches: int = 0
    weighted: bool = False
    complete: bool = False

    def write(self, directory: Path) -> None:
        """Renames a new manifest over the old one."""
        document = {"format": FORMAT, "format_version": _VERSION, "flaxzoo": __version__}
        write_text(
            directory / MANIFEST, json.dumps(document | dataclasses.asdict(self), indent=2) + "\n"
        )

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Reads and checks the manifest.

        Raises:
          DataError: there is none, or it is damaged.
        """
        path = directory / MANIFEST
        try:
            document = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; did extract_features write here?") from None
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: not readable as JSON ({error})") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise DataError(f"{path}: not what extract_features writes")
        try:
            if document["format_version"] > _VERSION:
                raise DataError(
                    f"{path}: written by flaxzoo {document['flaxzoo']} in a later format; "
                    "pip install -U flaxzoo"
                )
            values = {f.name: document[f.name] for f in dataclasses.fields(cls)}
            values["columns"] = tuple(
                Column(
                    str(c["file"]), dtype_text(jnp.dtype(c["dtype"])), tuple(map(int, c["shape"]))
                )
                for c in values["columns"]
            )
            manifest = cls(**values)
            rebuild(manifest.structure, manifest.columns)
            if min(int(manifest.examples), int(manifest.batches)) < 0:
                raise ValueError("a count is negative")
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path}: not understood ({type(error).__name__}: {error})") from error
        for column in manifest.columns:
            if Path(column.file).name != column.file or not column.file.endswith(".npy"):
                raise DataError(f"{path}: names the file {column.file!r}, which is none of ours")
        return manifest

    @property
    def progress(self) -> str:
        """``"12 of 40 batches (768 examples)"``."""
        total = "" if self.total_batches is None else f" of {self.total_batches}"
        return f"{self.batches}{total} batches ({self.examples} examples)"


class FeatureWriter:
    """Appends rows to the files of a manifest; a context manager.

    On leaving, whatever ends it, what has been appended is committed.

    Args:
      directory: where to.
      manifest: fresh, or that of an extraction to go on with.

    Raises:
      DataError: the directory cannot be written, holds files that the manifest does not account
        for, or fewer rows than it says.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self._directory = directory
        self.manifest = manifest
        self._files: list[io.FileIO] = []
        self._rows, self._batches = manifest.examples, manifest.batches
        self._weighted = manifest.weighted
        self._committed = time.monotonic()

    def __enter__(self) -> FeatureWriter:
        try:
            for column in self.manifest.columns:
                self._files.append(self._open(column))
        except BaseException as error:
            self._close()
            if isinstance(error, OSError):
                raise self._failure(error) from error
            raise
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            if kind is None:
                self.commit()
            else:
                # What ended the extraction is the news, not that it could not be noted.
                with contextlib.suppress(DataError):
                    self.commit()
        finally:
            self._close()

    def append(self, leaves: Sequence[np.ndarray], weighted: bool) -> None:
        """Appends the rows of one batch, of which there may be none.

        Raises:
          DataError: the disk is full, or another failure to write.
        """
        try:
            for file, leaf in zip(self._files, leaves, strict=True):
                _write(file, np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
        except OSError as error:
            raise self._failure(error) from error
        self._rows += len(leaves[0])
        self._batches += 1
        self._weighted |= weighted
        if time.monotonic() - self._committed >= _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Puts what has been appended on the disk, and then says so in the manifest."""
        if self._batches == self.manifest.batches:
            return
        self._sync()
        manifest = self.manifest
        manifest.examples, manifest.batches = self._rows, self._batches
        manifest.weighted = self._weighted
        manifest.write(self._directory)
        self._committed = time.monotonic()

    def finish(self) -> None:
        """Completes the files' headers, and then the manifest."""
        self.commit()
        if self._rows == 0:
            raise DataError("no example of the data has a weight above 0: there are no features")
        try:
            for file, column in zip(self._files, self.manifest.columns, strict=True):
                file.seek(0)
                _write(file, np.frombuffer(column.header(self._rows), np.uint8))
        except OSError as error:
            raise self._failure(error) from error
        self._sync()
        self.manifest.total_batches = self._batches
        self.manifest.complete = True
        self.manifest.write(self._directory)

    def _open(self, column: Column) -> io.FileIO:
        path = self._directory / column.file
        header = column.header(0)
        if self.manifest.batches == 0:
            # A new file, not the old one emptied: somebody may have that mapped.
            path.unlink(missing_ok=True)
            file = io.FileIO(path, "x+")
            _write(file, np.frombuffer(header, np.uint8))
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
        file.seek(end)
        return file

    def _sync(self) -> None:
        try:
            for file in self._files:
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> DataError:
        return DataError(
            f"cannot write features to {self._directory}: {error.strerror or error}. "
            f"{self.manifest.progress} are there; extract_features with the same arguments "
            "goes on from them"
        )

    def _close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []


@contextlib.contextmanager
def sole_writer(directory: Path) -> Iterator[None]:
    """Makes the directory, and holds it against other processes that would write to it.

    Raises:
      DataError: it cannot be made, or another process is writing features to it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to {directory}: {error.strerror or error}") from error
    try:
        import fcntl
    except ImportError:
        # Windows has no such locks.
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is writing features to {directory}") from None
        except OSError:
            # Some network file systems have no locks.
            pass
        yield
    finally:
        os.close(handle)


def _write(file: io.FileIO, data: Any) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
