"""Arrays in memory (or memory-mapped): shuffled batches, splits, padding and checks.

Random orders here are those of ``flaxzoo.data.epochs``: a split or an epoch is the same data on
every machine, this year and next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from flaxzoo._checks import check_size
from flaxzoo._explain import explained
from flaxzoo._host import as_host, check_numbers, is_array_like
from flaxzoo._words import tables
from flaxzoo.data.batch import Batch
from flaxzoo.data.epochs import Epochs, random_order
from flaxzoo.errors import DataError, ShapeError


def _host_leaf(leaf: Any, name: str) -> np.ndarray:
    # A memory map stays one: asanyarray would keep the subclass, asarray keeps the buffer.
    array = as_host(leaf, name)
    if array.dtype == object:
        check_numbers(array, name)
    if array.ndim == 0:
        raise DataError(
            f"{name} is a single value; every array needs the examples as its first axis, and a "
            "tuple holds several arrays: make a list of what is one"
        )
    return array


def _host_arrays(arrays: Any) -> tuple[list[np.ndarray], list[str], Any]:
    """Leaves as NumPy arrays, their names, and the tree definition; lengths are checked."""
    return _leaves(arrays, _host_leaf, is_array_like)


def _leaves(
    arrays: Any, as_leaf: Callable[[Any, str], Any], is_leaf: Callable[[Any], bool]
) -> tuple[list[Any], list[str], Any]:
    paths, treedef = tree_flatten_with_path(arrays, is_leaf=is_leaf)
    if not paths:
        raise DataError("no arrays: the data holds nothing to batch")
    names = [f"arrays{keystr(path)}" for path, _ in paths]
    leaves = [as_leaf(leaf, name) for (_, leaf), name in zip(paths, names, strict=True)]
    if len({len(leaf) for leaf in leaves}) > 1:
        lengths = ", ".join(
            f"{name} has {len(leaf)}" for name, leaf in zip(names, leaves, strict=True)
        )
        raise DataError(f"the arrays differ in their number of examples: {lengths}")
    if len(leaves[0]) == 0:
        shape = getattr(leaves[0], "shape", (0,))
        raise DataError(f"no examples: {names[0]} has shape {list(shape)}")
    return leaves, names, treedef


def _column(leaf: Any, name: str) -> Any:
    """What can be split: an array of any dtype, a column or frame of pandas, or a list."""
    if hasattr(leaf, "iloc") or isinstance(leaf, list):
        return leaf
    array = as_host(leaf, name)
    if array.ndim == 0:
        raise DataError(
            f"{name} is a single value; every array needs the examples as its first axis, and a "
            "tuple holds several arrays: make a list of what is one"
        )
    return array


def _refuse_targets(value: Any, what: str) -> None:
    """Targets in the place of a number: other libraries take them as an argument of their own."""
    if isinstance(value, list | tuple) or np.ndim(value):
        raise DataError(tables()["positions"][what])


def _is_column(value: Any) -> bool:
    """Whether it is split as it is: a frame, or a list of anything but arrays and containers."""
    if not isinstance(value, list):
        return hasattr(value, "iloc")
    if value and all(isinstance(each, list) for each in value) and len(value) <= 3:
        raise DataError(
            f"arrays is a list of {len(value)} lists: pass columns as a tuple, "
            "train_test_split((inputs, targets)), and examples that are lists as arrays"
        )
    inner = (getattr(each, "shape", ()) or isinstance(each, tuple | Mapping) for each in value)
    return not any(inner)


def _rows(leaf: Any, chosen: np.ndarray) -> Any:
    if hasattr(leaf, "iloc"):
        return leaf.iloc[np.flatnonzero(chosen)]
    if isinstance(leaf, list):
        return [leaf[row] for row in np.flatnonzero(chosen)]
    return leaf[chosen]


@explained
class ArrayDataset(Epochs):
    """Batches of arrays that share their first axis.

    The order of an epoch is a pure function of ``(seed, epoch)``: nothing has to be replayed or
    saved to resume a run, and two processes see the same batches.

    Args:
      arrays: any pytree of arrays with one length, such as ``(images, labels)`` or
        ``{"image": images, "label": labels}``; NumPy arrays, memory maps or JAX arrays. They are
        not copied.
      batch_size: examples per batch, at most the number of examples.
      shuffle: whether each epoch has an order of its own; otherwise the order is the arrays'.
      seed: non-negative int that selects the orders.
      drop_last: whether to leave out a last batch of fewer than ``batch_size`` examples.

    Raises:
      ArgumentError: a batch size below 1, or a negative seed.
      DataError: no examples, arrays of different lengths (each is named), values that are not
        arrays, or a batch size above the number of examples.
    """

    def __init__(
        self,
        arrays: Any,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        _refuse_targets(batch_size, "ArrayDataset")
        self._leaves, _, self._treedef = _host_arrays(arrays)
        self._order_by(
            len(self._leaves[0]), batch_size, shuffle=shuffle, seed=seed, drop_last=drop_last
        )

    @property
    def arrays(self) -> Any:
        """All examples, in their own order, in the structure they were given in."""
        return jax.tree.unflatten(self._treedef, self._leaves)

    def epoch(self, epoch: int, *, start_batch: int = 0) -> Iterator[Any]:
        """Iterates over the batches of one epoch.

        Args:
          epoch: number of the epoch, from 0.
          start_batch: number of batches to skip, at no cost: how a run resumes in mid-epoch.

        Returns:
          An iterator of trees like ``arrays``; each leaf is ``[batch_size, ...]`` of its own
          dtype, the last one shorter where ``drop_last`` is false and the sizes do not divide.
          Unshuffled batches are views of the arrays.

        Raises:
          ArgumentError: a negative epoch or start.
          DataError: a start past the end of the epoch.
        """
        start = self._start(start_batch)
        return self._batches(self.order(epoch) if self.reorders else None, start)

    def _batches(self, order: np.ndarray | None, start: int) -> Iterator[Any]:
        for batch in range(start, len(self)):
            window = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            index = window if order is None else order[window]
            yield jax.tree.unflatten(self._treedef, [leaf[index] for leaf in self._leaves])


def next_multiple(size: int, parts: int) -> int:
    """The least number of examples from ``size`` on that so many parts divide."""
    return -(-size // parts) * parts


def filled_up(batch: Batch, size: int) -> Batch:
    """A batch of ``size`` examples: those that ``pad_batch`` adds have the weight 0.

    Args:
      batch: NumPy arrays, or arrays on a device, of at most so many examples; its own weights stay.
      size: number of examples to have.

    Raises:
      As ``pad_batch``.
    """
    filled, weights = pad_batch(batch, size)
    if batch.weights is not None:
        weights = filled.weights * weights
    return filled._replace(weights=weights)


@explained
def pad_batch(batch: Any, batch_size: int) -> tuple[Any, np.ndarray]:
    """Fills a short batch up, so that every batch has one shape and nothing recompiles.

    The filling repeats the first example instead of zeros: it is data that the model can see
    without making infinities of its own, and its weight of 0 keeps it out of sums.

    Args:
      batch: pytree of arrays ``[n, ...]``, ``1 <= n <= batch_size``.
      batch_size: number of examples to have.

    Returns:
      The batch with leaves ``[batch_size, ...]``, and its weights, float32 ``[batch_size]``: 1
      for an example of the batch, 0 for filling.

    Raises:
      ShapeError: the batch has more than ``batch_size`` examples.
      DataError: the batch is empty, or its arrays differ in length.
    """
    leaves, _, treedef = _host_arrays(batch)
    size = len(leaves[0])
    batch_size = check_size("batch_size", batch_size)
    if size > batch_size:
        raise ShapeError(f"batch has {size} examples, more than the batch_size {batch_size}")
    weight = np.zeros(batch_size, np.float32)
    weight[:size] = 1.0
    if size == batch_size:
        return batch, weight
    padded = [
        np.concatenate([leaf, np.repeat(leaf[:1], batch_size - size, axis=0)]) for leaf in leaves
    ]
    return jax.tree.unflatten(treedef, padded), weight


@explained
def train_test_split(
    arrays: Any,
    test_size: float | int = 0.2,
    *,
    seed: int = 0,
    stratify: Any = None,
) -> tuple[Any, Any]:
    """Splits examples into a training and a test part, at random but always the same way.

    Args:
      arrays: pytree of what has one length: arrays of any dtype, lists (of texts, paths, numbers),
        columns and data frames of pandas. Tuples and mappings hold several:
        ``train_test_split((texts, labels))``.
      test_size: the test part as a fraction between 0 and 1 (rounded), or as a number of
        examples (int).
      seed: non-negative int that selects the split.
      stratify: labels ``[N]``; if given, each class has the same share of both parts, as nearly
        as whole examples allow.

    Returns:
      ``(train, test)``, each a tree like ``arrays``, lists as lists and frames as frames; examples
      keep their order.

    Raises:
      DataError: empty data, different lengths, or a ``test_size`` that leaves a part empty.
      ShapeError: ``stratify`` is not one label per example.
    """
    _refuse_targets(test_size, "train_test_split")
    leaves, _, treedef = _leaves(arrays, _column, _is_column)
    size = len(leaves[0])
    seed = check_size("seed", seed, minimum=0)
    test_count = held_out_count(test_size, size, "test_size")
    if stratify is None:
        test = random_order(size, seed)[:test_count]
    else:
        labels = as_host(stratify, "stratify")
        if labels.shape != (size,):
            raise ShapeError(
                f"stratify takes one label per example, shape [{size}], got {list(labels.shape)}"
            )
        try:
            test = stratified(labels, test_count, seed)
        except TypeError as error:
            raise DataError(
                f"stratify holds labels that cannot be sorted ({error}): fill or drop missing ones"
            ) from error
    in_test = np.zeros(size, bool)
    in_test[test] = True
    train_part = jax.tree.unflatten(treedef, [_rows(leaf, ~in_test) for leaf in leaves])
    return train_part, jax.tree.unflatten(treedef, [_rows(leaf, in_test) for leaf in leaves])


def held_out_count(
    share: float | int, size: int, name: str, examples: str = "examples", use: str = "test on"
) -> int:
    """How many examples a share holds out.

    Args:
      share: a fraction between 0 and 1, rounded to whole examples, or their number (int).
      size: the number of examples.
      name: the name of the argument, for messages.
      examples: what they are called there.
      use: what the part is for.

    Raises:
      DataError: neither of the two, or a part would be empty.
    """
    if isinstance(share, int | np.integer) and not isinstance(share, bool):
        count = int(share)
    elif isinstance(share, float | np.floating) and 0 < share < 1:
        count = round(size * float(share))
    else:
        raise DataError(
            f"{name} must be a fraction between 0 and 1 or a number of {examples}, got {share!r}"
        )
    if not 0 < count < size:
        raise DataError(
            f"{name} {share} of {size} {examples} leaves {max(size - count, 0)} to train on and "
            f"{max(count, 0)} to {use}; neither part may be empty"
        )
    return count


def stratified(labels: np.ndarray, count: int, seed: int, *, keep: int = 0) -> np.ndarray:
    """``count`` rows of which every class has its share, as nearly as whole rows allow.

    Args:
      labels: ``[N]``.
      count: rows to choose, at most ``N`` less ``keep`` for each class.
      seed: non-negative int that selects them.
      keep: rows of every class that stay behind, whatever its share.

    Returns:
      Indices, class by class.
    """
    classes, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    # Largest remainder: whole rows per class that add up to count.
    exact = sizes * (count / len(labels))
    take = np.minimum(np.floor(exact).astype(np.int64), sizes - keep)
    # A further round where classes that are too small had to be passed over.
    while (extra := count - int(take.sum())) > 0:
        order = np.argsort(take - exact, kind="stable")
        take[order[take[order] < sizes[order] - keep][:extra]] += 1
    members = [np.flatnonzero(inverse == index) for index in range(len(classes))]
    return np.concatenate(
        [
            rows[random_order(len(rows), seed, index)[: take[index]]]
            for index, rows in enumerate(members)
        ]
    )
