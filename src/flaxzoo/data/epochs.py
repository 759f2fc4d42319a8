"""What data sets whose epochs are numbered have in common."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from flaxzoo._checks import check_size
from flaxzoo.errors import DataError


def random_order(size: int, *seeds: int) -> np.ndarray:
    """A permutation of ``range(size)`` that depends on nothing but its arguments.

    It is the sorted draws of a NumPy bit generator. NumPy promises that the bit streams never
    change between its versions, which it does not for ``Generator.permutation``.

    Args:
      size: number of examples.
      *seeds: non-negative ints; each different tuple gives an independent order.

    Returns:
      int64 ``[size]``.
    """
    draws = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(size)
    return np.argsort(draws, kind="stable")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which examples of each batch a process reads.

    Attributes:
      start: the first.
      stop: the one behind the last.
      size: the examples that a batch is filled up to, by repeating its first.
      batch_size: those that it has.
    """

    start: int
    stop: int
    size: int
    batch_size: int

    def of(self, order: np.ndarray) -> np.ndarray:
        """The order of these examples alone, all batches being of ``stop - start``."""
        full, rest = divmod(len(order), self.batch_size)
        sizes = [self.batch_size] * full + [rest] * bool(rest)
        rows = np.empty((len(sizes), self.stop - self.start), order.dtype)
        wanted = np.arange(self.start, self.stop)
        for number, size in enumerate(sizes):
            rows[number] = order[number * self.batch_size + np.where(wanted < size, wanted, 0)]
        return rows.reshape(-1)


class Epochs:
    """Batches by epoch; the order of an epoch is a pure function of ``(seed, epoch)``.

    A subclass sets the attributes and writes ``epoch``.

    Attributes:
      num_examples: the number of examples in an epoch.
      batch_size: examples per batch.
      shuffle: whether each epoch has an order of its own; otherwise it is the examples'.
      seed: non-negative int that selects the orders.
      drop_last: whether to leave out a last batch of fewer than ``batch_size`` examples.
    """

    num_examples: int
    batch_size: int
    shuffle: bool
    seed: int
    drop_last: bool
    _reads: Columns | None = None
    _length = 0

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        if self._reads is not None:
            return self._length
        full, rest = divmod(self.num_examples, self.batch_size)
        return full + bool(rest and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        """The batches of epoch 0: a plain ``for`` loop sees the same order every time."""
        return self.epoch(0)

    def epoch(self, epoch: int, *, start_batch: int = 0) -> Iterator[Any]:
        """Iterates over the batches of one epoch, from number ``start_batch`` on."""
        raise NotImplementedError

    def order(self, epoch: int) -> np.ndarray:
        """Indices of the examples in the order of an epoch, int64 ``[num_examples]``.

        Raises:
          ArgumentError: a negative epoch.
        """
        epoch = check_size("epoch", epoch, minimum=0)
        if not self.shuffle:
            order = np.arange(self.num_examples)
        else:
            order = random_order(self.num_examples, self.seed, epoch)
        return order if self._reads is None else self._reads.of(order)

    @property
    def reorders(self) -> bool:
        """Whether an epoch's order is another than the examples'."""
        return self.shuffle or self._reads is not None

    def part(self, columns: Columns) -> Self:
        """The same batches in the same order, but of each only the examples of ``columns``.

        The others are not read. ``num_examples`` stays that of the whole.
        """
        part = copy.copy(self)
        part._length, part._reads = len(self), columns
        part.batch_size = columns.stop - columns.start
        return part

    def _start(self, start_batch: int) -> int:
        """``start_batch``, checked."""
        start = check_size("start_batch", start_batch, minimum=0)
        if start > len(self):
            raise DataError(f"start_batch {start} is past the epoch's {len(self)} batches")
        return start

    def _order_by(
        self, num_examples: int, batch_size: int, *, shuffle: bool, seed: int, drop_last: bool
    ) -> None:
        """Sets the attributes of a data set that has a batch's worth of examples at least."""
        self.num_examples = num_examples
        self.batch_size = check_size("batch_size", batch_size)
        if self.batch_size > self.num_examples:
            raise DataError(
                f"batch_size {self.batch_size} is larger than the data: "
                f"{self.num_examples} examples"
            )
        self.shuffle = bool(shuffle)
        self.seed = check_size("seed", seed, minimum=0)
        self.drop_last = bool(drop_last)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_examples} examples, batch_size={self.batch_size}, "
            f"shuffle={self.shuffle}, seed={self.seed}, drop_last={self.drop_last})"
        )
