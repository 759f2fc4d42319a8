"""Paths as people write them, and files: written whole or not at all, with digests, read with care.

A file that is written gets its name only when it is complete and on the disk. What a killed process
left half-written beside it is removed by the next one that writes the same file: whoever writes
holds a lock on the temporary file, so that one without a lock is nobody's.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from flaxzoo._warnings import warn
from flaxzoo.errors import DataError, FlaxzooError

try:
    import fcntl
except ImportError:  # Windows has no such locks.
    fcntl = None  # type: ignore[assignment]

# The entry of a JSON file that holds the digest of all the others.
SEAL = "document_sha256"
# No description of a model and no vocabulary comes near it.
_JSON_BYTES = 256 << 20
_TEMPORARY = r"\.{}\.[0-9a-f]{{16}}\.tmp"
# Where there are no locks, what is older than this has no writer any more.
_ABANDONED_SECONDS = 24 * 3600
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a directory",
    stat.S_IFSOCK: "a socket",
}
_JSON_WORDS = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "a whole number",
    float: "a number",
    type(None): "null",
}


def as_path(path: str | os.PathLike[str]) -> Path:
    """A path that somebody gave: ``"~/runs"`` is in their home directory.

    Every argument that takes a path goes through here; a ``~`` of a user whom the system does not
    know stays as it is.
    """
    return Path(os.path.expanduser(path))


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write(temporary)`` beside ``path`` and renames the result over it.

    A crash or a full disk leaves what was at ``path`` untouched, and an exception no temporary file
    behind; one that a killed process left is removed. The file's mode is what the umask leaves of
    0o666; the umask itself is neither changed nor read.

    Args:
      path: the file; its directory is made if need be.
      write: opens the path that it is given and writes into that file.

    Raises:
      DataError: the directory cannot be created or written.
    """
    with failures_told(path), temporary_file(path) as temporary:
        write(temporary)
        flush(temporary)
        temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file whole or not at all; errors are those of ``write_atomically``."""

    def write(file: Path) -> None:
        file.write_text(text, "utf-8")

    write_atomically(path, write)


@contextlib.contextmanager
def failures_told(path: Path) -> Iterator[None]:
    """Makes a failure to write a ``DataError`` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """A new empty file beside ``path``, to be renamed; one that was not is removed at the end.

    Raises:
      OSError: the directory cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, handle = _new_file(path)
    try:
        yield temporary
    finally:
        try:
            temporary.unlink(missing_ok=True)
        finally:
            if handle is not None:
                os.close(handle)
    with contextlib.suppress(OSError):
        for leftover in matching(path.parent, _TEMPORARY.format(re.escape(path.name))):
            remove_if_abandoned(leftover)


def flush(path: Path) -> None:
    """Returns once the file's content is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def matching(directory: Path, pattern: str) -> list[Path]:
    """The files of a directory whose whole names match a regular expression."""
    with os.scandir(directory) as entries:
        return [Path(entry.path) for entry in entries if re.fullmatch(pattern, entry.name)]


@contextlib.contextmanager
def locked(path: Path, *, seconds: float = 0.0) -> Iterator[int | None]:
    """Holds a file or directory against other processes and threads that do the same.

    On file systems without such locks, and on Windows, nothing is held.

    Args:
      path: it must exist.
      seconds: how long to wait for another that holds it.

    Yields:
      The handle of what was opened; None on Windows.

    Raises:
      BlockingIOError: another holds it still.
      OSError: it cannot be opened.
    """
    if fcntl is None:
        yield None
        return
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    end = time.monotonic() + seconds
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise
                time.sleep(0.002)
                continue
            except OSError:
                # Some network file systems have none.
                pass
            break
        yield handle
    finally:
        # Processes that were forked meanwhile have the handle as well.
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


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
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(directory))
        except BlockingIOError:
            raise DataError(f"another process is writing {what} to {directory}") from None
        yield


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits.

    Raises:
      OSError: it cannot be read.
    """
    with open_regular(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


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


def digest_of_arrays(arrays: Mapping[str, Any]) -> str:
    """The SHA-256 of named arrays, whatever their order and the file that they lie in.

    Args:
      arrays: NumPy's or JAX's, of numbers.

    Returns:
      64 hexadecimal digits, of each array's name, dtype, shape and values in row-major order.
    """
    # The command line takes paths without it.
    import numpy as np

    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        digest.update(f"{name}\0{array.dtype.name}\0{list(array.shape)}\0".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def digest_of_json(document: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object, whatever its layout and the order of its keys."""
    # Through text first: it turns tuples into lists and keys into text, as a file does.
    plain = json.loads(json.dumps(document))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, document: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Writes a JSON object and the digest of it, whole or not at all.

    Args:
      path: the file; its directory is made if need be.
      document: what JSON can hold.
      indent: the number of spaces that ``json.dumps`` indents by; None for one line.

    Raises:
      DataError: the file cannot be written.
    """
    write_text(path, sealed_text(document, indent=indent))


def sealed_text(
    document: Mapping[str, Any], *, indent: int | None = None, within: str | None = None
) -> str:
    """The text that ``write_json`` writes; the digest may be an entry of the object ``within``."""
    seal = {SEAL: digest_of_json(document)}
    sealed = {**document, within: {**document[within], **seal}} if within else {**document, **seal}
    return json.dumps(sealed, indent=indent) + "\n"


def read_json(
    path: Path,
    *,
    error: type[FlaxzooError],
    label: str | None = None,
    content: str = "JSON object",
    missing: str | None = None,
    within: str | None = None,
    edited: bool = False,
) -> dict[str, Any]:
    """Reads a JSON object and checks its digest, where it has one.

    Args:
      path: the file; no more of it is read than 256 MiB, and nothing of a FIFO or a device.
      error: the class of what is raised.
      label: names the file in messages; by default its path.
      content: what the file should hold, for messages.
      missing: what is said where there is no such file, instead of that.
      within: the entry that may be an object with the digest, instead of the document itself.
      edited: whether people edit the file, so that another digest is a warning.

    Returns:
      The object without the digest.

    Raises:
      error: the file is missing, cannot be read, is no JSON object, or was changed since it was
        written.
    """
    label = str(path) if label is None else label
    try:
        document = json.loads(read_regular(path, _JSON_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise error(missing or f"{label}: no such file") from None
    except OSError as failure:
        raise error(f"{label} cannot be read ({failure.strerror or failure})") from failure
    except (ValueError, RecursionError) as failure:
        raise error(f"{label} is not readable as JSON ({failure})") from failure
    if not isinstance(document, dict):
        raise error(f"{label} holds no {content}")
    section = document.get(within) if within and SEAL not in document else document
    seal = section.pop(SEAL, None) if isinstance(section, dict) else None
    if seal is not None and seal != digest_of_json(document):
        message = (
            f"{label} is not what flaxzoo wrote (its SHA-256 differs): it is damaged or was "
            f"edited; if you trust it, delete its entry {SEAL!r}"
        )
        if not edited:
            raise error(message)
        warn(message)
    return document


def entry(
    document: Mapping[str, Any], name: str, *kinds: type, label: str, error: type[FlaxzooError]
) -> Any:
    """An entry of what ``read_json`` gave.

    Args:
      document: the object.
      name: the entry's key.
      *kinds: the classes that it may have, such as ``dict`` and ``type(None)``.
      label: names the file in messages.
      error: the class of what is raised.

    Raises:
      error: it is missing or of another kind; the message names it.
    """
    if name not in document:
        raise error(f"{label}: the entry {name!r} is missing")
    value = document[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        takes = " or ".join(_JSON_WORDS.get(kind, kind.__name__) for kind in kinds)
        raise error(f"{label}: the entry {name!r} must be {takes}, got {str(value)[:80]!r}")
    return value


@contextlib.contextmanager
def understanding(name: str, *, label: str, error: type[FlaxzooError]) -> Iterator[None]:
    """Makes whatever an entry of a JSON file causes, where it is taken apart, name that entry.

    Args:
      name: the entry's key.
      label: names the file in messages.
      error: the class of what is raised.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as failure:
        if isinstance(failure, error):
            raise
        reason = f"{type(failure).__name__}: {failure}".partition("\n")[0]
        raise error(f"{label}: the entry {name!r} is not understood ({reason})") from failure


def open_regular(path: Path) -> BinaryIO:
    """Opens a file for reading; what is no file, such as a FIFO, is refused and never waited for.

    Raises:
      OSError: it cannot be opened, or is no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        error = IsADirectoryError if kind == stat.S_IFDIR else OSError
        raise error(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, not a file")
    return open(handle, "rb")


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a file; what is no file, or larger than ``limit`` bytes, is refused.

    Raises:
      OSError: it cannot be opened, is no regular file or too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"refused: it has {size:,} bytes, more than {limit:,}")
        return file.read(size)


def _new_file(path: Path) -> tuple[Path, int | None]:
    """A new file beside ``path``, and the handle that holds the lock on it."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if fcntl is None:
            # Windows renames no file that is open.
            os.close(handle)
            return temporary, None
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return temporary, handle
        # Somebody cleaned up between the two calls.
        os.close(handle)


def remove_if_abandoned(path: Path) -> None:
    """Removes a temporary file without a writer."""
    with contextlib.suppress(OSError):
        if fcntl is None:
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()
            return
        handle = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(handle)
