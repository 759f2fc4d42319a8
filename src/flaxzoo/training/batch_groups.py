"""Batches in groups of several, which one call of a compiled step takes."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.data.arrays import ArrayDataset
from flaxzoo.data.batch import Batch, as_batch

# What XLA wants of memory that it is to read in place.
_ALIGNMENT = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Group:
    """Several batches of one shape; a pytree.

    Attributes:
      batch: arrays ``[steps, B, ...]``.
      steps: how many there are; static.
    """

    batch: Batch
    steps: int = dataclasses.field(metadata={"static": True})


def size_of(item: Batch | Group) -> int:
    """The number of batches in what is one batch or a group."""
    return item.steps if isinstance(item, Group) else 1


def one_of(batches: Batch) -> Batch:
    """The shapes and dtypes of one of several batches ``[K, B, ...]``."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batches)


def in_groups(batches: Iterable[Batch], size: int, fits: Callable[[int], bool]) -> Iterator[Any]:
    """Groups of ``size`` batches where they may be put together, single batches elsewhere.

    What comes next depends on the position and on the batches from there on alone, so that a run
    that resumes between two groups has the groups of the uninterrupted run.

    Args:
      batches: any iterable.
      size: batches in a group, at least 2.
      fits: tells, for the number of batches that went before, whether the next ``size`` may be a
        group.

    Returns:
      An iterator of ``Group`` and ``Batch``. Batches that differ in shape, dtype or structure are
      never in one group, and fewer than ``size`` at the end stay single: there are two programs
      to compile at most, whatever the length.
    """
    source, done = iter(batches), 0
    waiting: collections.deque[tuple[Batch, Any]] = collections.deque()
    while True:
        while len(waiting) < size:
            batch = next(source, None)
            if batch is None:
                break
            waiting.append((batch, _signature(batch)))
        if not waiting:
            return
        alike = all(signature == waiting[0][1] for _, signature in waiting)
        if len(waiting) == size and alike and fits(done):
            group = stack([batch for batch, _ in waiting])
            waiting.clear()
            done += size
            yield group
            # Not to be kept alive while the next ones are read.
            del group
        else:
            done += 1
            yield waiting.popleft()[0]


class Rows:
    """The batches of an epoch of arrays by their numbers, one or several at once.

    Where there is an order, the rows are copied into memory that the CPU's compiled steps read in
    place; elsewhere they are views of the arrays.

    Args:
      data: the arrays.
      epoch: number of the epoch.
    """

    def __init__(self, data: ArrayDataset, epoch: int) -> None:
        self._leaves, self._treedef = jax.tree.flatten(as_batch(data.arrays))
        self._order = data.order(epoch) if data.reorders else None
        self._size = data.batch_size

    def __call__(self, number: int, count: int | None = None) -> Batch:
        """A batch ``[B, ...]``, or ``count`` whole ones from it on as ``[count, B, ...]``."""
        window = slice(number * self._size, (number + (count or 1)) * self._size)
        if self._order is not None:
            rows = self._order[window]
            rows = rows if count is None else rows.reshape(count, self._size)
            leaves = [take_rows(leaf, rows) for leaf in self._leaves]
        else:
            leaves = [leaf[window] for leaf in self._leaves]
            if count is not None:
                leaves = [leaf.reshape(count, self._size, *leaf.shape[1:]) for leaf in leaves]
        return jax.tree.unflatten(self._treedef, leaves)


def stack(batches: list[Batch]) -> Group:
    """A group of batches of one shape; NumPy arrays stay on the host."""
    return Group(jax.tree.map(lambda *leaves: _stack(leaves), *batches), len(batches))


def take_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``array[rows]``, in memory that the CPU's compiled steps read in place.

    Args:
      array: ``[N, ...]``.
      rows: indices ``[...]``, each in ``[0, N)``.

    Returns:
      ``[*rows.shape, *array.shape[1:]]``.
    """
    array = np.asarray(array)
    out = _aligned((*rows.shape, *array.shape[1:]), array.dtype)
    # Any mode but the default one writes to out directly; the rows are known to be there.
    return np.take(array, rows, axis=0, out=out, mode="clip")


def _stack(leaves: tuple[Any, ...]) -> Any:
    if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return jnp.stack(leaves)
    out = _aligned((len(leaves), *leaves[0].shape), leaves[0].dtype)
    return np.stack(leaves, out=out)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An empty array; large ones of NumPy's own are never aligned so, and jax copies them."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _signature(batch: Batch) -> Any:
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, [(leaf.shape, leaf.dtype) for leaf in leaves]
