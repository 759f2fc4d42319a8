"""What ``Trainer`` is given as data, made a stream of equal-sized batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from flaxzoo._checks import check_size
from flaxzoo._host import is_array_like
from flaxzoo._processes import Channel, several
from flaxzoo.data.arrays import ArrayDataset, filled_up, next_multiple
from flaxzoo.data.batch import Batch, as_batch, batch_size
from flaxzoo.data.examples import (
    ExampleDataset,
    check_endless,
    grouped,
    holds_examples,
    is_example,
)
from flaxzoo.distributed import process_count
from flaxzoo.errors import DataError
from flaxzoo.training.batch_groups import Group, Rows, in_groups
from flaxzoo.training.sharding import StateSharding
from flaxzoo.training.shares import dataset_share, parts_here, together, weightless


@runtime_checkable
class EpochData(Protocol):
    """A data set that knows its epochs: what resumes in mid-epoch without reading what is past.

    Attributes:
      num_examples: the number of examples in an epoch.
      batch_size: the number of examples in every batch but the last, which may be shorter unless
        there is a true ``drop_last``.
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
      seed: an int that selects the orders.
      steps_per_epoch: where to end an epoch; needed for endless iterables. An iterable is read on
        from there in the next epoch, and afresh when it ends.
      allow_short: whether arrays and numbered examples that are fewer than a batch make one
        smaller batch, instead of an error.
      name: what messages call the data, the name of an argument.

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
        allow_short: bool = False,
        name: str = "data",
    ) -> None:
        check_size("batch_size", batch_size)
        check_size("steps_per_epoch", steps_per_epoch, optional=True)
        self.name = name
        self.checked = False
        self.pad = True
        self.first_epoch = 0
        self._limit = steps_per_epoch
        order = {"shuffle": shuffle, "seed": seed}
        data = _epochs_of(data, batch_size, name, allow_short=allow_short, **order)
        if steps_per_epoch is None:
            check_endless(data, name)
        self._source: Any
        if isinstance(data, EpochData):
            self._source = _Dataset(data, steps_per_epoch)
        else:
            self._source = _Stream(_iterable(data, name), batch_size, steps_per_epoch)
        # Whole batches need no weights; where a short one may come, all of them get weights, so
        # that they are of one structure and the step compiles once.
        self._whole = self._source.whole
        self._batch_size = self._source.batch_size
        self._shares = 1
        # Of several processes: whether this is one's own part, and what a stream fills up with.
        self._shared = False
        self._filler: Batch | None = None
        self._agreed_steps: tuple[int | None] | None = None

    def divide(self, shares: int) -> None:
        """Fills all batches up to a number of examples that so many devices divide."""
        self._shares = shares
        if self._batch_size is not None and self._batch_size % shares:
            self._batch_size, self._whole = next_multiple(self._batch_size, shares), False

    def agree(self) -> None:
        """Takes the largest number of batches of all processes, where they bring their own.

        Raises:
          DistributedError: the processes do not answer.
        """
        if self._limit is None and isinstance(self._source, _Stream):
            said = Channel(f"the length of {self.name}").gather(str(self._source.steps))
            lengths = [int(each) for each in said if each != "None"]
            self._agreed_steps = (max(lengths) if len(lengths) == len(said) else None,)

    def whole_size(self, size: int) -> int:
        """The number of examples in a batch of all processes, of which one brings ``size``."""
        return size * process_count() if isinstance(self._source, _Stream) and several() else size

    def share(self, sharding: StateSharding) -> None:
        """Gives this process's part of each batch from here on, with ``pad`` known.

        Raises:
          DataError: processes share examples, and cannot bring their own.
          ShapeError: the devices do not divide the batches, which must not be filled up.
        """
        if isinstance(self._source, _Stream):
            self.divide(parts_here(sharding))
            self._filler = weightless(self.first())
        else:
            self.divide(sharding.shares)
            weighted, size = self.pad and not self._whole, self._source.batch_size
            size = sharding.rounded(size) if weighted else size
            limit = self._limit
            self._source = dataset_share(
                self._source, lambda data: _Dataset(data, limit), sharding, size, weighted=weighted
            )
        self._shared = True

    @property
    def arrays(self) -> Any | None:
        """The whole data where it is in memory, else None."""
        return self._source.arrays

    @property
    def num_examples(self) -> int | None:
        """The number of examples in an epoch, or None where the data does not tell."""
        return getattr(self._source.data, "num_examples", None)

    @property
    def steps_per_epoch(self) -> int | None:
        """Number of batches in an epoch, or None where only the end will tell."""
        if self._agreed_steps is not None:
            return self._agreed_steps[0]
        return self._source.steps if self._limit is None else self._limit

    def first(self) -> Batch:
        """The first batch as the epochs give it, without taking it away from them."""
        batch = self._source.first()
        if batch is None:
            raise DataError(f"{self.name} is empty: it gave no batch")
        return self._shaped(as_batch(batch))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from number ``start`` on.

        Raises:
          DataError: there is none, or a batch is larger than the first.
        """
        count = start
        before = (epoch - self.first_epoch) * (self._limit or 0)
        for batch in self._source.batches(epoch, start, before):
            yield self._shaped(as_batch(batch))
            count += 1
        if count == start and not (start and count == self.steps_per_epoch):
            if self._source.read_once and epoch:
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
          fits: tells, for a number of batches since ``start``, whether the next ``size`` may be a
            group; see ``flaxzoo.training.batch_groups.in_groups``.
        """
        # Here, as all processes make their channels in one order; batches may be read in a thread.
        streamed = self._shared and isinstance(self._source, _Stream)
        channel = Channel(f"the end of {self.name}") if streamed else None
        return self._items(epoch, start, channel, prepare, size, fits)

    def _items(
        self,
        epoch: int,
        start: int,
        channel: Channel | None,
        prepare: Callable[[Batch], Batch],
        size: int,
        fits: Callable[[int], bool],
    ) -> Iterator[Batch | Group]:
        done = 0
        rows = self._source.rows(epoch) if self.checked and self._limit is None else None
        dataset: Any = self._source.data
        if rows is not None and dataset.batch_size == self._batch_size:
            # Arrays are put together once, not batch by batch and then group by group.
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
        batches = self.epoch(epoch, start + done)
        if channel is not None:
            filler: Any = self._filler
            batches = together(channel, batches, filler, pad=self.pad, name=self.name)
        rest = map(prepare, batches)
        if size == 1:
            yield from rest
        else:
            yield from in_groups(rest, size, lambda further: fits(done + further))

    def _shaped(self, batch: Batch, count: int | None = None) -> Batch:
        if self._shared and not isinstance(self._source, _Stream):
            return batch
        if count is not None:
            # A group, of whole batches of known size.
            if self._whole or not self.pad or batch.weights is not None:
                return batch
            return batch._replace(weights=np.ones((count, self._batch_size), np.float32))
        if self._whole or (not self.pad and self._batch_size is not None):
            return batch
        size = batch_size(batch)
        if self._batch_size is None:
            self._batch_size = next_multiple(size, self._shares)
        wanted = max(self._batch_size, next_multiple(size, self._shares))
        if self._shared and size > self._batch_size:
            raise DataError(
                f"{self.name} gave a batch of {size} examples after one of {self._batch_size}: in "
                "several processes no batch may be larger than the first"
            )
        if not self.pad or (size > self._batch_size and size == wanted):
            return batch
        if size < wanted:
            return filled_up(batch, wanted)
        if batch.weights is None:
            return batch._replace(weights=np.ones(size, np.float32))
        return batch


class _Dataset:
    """The batches of a data set that knows its epochs.

    Args:
      data: the data set.
      limit: batches in an epoch, if not the data's own number: they run on through its epochs.
    """

    read_once = False

    def __init__(self, data: EpochData, limit: int | None) -> None:
        self.data = data
        self.batch_size = data.batch_size
        self.whole = getattr(data, "drop_last", False) or data.num_examples % self.batch_size == 0
        self.steps = len(data)
        self.arrays = data.arrays if isinstance(data, ArrayDataset) else None
        self._limit = limit

    def first(self) -> Any:
        return next(self.batches(0, 0), None)

    def rows(self, epoch: int) -> Rows | None:
        """The batches by their numbers, where the data is arrays and nothing more."""
        # A class of the user's own may do more to its batches than to choose the rows.
        return Rows(self.data, epoch) if type(self.data) is ArrayDataset else None

    def batches(self, epoch: int, start: int, before: int = 0) -> Iterator[Any]:
        if self._limit is not None:
            return self._run_on(epoch * self._limit + start, (epoch + 1) * self._limit)
        batches = self.data.epoch(epoch, start_batch=start)
        rows = self.rows(epoch)
        return iter(batches) if rows is None else map(rows, range(start, self.steps))

    def _run_on(self, position: int, stop: int) -> Iterator[Any]:
        batches: Iterator[Any] = iter(())
        for number in range(position, stop):
            if number == position or number % self.steps == 0:
                epoch, start = divmod(number, self.steps)
                batches = iter(self.data.epoch(epoch, start_batch=start))
            yield next(batches)


class _Stream:
    """The batches of an iterable, an iterator, or a function that returns an iterable.

    Args:
      data: one of these; it gives batches or examples.
      group: examples in a batch, where it gives examples.
      limit: batches in an epoch, for what is read on from there in the next one; else an epoch is
        all that the iterable gives.
    """

    whole = False
    batch_size: int | None = None
    arrays = None
    data = None

    def __init__(self, data: Any, group: int, limit: int | None) -> None:
        self._data, self._group, self._limit = data, group, limit
        self.read_once = isinstance(data, Iterator)
        # A function is called for each epoch; all else is read on where there is a limit.
        function = not hasattr(data, "__iter__")
        self._reads_on = self.read_once or (limit is not None and not function)
        self._source = data if function else lambda: data
        self._of_examples: bool | None = None
        # What is read on, and the number of batches that it has given.
        self._passes: Iterator[Any] | None = grouped(data, group) if self.read_once else None
        self._position = 0

    @property
    def steps(self) -> int | None:
        """Number of batches in all, where the iterable has a length."""
        data: Any = None if self.read_once else self._source()
        try:
            size = len(data) if hasattr(data, "__len__") else None
        except TypeError:
            return None
        # What has a batch size of its own, like torch's loaders, gives batches.
        if size and self._of_examples is None:
            own = isinstance(getattr(data, "batch_size", None), int)
            self._of_examples = not own and is_example(next(iter(data), None))
        return -(-size // self._group) if size and self._of_examples else size

    def first(self) -> Any:
        if not self.read_once:
            return next(self.batches(0, 0), None)
        batch = next(self._passes, None)  # type: ignore[arg-type]
        if batch is not None:
            self._passes = itertools.chain([batch], self._passes)  # type: ignore[arg-type]
        return batch

    def rows(self, epoch: int) -> None:
        return None

    def batches(self, epoch: int, start: int, before: int = 0) -> Iterator[Any]:
        """The batches of an epoch from number ``start`` on, ``before`` having been the epochs'."""
        if self._reads_on:
            batches = self._read_on(before + start)
        else:
            batches = itertools.islice(self._one_pass(epoch), start, None)
        if self._limit is not None:
            batches = itertools.islice(batches, self._limit - start)
        for batch in batches:
            self._position += 1
            # On CPU a compiled step reads NumPy memory in place and after it has returned: a
            # source that fills one buffer again and again must not reach into it.
            yield jax.tree.map(
                lambda x: x.copy() if isinstance(x, np.ndarray) else x, as_batch(batch)
            )

    def _read_on(self, wanted: int) -> Iterator[Any]:
        """The batches from number ``wanted`` of all epochs on."""
        if self._passes is None or (self._position != wanted and not self.read_once):
            self._passes = itertools.chain.from_iterable(self._all_passes())
            self._position = 0
        # A resumed run's iterator starts afresh: pass over what was seen before.
        for _ in itertools.islice(self._passes, max(0, wanted - self._position)):
            self._position += 1
        return self._passes

    def _all_passes(self) -> Iterator[Iterator[Any]]:
        for number in itertools.count():
            batches = self._one_pass(number)
            first = next(batches, None)
            if first is None:
                return
            yield itertools.chain([first], batches)

    def _one_pass(self, number: int) -> Iterator[Any]:
        source = self._source()
        # torch's DistributedSampler, inside a loader, else gives every epoch the same order.
        told: list[Any] = [source, getattr(source, "sampler", None)]
        for part in told:
            if hasattr(part, "set_epoch"):
                part.set_epoch(number)
        return grouped(source, self._group)


def _epochs_of(data: Any, size: int, name: str, *, allow_short: bool, **order: Any) -> Any:
    """Arrays and numbered examples as data sets that know their epochs; all else as it is."""
    if isinstance(data, EpochData):
        return data
    data = _held(data, name)
    if not isinstance(data, jax.Array) and holds_examples(data):
        size = min(size, len(data)) if allow_short else size
        return ExampleDataset(data, size, **order)
    if not isinstance(data, EpochData) and _is_arrays(data):
        arrays = as_batch(data)
        size = min(size, batch_size(arrays)) if allow_short else size
        return ArrayDataset(arrays, size, **order)
    return data


def _iterable(data: Any, name: str) -> Any:
    """Refuses what is no iterable of batches, nor a function that returns one."""
    if callable(data) and not hasattr(data, "__iter__"):
        return data
    if isinstance(data, Mapping) or hasattr(data, "iloc"):
        # A frame, a DatasetDict of Hugging Face, or columns that are lists.
        raise DataError(
            f"{name} is a mapping of {', '.join(map(str, list(data)[:5])) or 'nothing'}, whose "
            "values are no arrays: pass one of its data sets, or make arrays of its columns"
        )
    if not isinstance(data, Iterable):
        raise DataError(
            f"{name} must be arrays (inputs, targets), an iterable of batches or a function "
            f"that returns one, got {type(data).__name__}"
        )
    return data


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
        return bool(data) and all(is_array_like(x) or _is_arrays(x) for x in data.values())
    if isinstance(data, tuple) and 1 <= len(data) <= 3:
        # A tuple is one batch's worth of arrays, of which lists of numbers are some.
        return all(map(_is_part, data))
    if isinstance(data, list) and 1 <= len(data) <= 3:
        # A list of tuples is a list of batches.
        nested = any(isinstance(x, tuple | list | Mapping) for x in data)
        return not nested and all(map(_is_part, data))
    return False


def _is_part(value: Any) -> bool:
    leaves = jax.tree.leaves(value, is_leaf=is_array_like)
    return all(hasattr(leaf, "shape") or is_array_like(leaf) for leaf in leaves)
