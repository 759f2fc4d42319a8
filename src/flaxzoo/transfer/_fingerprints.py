"""What cached features depend on, in a form that tells what has changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

# What a digest stands for; the other entries of a fingerprint can be shown as they are.
_DIGESTS = {
    "architecture": "the model's architecture",
    "variables": "the model's variables",
    "data": "the data",
    "first_batch": "the first batch of the data (is its order the same every time?)",
}

_PART_BYTES = 1 << 24


def digest(tree: Any) -> str:
    """SHA-256 of a tree of arrays: paths, dtypes, shapes and values."""
    result = hashlib.sha256()
    for path, leaf in tree_flatten_with_path(tree)[0]:
        array: Any = np.asarray(leaf)
        result.update(f"{keystr(path)} {array.dtype} {array.shape}\n".encode())
        # By parts: a whole memory map that has to be copied may not fit in memory.
        rows = max(1, _PART_BYTES * len(array) // max(1, array.nbytes)) if array.ndim else 1
        parts = (array[i : i + rows] for i in range(0, len(array), rows)) if array.ndim else [array]
        for part in parts:
            flat: Any = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
            result.update(memoryview(flat))
    return result.hexdigest()


def architecture(module: nn.Module) -> str:
    """SHA-256 of a module's fields, the same in every process."""
    # Functions are shown with their addresses.
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(module))
    return hashlib.sha256(text.encode()).hexdigest()


def layout(tree: Any) -> str:
    """Dtypes and shapes of one example, such as ``float32[8, 8, 1]``."""
    return ", ".join(
        f"{keystr(path)} {leaf.dtype}{list(np.shape(leaf)[1:])}".strip()
        for path, leaf in tree_flatten_with_path(tree)[0]
    )


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, in words; of the first, then of the second."""
    keys = [key for key in now if there.get(key) != now[key]]
    shown = [key for key in keys if key not in _DIGESTS]
    # What a digest is of cannot but differ as well.
    if any(key in ("kind_of_data", "batch_size", "inputs", "targets") for key in shown):
        keys = [key for key in keys if key != "first_batch"]
    if any(key in ("kind_of_data", "number_of_examples", "inputs", "targets") for key in shown):
        keys = [key for key in keys if key != "data"]
    return [
        _DIGESTS.get(key) or f"{key.replace('_', ' ')} ({there.get(key)} there, {now[key]} now)"
        for key in keys
    ]
