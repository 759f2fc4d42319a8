"""Attributes of a package that load when they are first used, by one thread at a time."""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any

# One for all packages: JAX must not be imported by two threads at once, whichever of ours asks
# for it. Code of ours imports modules, never such an attribute: a thread that waited here inside
# of an import would hold what the one that loads may be waiting for (tests/test_layers.py).
_LOADING = threading.RLock()


def load(module: str, name: str | None = None) -> Any:
    """A module or what is in it, imported while no other thread loads one this way.

    Args:
      module: the module's full name.
      name: of an attribute in it; None for the module itself.
    """
    loaded = sys.modules.get(module)
    if loaded is None or getattr(loaded.__spec__, "_initializing", False):
        with _LOADING:
            loaded = importlib.import_module(module)
    return loaded if name is None else getattr(loaded, name)
