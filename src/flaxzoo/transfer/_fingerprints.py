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
    "first_batch": "the first batch of the data (is its order the same every time?)",
}


def digest(tree: Any) -> str:
    """SHA-256 of a tree of arrays: paths, dtypes, shapes and values."""
    result = hashlib.sha256()
    for path, leaf in tree_flatten_with_path(tree)[0]:
        array: Any = np.ascontiguousarray(leaf)
        result.update(f"{keystr(path)} {array.dtype} {np.shape(leaf)}\n".encode())
        result.update(memoryview(array.reshape(-1).view(np.uint8)))
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


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What differs between two fingerprints, in words; of the first, then of the second."""
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    shown = [key for key in keys if key not in _DIGESTS]
    if any(key in ("batch_size", "inputs", "targets") for key in shown):
        # The first batch cannot but differ as well.
        keys = [key for key in keys if key != "first_batch"]
    return [
        _DIGESTS.get(key) or f"{key.replace('_', ' ')} ({found.get(key)} there, {wanted[key]} now)"
        for key in keys
    ]
