"""Paths as people write them, digests of files, and directories with one writer."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from flaxzoo.errors import DataError


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path that somebody gave: ``"~/runs"`` is in their home directory.

    Every argument that takes a path goes through here; a ``~`` of a user whom the system does not
    know stays as it is.
    """
    return Path(os.path.expanduser(path))


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits.

    Raises:
      OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: str | os.PathLike[str]) -> dict[str, str]:
    """The SHA-256 of each file at any depth of a folder, by its path in there, ``/`` between.

    Raises:
      OSError: one cannot be read.
    """
    root = Path(folder)
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): file_sha256(path) for path in sorted(files)}


def differing_files(folder: str | os.PathLike[str], digests: Mapping[str, str]) -> list[str]:
    """What of a folder is not as it was when ``folder_sha256`` gave the digests.

    Files that have come since are passed over.

    Returns:
      Phrases such as ``"d/1a2b has changed"`` and ``"manifest is missing"``, one a file.
    """
    differences = []
    for name, digest in digests.items():
        try:
            if file_sha256(Path(folder) / name) != digest:
                differences.append(f"{name} has changed since it was written")
        except FileNotFoundError:
            differences.append(f"{name} is missing")
        except OSError as error:
            differences.append(f"{name} cannot be read ({error.strerror or error})")
    return differences


@contextlib.contextmanager
def sole_writer(directory: Path, what: str) -> Iterator[None]:
    """Makes a directory, and holds it against others that would write to it.

    They may be threads of this process as well as other processes. Where the system or the disk
    has no locks, nobody is held off.

    Args:
      directory: the directory.
      what: is written there, for the message, such as ``"features"``.

    Raises:
      DataError: it cannot be made, or somebody else is writing to it.
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
        # Some network file systems have no locks: an OSError of another kind.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(f"another process is writing {what} to {directory}") from None
        yield
    finally:
        os.close(handle)
