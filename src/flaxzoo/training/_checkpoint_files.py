"""A directory with a folder for each saved step, which is there whole or not at all.

A checkpoint is written beside its place, digested, and renamed into it; one that goes is renamed
away before it is deleted. Whatever kills the process, a folder named like a step is a whole
checkpoint, and what hides behind a dot is rubbish, but for one case: ``.14.replaced`` is step 14
until its successor is in place.

A folder holds ``state``, arrays by Orbax, and ``meta/metadata``, a JSON document with the SHA-256
of all else in the folder and of itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxzoo._files import (
    differing_files,
    digest_of_arrays,
    folder_sha256,
    read_json,
    write_json,
)
from flaxzoo._processes import Channel
from flaxzoo._trees import flatten, unflatten
from flaxzoo._version import __version__
from flaxzoo.errors import CheckpointError, DataError

FORMAT = "flaxzoo.checkpoint"
_VERSION = 1
_STATE, _META = "state", Path("meta", "metadata")
_STEP = re.compile(r"(\d+)|\.(\d+)\.replaced")
# What a killed process leaves: ours, and that of Orbax's own manager, which came before.
_RUBBISH = re.compile(r"\.\d+\.(tmp|removed)|\d+\.orbax-checkpoint-tmp.*")

# Orbax's checkpointers get in each other's way when two threads use them, whatever they write.
ORBAX = threading.RLock()


class DamagedCheckpointError(CheckpointError):
    """A checkpoint of which part is missing or is not what was written."""


def saved_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory, ascending; reads, never writes."""
    if not directory.is_dir():
        return []
    names = [_STEP.fullmatch(path.name) for path in directory.iterdir() if path.is_dir()]
    return sorted({int(name[1] or name[2]) for name in names if name})


def folder_of(directory: Path, step: int) -> Path:
    """The folder of a saved step."""
    folder, before = directory / str(step), _replaced(directory, step)
    return before if before.is_dir() and not folder.is_dir() else folder


def write(
    directory: Path, step: int, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> None:
    """Writes a checkpoint; one of the same step stays until the new one is whole.

    Args:
      directory: the directory with all checkpoints.
      step: the step.
      arrays: the state, by path.
      meta: what else belongs to it; JSON.

    Raises:
      DataError: it cannot be written, because the disk is full for instance.
    """
    folder, partial = directory / str(step), directory / f".{step}.tmp"
    try:
        _begin(partial)
        with _orbax() as checkpointer:
            checkpointer.save(partial / _STATE, unflatten(arrays))
        _finish(directory, step, meta, digest_of_arrays(arrays))
    except Exception as error:
        raise DataError(f"cannot write checkpoint {folder}: {_reason(error)}") from error
    finally:
        _remove(partial)


def write_together(
    directory: Path, step: int, arrays: Mapping[str, Any], meta: Mapping[str, Any], digest: str
) -> None:
    """Writes a checkpoint of several processes, in all of which it is called.

    Each writes its parts of the arrays; the one of index 0 makes the folder and gives it its name.

    Args:
      directory: the directory with all checkpoints, on a file system that all see.
      step: the step.
      arrays: the state, by path, of the devices of all processes.
      meta: what else belongs to it; JSON; that of the process of index 0 counts.
      digest: of the arrays, if the process of index 0 has them whole; else empty.

    Raises:
      DataError: it cannot be written; in all processes.
    """
    folder, partial = directory / str(step), directory / f".{step}.tmp"
    channel = Channel(f"checkpoint {folder}")

    def told(work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:
            raise DataError(f"cannot write checkpoint {folder}: {_reason(error)}") from error

    channel.from_main(lambda: told(lambda: _begin(partial)))
    failure = ""
    try:
        with _orbax() as checkpointer:
            checkpointer.save(partial / _STATE, unflatten(arrays))
    except Exception as error:
        failure = _reason(error) or "?"
    failures = [
        f"{said} (in process {i})" for i, said in enumerate(channel.gather(failure)) if said
    ]

    def finish() -> None:
        try:
            if failures:
                raise DataError(f"cannot write checkpoint {folder}: {failures[0]}")
            told(lambda: _finish(directory, step, meta, digest or None))
        finally:
            _remove(partial)

    channel.from_main(finish)


def _begin(partial: Path) -> None:
    _remove(partial)
    partial.mkdir(parents=True)


def _finish(directory: Path, step: int, meta: Mapping[str, Any], digest: str | None) -> None:
    """Digests what is written and gives it its name."""
    folder, partial = directory / str(step), directory / f".{step}.tmp"
    replaced = _replaced(directory, step)
    digests = {"arrays": digest, "files": folder_sha256(partial)}
    document = {"format": FORMAT, "version": _VERSION, "flaxzoo": __version__, **meta}
    write_json(partial / _META, {**document, "sha256": digests})
    if folder.is_dir():
        discard(replaced)
        folder.rename(replaced)
    partial.rename(folder)
    discard(replaced)


def read_meta(folder: Path) -> dict[str, Any]:
    """The JSON that was saved with a checkpoint.

    Raises:
      DamagedCheckpointError: it is missing, not readable, or not as it was written.
      CheckpointError: it is not flaxzoo's, or of a later format.
    """
    label = f"checkpoint {folder} is damaged: {_META}"
    meta = read_json(
        folder / _META,
        error=DamagedCheckpointError,
        label=label,
        missing=f"{label} is missing: it is not a flaxzoo checkpoint, or only part of one",
    )
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"{folder} is not a flaxzoo checkpoint: its {_META} is another's")
    version = meta.get("version")
    if not isinstance(version, int) or version > _VERSION:
        raise CheckpointError(
            f"{folder} was written by flaxzoo {meta.get('flaxzoo')} in a later format "
            f"({version}); pip install -U flaxzoo"
        )
    return meta


def check_files(folder: Path, meta: Mapping[str, Any]) -> None:
    """Compares a checkpoint with the digests in its ``meta``; those of before have none.

    Raises:
      DamagedCheckpointError: a file is missing or differs; the first are named.
    """
    differences = differing_files(folder, (meta.get("sha256") or {}).get("files", {}))
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise DamagedCheckpointError(
            f"checkpoint {folder} is damaged: {', '.join(differences[:3])}{more}"
        )


def discard(folder: Path) -> None:
    """Does away with a checkpoint, if it is there: it is gone at once, and then deleted."""
    if folder.is_dir():
        doomed = folder.with_name(f".{folder.name.strip('.').partition('.')[0]}.removed")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def _remove(folder: Path) -> None:
    """Deletes a folder, into which Orbax may still write for a moment after it has failed."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.02)


def sweep(directory: Path) -> None:
    """Ends what killed processes have left half written, half deleted or half replaced."""
    for path in directory.iterdir():
        if _RUBBISH.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)
    for step in saved_steps(directory):
        replaced = _replaced(directory, step)
        if folder_of(directory, step) != replaced:
            discard(replaced)
        else:
            replaced.rename(directory / str(step))


def unused(path: Path) -> Path:
    """The path, or the first of ``path.1``, ``path.2``, ... that does not exist."""
    number, free = 0, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free


def _reason(error: Exception) -> str:
    """The system's words for what failed; else the beginning of what the exception says."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # TensorStore puts the number at the end of some two thousand characters.
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """Orbax's checkpointer, which nobody else has meanwhile, without its routine messages."""
    import orbax.checkpoint as ocp

    with ORBAX, contextlib.ExitStack() as stack:
        # It logs each step of a routine save or read at WARNING, and errors that it raises as well.
        for name in ("absl", "asyncio"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        yield stack.enter_context(ocp.Checkpointer(ocp.StandardCheckpointHandler()))


def read_arrays(folder: Path, wanted: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The arrays of a checkpoint by path.

    Args:
      folder: the checkpoint.
      wanted: from what is saved, path to something with ``.shape`` and ``.dtype``, to a
        ``jax.ShapeDtypeStruct`` for each path, which says where the array is to be.

    Raises:
      DamagedCheckpointError: Orbax cannot read them.
      CheckpointError: that ``wanted`` raises.
    """
    try:
        with _orbax() as checkpointer:
            metadata = checkpointer.metadata(folder / _STATE)
            target = wanted(flatten(getattr(metadata, "item_metadata", metadata).tree))
            return flatten(checkpointer.restore(folder / _STATE, unflatten(target)))
    except CheckpointError:
        raise
    except Exception as error:
        raise DamagedCheckpointError(
            f"checkpoint {folder} is damaged: {_STATE}: {_reason(error)}"
        ) from error


def _replaced(directory: Path, step: int) -> Path:
    return directory / f".{step}.replaced"
