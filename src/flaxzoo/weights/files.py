"""Variables in safetensors files, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxzoo._explain import explained
from flaxzoo._files import as_path, write_atomically
from flaxzoo._trees import compare, flatten, unflatten
from flaxzoo.errors import CheckpointError
from flaxzoo.weights.safetensors_files import read_safetensors, write_safetensors
from flaxzoo.weights.values import checked


@explained
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
      metadata: text to store in the file's header, beside the tensors' SHA-256.

    Raises:
      DataError: the file cannot be written.
    """
    flat = flatten(variables)

    def write(file: Path) -> None:
        write_safetensors(file, flat, {"format": "flaxzoo", **(metadata or {})})

    write_atomically(as_path(path), write)


@explained
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
        ``expected`` in paths, shapes and kinds of numbers; the message names the file and the first
        paths that differ.
    """
    path = as_path(path)
    variables = fit_variables(read_safetensors(path), str(path), expected)
    if expected is not None:
        checked(flatten(variables), flatten(expected), source=str(path), own=True)
    return variables


def fit_variables(
    flat: Mapping[str, Any], source: str, expected: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Tensors under our own names as variables.

    Args:
      flat: arrays by path.
      source: names the file in messages.
      expected: variables, or their shapes, that they must match.

    Raises:
      CheckpointError: they are not ours, or do not match; the first paths that differ are named.
    """
    if not any(name.startswith("params/") for name in flat):
        first = ", ".join(sorted(flat)[:3])
        raise CheckpointError(
            f"{source}: not written by flaxzoo: no tensor is named 'params/...' (it holds {first})"
        )
    if expected is not None:
        compare(flatten(expected), flat, source=source)
        flat = {name: flat[name] for name in flatten(expected)}
    return unflatten(flat)
