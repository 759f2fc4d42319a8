"""What ``Trainer`` is given as data, made a stream of equal-sized batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from flaxzoo.data.arrays import ArrayDataset, pad_batch
from flaxzoo.data.batch import Batch, as_batch, batch_size
from flaxzoo.data.examples import (
    ExampleDataset,
    check_endless,
    grouped,
    holds_examples,
    is_example,
)
from flaxzoo.errors import DataError
from flaxzoo.training.batch_groups import Group, Rows, in_groups


@runtime_checkable
class EpochData(Protocol):
    """A data set that knows its epochs: what resumes in mid-epoch without reading what is past.

    Attributes:
      num_examples: in an epoch.
      batch_size: examples in every batch but the last, which may be shorter unless there is a
        true ``drop_last``.
    """

    num_examples: int
    batch_size: int

    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def epoch(self, epoch: int, *, start_batch: int = 0) -> Iterator[Any]:
        """The batches of an epoch from number ``start_batch`` on, the same at every call."""


class Feed:
    """Batches of one data set, epoch by epoch.

    Args:
      data: arrays (``(inputs, targets)``, ``(inputs, targets, weight)``, a mapping of arrays, or
        inputs alone for reconstruction), or what holds such as its ``arrays``; or a data set
        that gives the batches of each epoch from any one on (``flaxzoo.data.ArrayDataset``,
        ``ImageFolder``: see ``EpochData``); or a data set of single examples (Hugging Face's,
        torch's, ``grain.MapDataset``), which becomes an ``ExampleDataset``; or any iterable of
        batches (a torch DataLoader, a ``tf.data.Dataset``, Grain, a list) or of examples, which
        are put together as they come; or a function that returns such an iterable, called once
        per epoch.
      batch_size: examples per batch, for arrays and examples.
      shuffle: whether each epoch of arrays or numbered examples has an order of its own.
      seed: of that order.
      steps_per_epoch: where to end an epoch; needed for endless iterables. An iterable is read on
        from there in the next epoch, and afresh when it ends.
      name: of the argument, for messages.

    Attributes:
      checked: whether the values have been looked at already.
      first_epoch: the epoch at which an iterable is read from its beginning; later ones go on
        from there.
      pad: whether to fill a short last batch up with examples of weight 0; else it stays short.

    Raises:
      DataError: the data is empty, smaller than a batch, or nothing that can be iterated over.
    """

    def __init__(
        self,
        data: Any,
        *,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int = 0,
        steps_per_epoch: int | None = None,
        name: str = "data",
    ) -> None:
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}")
        self.name = name
        self.checked = False
        self.pad = True
        self.first_epoch = 0
        self._limit = steps_per_epoch
        self._group = batch_size
        self._dataset: EpochData | None = None
        self._factory: Callable[[], Iterable[Any]] | None = None
        self._iterator: Iterator[Any] | None = None
        # An iterable that is read on from epoch to epoch, and where reading it stands.
        self._reusable = False
        self._of_examples: bool | None = None
        self._passes: Iterator[Any] | None = None
        self._batch_size: int | None = None
        if not isinstance(data, EpochData):
            data = _held(data, name)
        if steps_per_epoch is None:
            check_endless(data, name)
        if holds_examples(data):
            data = ExampleDataset(data, batch_size, shuffle=shuffle, seed=seed)
        if isinstance(data, EpochData):
            self._dataset = data
        elif _is_arrays(data):
            self._dataset = ArrayDataset(
                as_batch(data), batch_size, shuffle=shuffle, seed=seed, drop_last=False
            )
        elif callable(data) and not hasattr(data, "__iter__"):
            self._factory = data
        elif isinstance(data, Iterator):
            self._iterator = data
        elif isinstance(data, Mapping) or hasattr(data, "iloc"):
            # A frame, a DatasetDict of Hugging Face, or columns that are lists.
            raise DataError(
                f"{name} is a mapping of {', '.join(map(str, list(data)[:5])) or 'nothing'}, whose "
                "values are no arrays: pass one of its data sets, or make arrays of its columns"
            )
        elif isinstance(data, Iterable):
            self._factory = lambda: data
            self._reusable = True
        else:
            raise DataError(
                f"{name} must be arrays (inputs, targets), an iterable of batches or a function "
                f"that returns one, got {type(data).__name__}"
            )
        # Whole batches need no weights; where a short one may come, all of them get weights, so
        # that they are of one structure and the step compiles once.
        self._whole = False
        if self._dataset is not None:
            self._batch_size = self._dataset.batch_size
            rest = self._dataset.num_examples % self._batch_size
            self._whole = getattr(self._dataset, "drop_last", False) or rest == 0
        self._position = 0

    @property
    def arrays(self) -> Any | None:
        """The whole data where it is in memory, else None."""
        return self._dataset.arrays if isinstance(self._dataset, ArrayDataset) else None

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of batches in an epoch, or None where only the end will tell."""
        if self._limit is not None:
            return self._limit
        if self._dataset is not None:
            return len(self._dataset)
        data: Any = self._factory() if self._factory is not None else None
        try:
            size = len(data) if data is not None and hasattr(data, "__len__") else None
        except TypeError:
            return None
        # What has a batch size of its own, like torch's loaders, gives batches.
        if size and self._of_examples is None:
            own = isinstance(getattr(data, "batch_size", None), int)
            self._of_examples = not own and is_example(next(iter(data), None))
        return -(-size // self._group) if size and self._of_examples else size

    def first(self) -> Batch:
        """The first batch as the epochs give it, without taking it away from them."""
        if self._iterator is not None:
            self._iterator = grouped(self._iterator, self._group)
            head = next(self._iterator, None)
            if head is None:
                raise DataError(f"{self.name} is empty: it gave no batch")
            self._iterator = itertools.chain([head], self._iterator)
            return self._shaped(as_batch(head))
        for batch in self._raw(0, 0):
            return self._shaped(as_batch(batch))
        raise DataError(f"{self.name} is empty: it gave no batch")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number ``start`` on.

        Raises:
          DataError: there is none, or a batch is larger than the first.
        """
        count = start
        for batch in self._raw(epoch, start):
            yield self._shaped(as_batch(batch))
            count += 1
        if count == start and not (start and count == self.steps_per_epoch):
            if self._iterator is not None and epoch:
                raise DataError(
                    f"{self.name} gave no batch in epoch {epoch + 1}: an iterator can be read "
                    "once; pass a list, a function that returns an iterator, or steps_per_epoch"
                )
            if not start:
                raise DataError(f"{self.name} is empty: it gave no batch")

    def items(
        self,
        epoch: int,
        start: int = 0,
        *,
        prepare: Callable[[Batch], Batch],
        size: int = 1,
        fits: Callable[[int], bool] = lambda done: True,
    ) -> Iterator[Batch | Group]:
        """The batches of an epoch as ``epoch`` gives them, where possible in groups.

        Args:
          epoch: number of the epoch.
          start: number of the first batch.
          prepare: called with each batch, or with the arrays of a group of checked ones.
          size: batches in a group; 1 for no groups.
          fits: for a number of batches since ``start``, whether the next ``size`` may be a group;
            see ``flaxzoo.training.batch_groups.in_groups``.
        """
        done = 0
        if self.checked and self._limit is None and self._gathers:
            # Arrays are put together once, not batch by batch and then group by group.
            dataset: Any = self._dataset
            rows = Rows(dataset, epoch)
            whole = dataset.num_examples // dataset.batch_size - start
            while done + size <= whole:
                if size > 1 and fits(done):
                    yield Group(prepare(self._shaped(rows(start + done, size), size)), size)
                    done += size
                else:
                    yield prepare(self._shaped(rows(start + done)))
                    done += 1
            if start + done == len(dataset):
                return
        rest = map(prepare, self.epoch(epoch, start + done))
        if size == 1:
            yield from rest
        else:
            yield from in_groups(rest, size, lambda further: fits(done + further))

    @property
    def _gathers(self) -> bool:
        # A class of the user's own may do more to its batches than to choose the rows.
        return type(self._dataset) is ArrayDataset

    def _raw(self, epoch: int, start: int) -> Iterator[Any]:
        if self._dataset is not None:
            total = len(self._dataset)
            if self._limit is None:
                batches = self._dataset.epoch(epoch, start_batch=start)
                if self._gathers:
                    batches = map(Rows(self._dataset, epoch), range(start, total))  # type: ignore[arg-type]
                yield from batches
                return
            # Epochs of another length than the data's run on through its own epochs.
            done = epoch * self._limit + start
            for position in range(done, (epoch + 1) * self._limit):
                if position == done or position % total == 0:
                    batches = self._dataset.epoch(position // total, start_batch=position % total)
                yield next(batches)
            return
        if self._iterator is not None:
            wanted = start if self._limit is None else self._steps_before(epoch) + start
            # A resumed run's iterator starts afresh: pass over what was seen before.
            for _ in itertools.islice(self._iterator, max(0, wanted - self._position)):
                self._position += 1
            batches = self._iterator
        elif self._reusable and self._limit is not None:
            batches = self._read_on(self._steps_before(epoch) + start)
        else:
            source = self._factory()  # type: ignore[misc]
            if hasattr(source, "set_epoch"):
                source.set_epoch(epoch)
            batches = itertools.islice(grouped(source, self._group), start, None)
        if self._limit is not None:
            batches = itertools.islice(batches, self._limit - start)
        for batch in batches:
            self._position += 1
            # On CPU a compiled step reads NumPy memory in place and after it has returned: a
            # source that fills one buffer again and again must not reach into it.
            yield jax.tree.map(
                lambda x: x.copy() if isinstance(x, np.ndarray) else x, as_batch(batch)
            )

    def _steps_before(self, epoch: int) -> int:
        return (epoch - self.first_epoch) * (self._limit or 0)

    def _read_on(self, wanted: int) -> Iterator[Any]:
        """An iterable's batches from number ``wanted`` of all epochs on."""
        if self._passes is None or self._position != wanted:
            self._passes, self._position = self._pass_after_pass(), 0
            for _ in itertools.islice(self._passes, wanted):
                self._position += 1
        return self._passes

    def _pass_after_pass(self) -> Iterator[Any]:
        source: Any = self._factory()  # type: ignore[misc]
        for number in itertools.count():
            if hasattr(source, "set_epoch"):
                source.set_epoch(number)
            empty = True
            for batch in grouped(source, self._group):
                empty = False
                yield batch
            if empty:
                return

    def _shaped(self, batch: Batch, count: int | None = None) -> Batch:
        if count is not None:
            # A group, of whole batches of known size.
            if self._whole or not self.pad or batch.weights is not None:
                return batch
            return batch._replace(weights=np.ones((count, self._batch_size), np.float32))
        if self._whole or (not self.pad and self._batch_size is not None):
            return batch
        size = batch_size(batch)
        if self._batch_size is None:
            self._batch_size = size
        if not self.pad or size > self._batch_size:
            return batch
        if size < self._batch_size:
            padded, weights = pad_batch(batch, self._batch_size)
            if batch.weights is not None:
                weights = padded.weights * weights
            return padded._replace(weights=weights)
        if batch.weights is None:
            return batch._replace(weights=np.ones(size, np.float32))
        return batch


def _held(data: Any, name: str) -> Any:
    """The arrays of what holds them, ``data`` itself for all else."""
    if _is_arrays(getattr(data, "arrays", None)):
        return data.arrays
    if _is_arrays(getattr(data, "train", None)) and hasattr(data, "validation"):
        if name == "train_data":
            return data.train
        raise DataError(
            f"{name} is a {type(data).__name__}, which has two parts: pass its .validation or "
            ".train"
        )
    return data


def _is_arrays(data: Any) -> bool:
    if hasattr(data, "shape") and hasattr(data, "dtype"):
        return True
    if isinstance(data, Mapping):
        return bool(data) and all(_is_arrays(value) for value in data.values())
    if isinstance(data, tuple | list) and 1 <= len(data) <= 3:
        # A tuple is one batch's worth of arrays; a list of tuples is a list of batches.
        return all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(data)) and not (
            isinstance(data, list) and any(isinstance(x, tuple | list | Mapping) for x in data)
        )
    return False
