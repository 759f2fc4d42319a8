"""Finding out what goes wrong, and what takes time."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from flaxzoo._files import as_path
from flaxzoo.errors import FlaxzooError

__all__ = [
    "ProfileError",
    "nans",
    "profile",
]


class ProfileError(FlaxzooError, RuntimeError):
    """A trace that cannot be recorded: no place to write it, or one is running already."""


@contextlib.contextmanager
def nans(*, infs: bool = False) -> Iterator[None]:
    """Within it, the operation that makes a NaN raises ``FloatingPointError``.

    Every result is checked as soon as it is there, so that nothing runs ahead; a jitted function
    that gives a NaN is run once more, operation by operation, and the traceback ends at the line
    that made it. Functions are compiled anew inside. It holds for the calling thread, and
    the settings of before are back afterwards, whatever happens.

    Args:
      infs: whether infinities raise as well.

    Raises:
      FloatingPointError: (from within) a NaN was made.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.debug_nans(True))
        if infs:
            stack.enter_context(jax.debug_infs(True))
        yield


@contextlib.contextmanager
def profile(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Records a trace of what runs within it, for TensorBoard's Profile tab or Perfetto.

    JAX returns before the device is done: call ``jax.block_until_ready`` on the last result
    inside, or the trace ends too early. Run what is to be measured once before, or the trace
    shows its compilation.

    Args:
      directory: where to write; it is made if need be. The trace is in
        ``plugins/profile/<time>`` below it.

    Yields:
      The directory as a ``Path``.

    Raises:
      ProfileError: the directory cannot be written, or another trace is running.
    """
    path = start_trace(directory)
    try:
        yield path
    finally:
        jax.profiler.stop_trace()


def start_trace(directory: str | os.PathLike[str]) -> Path:
    """Starts what ``jax.profiler.stop_trace`` ends; see ``profile``.

    Raises:
      ProfileError: the directory cannot be written, or another trace is running.
    """
    path = as_path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        # The profiler itself finds out only at the end, when the trace is lost.
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ProfileError(f"cannot write a trace to {path}: {error.strerror}") from error
    try:
        jax.profiler.start_trace(path)
    except RuntimeError as error:
        raise ProfileError(f"cannot start a trace: {error}") from error
    return path
