"""Warnings that point at the reader's own line, however deep in the package they arise."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings

# What stands between frames of ours, such as a decorator of the standard library.
_PASSED_OVER = (os.path.dirname(__file__) + os.sep, contextlib.__file__)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """``warnings.warn`` at the nearest line outside the package; of several processes in one."""
    # The command line parses before JAX is imported, without which there is one process.
    if "jax" in sys.modules:
        from flaxzoo._processes import silent

        if silent():
            return
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PASSED_OVER):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
