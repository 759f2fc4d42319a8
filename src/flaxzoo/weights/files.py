"""Variables in safetensors files, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from flaxzoo._files import as_path, write_atomically
from flaxzoo._trees import compare, flatten, unflatten
from flaxzoo.errors import CheckpointError


def save_variables(
    path: str | os.PathLike[str],
    variables: Mapping[str, Any],
    metadata: dict[str, str] | None = None,
) -> None:
    """Writes Linen variables to a safetensors file.

    Args:
      path: the file; its directory is made if need be.
      variables: collections of nested dictionaries of arrays. A leaf is stored under its path,
        such as ``params/backbone/conv_0/kernel``.
      metadata: text to store in the file's header.

    Raises:
      DataError: the file cannot be written.
    """
    from safetensors.numpy import save_file

    flat = {name: np.ascontiguousarray(leaf) for name, leaf in flatten(variables).items()}
    # ascontiguousarray makes scalars one-dimensional.
    flat = {
        k: v.reshape(np.shape(leaf))
        for (k, v), leaf in zip(flat.items(), flatten(variables).values(), strict=True)
    }
    write_atomically(
        as_path(path), lambda file: save_file(flat, file, {"format": "flaxzoo", **(metadata or {})})
    )


def load_variables(
    path: str | os.PathLike[str], expected: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Reads what ``save_variables`` wrote.

    Args:
      path: a safetensors file.
      expected: variables, or their shapes, that the file must match.

    Returns:
      Collections of nested dictionaries of NumPy arrays.

    Raises:
      CheckpointError: the file is missing, damaged, of another format, or does not match
        ``expected``; the message names the file and the first paths that differ.
    """
    from safetensors import SafetensorError, safe_open

    path = as_path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weight file")
    try:
        with safe_open(path, "np") as file:
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    collections = {name.partition("/")[0] for name in flat}
    if "params" not in collections:
        first = ", ".join(sorted(flat)[:3])
        raise CheckpointError(
            f"{path}: not written by flaxzoo: no tensor is named 'params/...' (it holds {first})"
        )
    if expected is not None:
        compare(flatten(expected), flat, source=str(path))
        flat = {name: flat[name] for name in flatten(expected)}
    return unflatten(flat)
