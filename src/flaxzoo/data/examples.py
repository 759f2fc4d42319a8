"""Data sets that hold single examples, such as Hugging Face's and torch's, made batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from flaxzoo._explain import explained
from flaxzoo._host import as_host
from flaxzoo.data.batch import TARGET_KEYS
from flaxzoo.data.epochs import Epochs
from flaxzoo.errors import DataError, ShapeError

# Grain repeats up to the largest int.
_ENDLESS = 1 << 48


@explained
class ExampleDataset(Epochs):
    """Batches of a data set that gives one example at a time.

    ``data[i]`` is an example: ``(input, target)``, a mapping, or any other tree of arrays and
    numbers; ``len(data)`` says how many there are. Data sets of torch, ``grain.MapDataset`` and
    lists of examples are such. A Hugging Face ``Dataset`` is read by columns, many rows at once,
    as NumPy arrays unless it has a format of its own. Like an ``ArrayDataset``'s, the order of
    an epoch depends on ``(seed, epoch)`` alone, and a run resumes in mid-epoch at no cost.

    Args:
      data: the data set.
      batch_size: examples per batch, at most the number of examples.
      shuffle: whether each epoch has an order of its own.
      seed: non-negative int that selects the orders.
      drop_last: whether to leave out a last batch of fewer than ``batch_size`` examples.

    Raises:
      DataError: it has no length or no random access, no examples, or fewer than a batch.
    """

    def __init__(
        self,
        data: Any,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if not has_random_access(data):
            raise DataError(
                f"an ExampleDataset needs data[i] and len(data), which {type(data).__name__} lacks"
            )
        self._columns = is_hugging_face(data)
        if self._columns and data.format["type"] is None:
            data = data.with_format("numpy")
        self._data = data
        if not len(data):
            raise DataError(f"no examples: the {type(data).__name__} is empty")
        self._order_by(len(data), batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last)

    def epoch(self, epoch: int, *, start_batch: int = 0) -> Iterator[Any]:
        """Iterates over the batches of one epoch.

        Args:
          epoch: number of the epoch, from 0.
          start_batch: number of batches to skip, at no cost.

        Returns:
          An iterator of trees like an example; each leaf is ``[batch_size, ...]``, the last one
          shorter where ``drop_last`` is false and the sizes do not divide.

        Raises:
          ArgumentError: a negative epoch or start.
          DataError: a start past the end of the epoch; values that
            are no numbers.
          ShapeError: examples of different shapes.
        """
        start = self._start(start_batch)
        order = self.order(epoch)
        return (
            self._batch(order[batch * self.batch_size : (batch + 1) * self.batch_size].tolist())
            for batch in range(start, len(self))
        )

    def _batch(self, rows: list[int]) -> Any:
        if self._columns:
            return _numbers(dict(self._data[rows]))
        if hasattr(self._data, "__getitems__"):
            return stack(self._data.__getitems__(rows))
        return stack([self._data[row] for row in rows])


def grouped(elements: Iterable[Any], batch_size: int) -> Iterator[Any]:
    """Elements as they are where they are batches; examples put together to batches.

    Args:
      elements: batches or examples; the first one tells which, by ``is_example``.
      batch_size: examples per batch; the last batch may have fewer.
    """
    iterator = iter(elements)
    for first in iterator:
        iterator = itertools.chain([first], iterator)
        if not is_example(first):
            yield from iterator
            return
        while rows := list(itertools.islice(iterator, batch_size)):
            yield stack(rows)
        return


def is_example(element: Any) -> bool:
    """Whether an element of a data set is one example, not a batch: its target is one number."""
    target: Any = None
    if isinstance(element, Mapping):
        target = next((element[key] for key in TARGET_KEYS if key in element), None)
    elif isinstance(element, tuple | list) and 2 <= len(element) <= 3:
        target = element[1]
    if isinstance(target, int | float | str | np.generic):
        return True
    return hasattr(target, "shape") and len(target.shape) == 0


def has_random_access(data: Any) -> bool:
    """Whether ``data[i]`` and ``len(data)`` work."""
    if isinstance(data, Mapping) or not hasattr(data, "__getitem__"):
        return False
    try:
        return len(data) >= 0
    except (TypeError, AttributeError):
        return False


def is_hugging_face(data: Any) -> bool:
    """Whether this is a ``datasets.Dataset``: rows in columns, whose elements are rows."""
    return _is_from(data, "datasets") and hasattr(data, "with_format") and has_random_access(data)


def holds_examples(data: Any) -> bool:
    """Whether a data set gives examples by their number; looks at the first one."""
    # No order can be drawn of what never ends: it is read as a stream.
    if not has_random_access(data) or not 0 < len(data) < _ENDLESS:
        return False
    try:
        first = data[0]
    except (KeyError, TypeError, IndexError, NotImplementedError):
        # Frames have columns there; torch's IterableDataset only inherits the method.
        return False
    if is_hugging_face(data) and not set(first) & set(TARGET_KEYS):
        # Its rows are examples, unless ``Dataset.batch`` made batches of them.
        return True
    return is_example(first)


def check_endless(data: Any, name: str) -> None:
    """Refuses a data set that says itself that it never ends.

    Raises:
      DataError: it does; the message asks for ``steps_per_epoch``.
    """
    # tf.data's number for it is -1.
    cardinality = getattr(data, "cardinality", None)
    endless = _is_from(data, "tensorflow") and callable(cardinality) and int(cardinality()) == -1
    if not endless and _is_from(data, "grain") and hasattr(data, "__len__"):
        endless = len(data) >= _ENDLESS
    if endless:
        raise DataError(f"{name} never ends: pass steps_per_epoch, or leave out its repeat()")


def stack(examples: list[Any]) -> Any:
    """A batch of examples.

    Args:
      examples: trees of one structure; leaves are numbers, NumPy or JAX arrays, or tensors.

    Returns:
      The same tree; leaves are arrays with a batch axis in front.

    Raises:
      DataError: an example is None, has another structure than the first, or holds no numbers.
      ShapeError: examples of different shapes.
    """
    if any(example is None for example in examples):
        raise DataError(
            "the data gave None for an example; after filter(), Grain wants to_iter_dataset()"
        )
    first, *rest = (_containers(example) for example in examples)
    structures = [str(jax.tree.structure(example)) for example in (first, *rest)]
    for structure in structures:
        if structure != structures[0]:
            raise DataError(f"examples differ in structure: {structures[0]} and {structure}")
    return _numbers(jax.tree.map(_stacked, first, *rest))


def _containers(tree: Any) -> Any:
    """Lists of numbers as arrays: JAX would take each number for a leaf."""
    if isinstance(tree, Mapping):
        return {key: _containers(value) for key, value in tree.items()}
    if isinstance(tree, list) and not any(hasattr(value, "shape") for value in tree):
        return as_host(tree, "an example")
    if isinstance(tree, tuple | list):
        return tuple(map(_containers, tree))
    return tree


def _stacked(*leaves: Any) -> np.ndarray:
    plain = (leaf.detach() if hasattr(leaf, "detach") else leaf for leaf in leaves)
    arrays = [as_host(leaf, "an example") for leaf in plain]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        shown = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
        raise ShapeError(
            f"examples of a batch have different shapes, {shown}; resize or pad them first"
        )
    return np.stack(arrays)


def _numbers(batch: Any) -> Any:
    """The batch, if it holds numbers alone."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
        kind = getattr(getattr(leaf, "dtype", None), "kind", "U" if isinstance(leaf, str) else "")
        if kind and kind in "OSUT":
            what = "no numbers of one shape" if kind == "O" else "text"
            raise DataError(
                f"batch{jax.tree_util.keystr(path)} holds {what}; turn texts into ids "
                "(TextVectorizer) and give images one size, or remove the column"
            )
    return batch


def _is_from(data: Any, package: str) -> bool:
    return any(cls.__module__.partition(".")[0] == package for cls in type(data).__mro__)
