"""``Batch``, and the forms in which users give one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from flaxzoo._explain import explained
from flaxzoo._host import (
    as_host,
    check_numbers,
    first_place,
    is_array_like,
    is_numbers,
    refuse_sparse,
    unmasked,
)
from flaxzoo.errors import DataError, ShapeError

INPUT_KEYS = ("inputs", "image", "images", "text", "x")
TARGET_KEYS = ("targets", "label", "labels", "y")
WEIGHT_KEY = "weight"

_PARTS = ("inputs", "targets", "weight")


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


@explained
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
    elif isinstance(batch, tuple | list) and 1 <= len(batch) <= 3 and not is_numbers(batch):
        result = Batch(*batch)
    elif isinstance(batch, tuple | list) and not is_numbers(batch):
        for leaf in jax.tree.leaves(batch)[:1]:
            _check_inputs(np.asarray(leaf) if isinstance(leaf, str | bytes) else leaf, "inputs")
        raise DataError(
            f"a batch must be (inputs, targets) or (inputs, targets, weight), got a "
            f"{type(batch).__name__} of {len(batch)}"
        )
    else:
        result = Batch(batch)
    result = Batch(*map(_arrays, result, _PARTS))
    for leaf in jax.tree.leaves(result.inputs):
        _check_inputs(leaf, "inputs")
    check_numbers(result.weights, "weight")
    _check_sizes(result)
    return result


def batch_size(batch: Batch) -> int:
    """The number of examples."""
    return int(np.shape(jax.tree.leaves(batch.inputs)[0])[0])


def check_weights(weights: Any) -> None:
    """Looks at the weights of examples, if they are on the host.

    Args:
      weights: an array ``[...]``, or None.

    Raises:
      DataError: one is negative, NaN or infinite; the message gives the first one's place.
    """
    if not isinstance(weights, np.ndarray):
        return
    unmasked(weights, "weight")
    wrong = ~((weights >= 0) & (weights < np.inf))
    if wrong.any():
        index = first_place(wrong)
        raise DataError(
            f"weight holds {weights[index]} at index {list(index)} ({int(wrong.sum())} of "
            f"{weights.size} are wrong); the weight of an example is a finite number of at least "
            "0, and 0 leaves it out"
        )


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


def _arrays(tree: Any, name: str) -> Any:
    if tree is None or isinstance(tree, jax.Array):
        return tree
    if isinstance(tree, np.ndarray):
        return unmasked(tree, name)
    if isinstance(tree, Mapping):
        return {key: _arrays(value, f"{name}[{key!r}]") for key, value in tree.items()}
    if is_array_like(tree):
        return as_host(tree, name)
    if isinstance(tree, tuple | list):
        parts = [_arrays(value, f"{name}[{place}]") for place, value in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if hasattr(tree, "detach"):
        # torch refuses NumPy conversion while a tensor requires a gradient or lies on a device.
        tree = tree.detach().cpu()
    refuse_sparse(tree, name)
    if hasattr(tree, "isna") and name == "targets" and np.any(np.asarray(tree.isna())):
        missing = np.asarray(tree.isna())
        raise DataError(
            f"targets lack {int(missing.sum())} of {missing.size} values, first in row "
            f"{int(np.argwhere(missing)[0, 0])} (from 0): fill them or drop these rows"
        )
    # torch and TensorFlow tensors, Python numbers.
    return np.asarray(tree) if not hasattr(tree, "shape") or hasattr(tree, "__array__") else tree


def _check_inputs(leaf: Any, name: str) -> None:
    if getattr(getattr(leaf, "dtype", None), "kind", "") in ("U", "S", "T"):
        raise DataError(
            "the batch holds text: turn reviews and the like into ids, with vectorizer = "
            "flaxzoo.data.TextVectorizer().adapt(texts) into {**vectorizer.with_lengths(texts), "
            "'label': labels}; for image files use flaxzoo.data.ImageFolder or ImageCSV, or "
            "trainer.model.predict"
        )
    check_numbers(leaf, name)


def _check_sizes(batch: Batch) -> None:
    sizes = {
        name: {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in jax.tree.leaves(part)}
        for name, part in zip(_PARTS, batch, strict=True)
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
        # A list of pictures is a structure of many arrays.
        listed = isinstance(batch.inputs, tuple) and sizes.get("targets") == {len(batch.inputs)}
        hint = "; np.stack(inputs) makes one array of a list of examples" if listed else ""
        raise ShapeError(f"the leading axes of a batch must agree, got {described}{hint}")
    if lengths == {0}:
        raise DataError("the batch is empty: its leading axis is 0")
    if batch.weights is not None and np.ndim(batch.weights) != 1:
        raise ShapeError(
            f"weight must have shape [B], one number per example, got "
            f"{list(np.shape(batch.weights))}"
        )
