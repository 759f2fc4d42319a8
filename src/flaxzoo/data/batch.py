"""``Batch``, and the forms in which users give one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxzoo.errors import DataError, ShapeError

INPUT_KEYS = ("inputs", "image", "images", "text", "x")
TARGET_KEYS = ("targets", "label", "labels", "y")
WEIGHT_KEY = "weight"


class Batch(NamedTuple):
    """Inputs, targets and weights; a pytree.

    Attributes:
      inputs: any pytree of arrays with a leading batch axis.
      targets: another one, or None.
      weights: ``[B]``, how much each example counts; 0 masks it. None counts all alike.
    """

    inputs: Any
    targets: Any = None
    weights: Any = None


def as_batch(batch: Any) -> Batch:
    """Makes a ``Batch``.

    Args:
      batch: ``(inputs, targets)``, ``(inputs, targets, weight)``, inputs alone, or a mapping with
        one of ``inputs``/``image``/``text`` and ``targets``/``label``, and perhaps ``weight``.
        Further keys of a mapping (``lengths``, ``mask``) go to the model with the inputs, as a
        mapping. Arrays of NumPy, JAX, torch or TensorFlow all do.

    Raises:
      DataError: the batch is empty, or is a mapping without inputs.
      ShapeError: inputs, targets and weights differ in their leading axis.
    """
    if isinstance(batch, Batch):
        return batch
    if isinstance(batch, Mapping):
        result = _from_mapping(batch)
    elif isinstance(batch, tuple | list) and 1 <= len(batch) <= 3 and not _is_numbers(batch):
        result = Batch(*batch)
    elif isinstance(batch, tuple | list) and not _is_numbers(batch):
        for leaf in jax.tree.leaves(batch)[:1]:
            _check_text(np.asarray(leaf) if isinstance(leaf, str | bytes) else leaf)
        raise DataError(
            f"a batch must be (inputs, targets) or (inputs, targets, weight), got a "
            f"{type(batch).__name__} of {len(batch)}"
        )
    else:
        result = Batch(batch)
    result = Batch(*(_arrays(part) for part in result))
    for leaf in jax.tree.leaves(result.inputs):
        _check_text(leaf)
    _check_sizes(result)
    return result


def batch_size(batch: Batch) -> int:
    """The number of examples."""
    return int(np.shape(jax.tree.leaves(batch.inputs)[0])[0])


def is_host(tree: Any) -> bool:
    """Whether every leaf is a NumPy array, so that looking at values costs no transfer."""
    return all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree))


def _from_mapping(batch: Mapping[str, Any]) -> Batch:
    rest = dict(batch)
    weights = rest.pop(WEIGHT_KEY, None)
    target_key = next((key for key in TARGET_KEYS if key in rest), None)
    targets = rest.pop(target_key) if target_key else None
    input_key = next((key for key in INPUT_KEYS if key in rest), None)
    if input_key is None:
        raise DataError(
            f"a batch mapping needs one of {', '.join(INPUT_KEYS)}; it has "
            f"{', '.join(map(str, batch)) or 'no keys'}"
        )
    inputs = rest[input_key] if len(rest) == 1 else rest
    return Batch(inputs, targets, weights)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(v, int | float) for v in value)


def _arrays(tree: Any) -> Any:
    if tree is None or isinstance(tree, jax.Array | np.ndarray):
        return tree
    if isinstance(tree, Mapping):
        return {key: _arrays(value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        if isinstance(tree, list) and (_is_numbers(tree) or _is_nested_numbers(tree)):
            return np.asarray(tree)
        return (
            type(tree)(*map(_arrays, tree))
            if hasattr(tree, "_fields")
            else tuple(_arrays(value) for value in tree)
        )
    if hasattr(tree, "detach"):
        # torch refuses NumPy conversion while a tensor requires a gradient or lies on a device.
        tree = tree.detach().cpu()
    # torch and TensorFlow tensors, Python numbers.
    return np.asarray(tree) if not hasattr(tree, "shape") or hasattr(tree, "__array__") else tree


def _check_text(leaf: Any) -> None:
    if getattr(getattr(leaf, "dtype", None), "kind", "") in ("U", "S", "T"):
        raise DataError(
            "the batch holds text: turn reviews and the like into ids with "
            "flaxzoo.data.TextVectorizer; for image files use flaxzoo.data.ImageFolder or "
            "ImageCSV, or trainer.model.predict"
        )


def _is_nested_numbers(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float)


def _check_sizes(batch: Batch) -> None:
    sizes = {
        name: {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in jax.tree.leaves(part)}
        for name, part in zip(("inputs", "targets", "weight"), batch, strict=True)
        if part is not None
    }
    if not sizes.get("inputs"):
        raise DataError("the batch holds no arrays")
    lengths = set().union(*sizes.values())
    if None in lengths:
        scalars = ", ".join(name for name, size in sizes.items() if None in size)
        raise ShapeError(f"every array of a batch needs a leading batch axis; {scalars} has none")
    if len(lengths) > 1:
        described = "; ".join(
            f"{name} {' and '.join(sorted(map(str, size)))}" for name, size in sizes.items()
        )
        raise ShapeError(f"the leading axes of a batch must agree, got {described}")
    if lengths == {0}:
        raise DataError("the batch is empty: its leading axis is 0")
    if batch.weights is not None and np.ndim(batch.weights) != 1:
        raise ShapeError(
            f"weight must have shape [B], one number per example, got "
            f"{list(np.shape(batch.weights))}"
        )
