"""Arrays in memory (or memory-mapped): shuffled batches, splits, padding and checks.

Random orders here are sorted draws of a NumPy bit generator. NumPy promises that the bit streams
never change between its versions, which it does not for ``Generator.permutation``; a split or an
epoch is therefore the same data on every machine, this year and next.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from flaxzoo.errors import DataError, ShapeError


def random_order(size: int, *seeds: int) -> np.ndarray:
    """A permutation of ``range(size)`` that depends on nothing but its arguments.

    Args:
      size: number of examples.
      *seeds: non-negative ints; each different tuple gives an independent order.

    Returns:
      int64 ``[size]``.
    """
    draws = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(size)
    return np.argsort(draws, kind="stable")


def as_int(value: Any, name: str, minimum: int) -> int:
    """``value`` as an int of at least ``minimum``; DataError naming the argument otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise DataError(f"{name} must be an int, got {value!r}") from None
    if number < minimum:
        raise DataError(f"{name} must be at least {minimum}, got {number}")
    return number


def _host_leaf(leaf: Any, name: str) -> np.ndarray:
    # A memory map stays one: asanyarray would keep the subclass, asarray keeps the buffer.
    array = np.asarray(leaf)
    if array.dtype == object:
        raise DataError(f"{name} is not an array of numbers (dtype object)")
    if array.ndim == 0:
        raise DataError(
            f"{name} is a single value; every array needs the examples as its first axis "
            "(nested lists are read as containers: convert them with np.asarray first)"
        )
    return array


def _host_arrays(arrays: Any) -> tuple[list[np.ndarray], list[str], Any]:
    """Leaves as NumPy arrays, their names, and the tree definition; lengths are checked."""
    paths, treedef = tree_flatten_with_path(arrays)
    if not paths:
        raise DataError("no arrays: the data holds nothing to batch")
    names = [f"arrays{keystr(path)}" for path, _ in paths]
    leaves = [_host_leaf(leaf, name) for (_, leaf), name in zip(paths, names, strict=True)]
    if len({len(leaf) for leaf in leaves}) > 1:
        lengths = ", ".join(
            f"{name} has {len(leaf)}" for name, leaf in zip(names, leaves, strict=True)
        )
        raise DataError(f"the arrays differ in their number of examples: {lengths}")
    if len(leaves[0]) == 0:
        raise DataError(f"no examples: {names[0]} has shape {list(leaves[0].shape)}")
    return leaves, names, treedef


class ArrayDataset:
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
      DataError: no examples, arrays of different lengths (each is named), values that are not
        arrays, or a batch size that is below 1 or above the number of examples.
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
        self._leaves, _, self._treedef = _host_arrays(arrays)
        self.num_examples = len(self._leaves[0])
        self.batch_size = as_int(batch_size, "batch_size", 1)
        if self.batch_size > self.num_examples:
            raise DataError(
                f"batch_size {self.batch_size} is larger than the data: "
                f"{self.num_examples} examples"
            )
        self.shuffle = bool(shuffle)
        self.seed = as_int(seed, "seed", 0)
        self.drop_last = bool(drop_last)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        full, rest = divmod(self.num_examples, self.batch_size)
        return full + bool(rest and not self.drop_last)

    def __repr__(self) -> str:
        return (
            f"ArrayDataset({self.num_examples} examples, batch_size={self.batch_size}, "
            f"shuffle={self.shuffle}, seed={self.seed}, drop_last={self.drop_last})"
        )

    @property
    def arrays(self) -> Any:
        """All examples, in their own order, in the structure they were given in."""
        return jax.tree.unflatten(self._treedef, self._leaves)

    def order(self, epoch: int) -> np.ndarray:
        """Indices of the examples in the order of an epoch, int64 ``[num_examples]``."""
        epoch = as_int(epoch, "epoch", 0)
        if not self.shuffle:
            return np.arange(self.num_examples)
        return random_order(self.num_examples, self.seed, epoch)

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
          DataError: a negative epoch or start, or a start past the end of the epoch.
        """
        start = as_int(start_batch, "start_batch", 0)
        if start > len(self):
            raise DataError(f"start_batch {start} is past the epoch's {len(self)} batches")
        return self._batches(self.order(epoch) if self.shuffle else None, start)

    def _batches(self, order: np.ndarray | None, start: int) -> Iterator[Any]:
        for batch in range(start, len(self)):
            window = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            index = window if order is None else order[window]
            yield jax.tree.unflatten(self._treedef, [leaf[index] for leaf in self._leaves])

    def __iter__(self) -> Iterator[Any]:
        """The batches of epoch 0: a plain ``for`` loop sees the same order every time."""
        return self.epoch(0)


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
    batch_size = as_int(batch_size, "batch_size", 1)
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


def check_finite(tree: Any, what: str = "data") -> None:
    """Refuses NaN and infinity; integer arrays pass.

    Args:
      tree: pytree of arrays.
      what: name of the data, for the message.

    Raises:
      DataError: some value is not finite; the message gives the first one's place and the count.
    """
    for path, leaf in tree_flatten_with_path(tree)[0]:
        array = np.asarray(leaf)
        # jnp knows bfloat16 and float8 as floating; NumPy does not.
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            continue
        # A sum is finite only if every term is; float64 is not needed as an overflowing sum
        # of finite terms is merely looked at more closely.
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(np.sum(array)):
                continue
        bad = ~np.isfinite(array)
        count = int(np.count_nonzero(bad))
        if count:
            index = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), array.shape))
            place = f" at index {list(index)}" if index else ""
            raise DataError(
                f"{what}{keystr(path)} holds {array[index]}{place} "
                f"({count} of {array.size} values are not finite)"
            )


def train_test_split(
    arrays: Any,
    test_size: float | int = 0.2,
    *,
    seed: int = 0,
    stratify: Any = None,
) -> tuple[Any, Any]:
    """Splits examples into a training and a test part, at random but always the same way.

    Args:
      arrays: pytree of arrays with one length.
      test_size: the test part as a fraction between 0 and 1 (rounded), or as a number of
        examples (int).
      seed: non-negative int that selects the split.
      stratify: labels ``[N]``; if given, each class has the same share of both parts, as nearly
        as whole examples allow.

    Returns:
      ``(train, test)``, each a tree like ``arrays``; examples keep their order.

    Raises:
      DataError: empty data, different lengths, or a ``test_size`` that leaves a part empty.
      ShapeError: ``stratify`` is not one label per example.
    """
    leaves, _, treedef = _host_arrays(arrays)
    size = len(leaves[0])
    seed = as_int(seed, "seed", 0)
    test_count = _test_count(test_size, size)
    if stratify is None:
        test = random_order(size, seed)[:test_count]
    else:
        test = _stratified(np.asarray(stratify), size, test_count, seed)
    in_test = np.zeros(size, bool)
    in_test[test] = True
    train_part = jax.tree.unflatten(treedef, [leaf[~in_test] for leaf in leaves])
    return train_part, jax.tree.unflatten(treedef, [leaf[in_test] for leaf in leaves])


def _test_count(test_size: float | int, size: int) -> int:
    if isinstance(test_size, (int, np.integer)) and not isinstance(test_size, bool):
        count = int(test_size)
    elif isinstance(test_size, (float, np.floating)) and 0 < test_size < 1:
        count = round(size * float(test_size))
    else:
        raise DataError(
            f"test_size must be a fraction between 0 and 1 or a number of examples, "
            f"got {test_size!r}"
        )
    if not 0 < count < size:
        raise DataError(
            f"test_size {test_size} of {size} examples leaves {max(size - count, 0)} to train "
            f"and {max(count, 0)} to test; neither part may be empty"
        )
    return count


def _stratified(labels: np.ndarray, size: int, test_count: int, seed: int) -> np.ndarray:
    if labels.shape != (size,):
        raise ShapeError(
            f"stratify takes one label per example, shape [{size}], got {list(labels.shape)}"
        )
    classes, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    # Largest remainder: whole examples per class that add up to test_count.
    exact = counts * (test_count / size)
    take = np.floor(exact).astype(np.int64)
    extra = test_count - int(take.sum())
    take[np.argsort(take - exact, kind="stable")[:extra]] += 1
    parts = []
    for index in range(len(classes)):
        members = np.flatnonzero(inverse == index)
        parts.append(members[random_order(len(members), seed, index)[: take[index]]])
    return np.concatenate(parts)
