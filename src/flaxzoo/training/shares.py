"""What each of several processes reads of a data set, so that all take the same steps.

A data set that knows its epochs is the same in all processes, and its batches are those of the
whole run: of each one a process reads the examples that go to its own devices. Anything else that
gives batches gives each process batches of its own, which together are one; processes whose data
has ended go on with examples of weight 0 until it has ended in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from flaxzoo._processes import Channel
from flaxzoo.data.batch import Batch, as_batch, batch_size
from flaxzoo.data.epochs import Columns, Epochs
from flaxzoo.distributed import process_count
from flaxzoo.errors import DataError, ShapeError
from flaxzoo.training.sharding import StateSharding


class DatasetShare:
    """A process's examples of each batch of a data set that knows its epochs.

    Where the data set is one of ours nothing else is read; of others whole batches are, and most
    of each is dropped.

    Args:
      source: the whole data's batches, a source of ``Feed``.
      make: makes such a source of another data set.
      columns: the process's examples.
      weighted: whether batches have weights, because some are filled up.
    """

    read_once = False
    arrays = None

    def __init__(self, source: Any, make: Any, columns: Columns, *, weighted: bool) -> None:
        self.data, self.steps, self.whole = source.data, source.steps, source.whole
        self._columns, self._weighted = columns, weighted
        self._parted = isinstance(self.data, Epochs) and type(self.data).order is Epochs.order
        self._source = make(self.data.part(columns)) if self._parted else source
        self.batch_size = columns.stop - columns.start

    def rows(self, epoch: int) -> None:
        """Batches are given one by one."""
        return

    def first(self) -> Any:
        """The first batch."""
        return next(self.batches(0, 0), None)

    def batches(self, epoch: int, start: int, before: int = 0) -> Iterator[Batch]:
        """This process's part of the batches of an epoch, from number ``start`` on."""
        number = before + start
        for batch in self._source.batches(epoch, start, before):
            yield self._part(as_batch(batch), number % self.steps)
            number += 1

    def _part(self, batch: Batch, number: int) -> Batch:
        wanted = np.arange(self._columns.start, self._columns.stop)
        size = min(
            self._columns.batch_size, self.data.num_examples - number * self._columns.batch_size
        )
        if not self._parted:
            size = batch_size(batch)
            rows = np.where(wanted < size, wanted, 0)
            batch = jax.tree.map(lambda x: np.asarray(x)[rows], batch)
        if not self._weighted:
            return batch
        weights = (wanted < size).astype(np.float32)
        if batch.weights is not None:
            weights = weights * batch.weights
        return batch._replace(weights=weights)


def dataset_share(
    source: Any, make: Any, sharding: StateSharding, size: int, *, weighted: bool
) -> DatasetShare:
    """The share of this process, where batches are filled up to ``size``.

    Raises:
      ShapeError: the devices do not divide the batches, and nothing may be filled up.
    """
    if not weighted and (size % sharding.shares or not source.whole):
        raise ShapeError(
            f"batches of {source.batch_size} examples of {source.data.num_examples} cannot be "
            f"divided among {sharding.shares} devices, and the loss or the optimizer takes no "
            "further examples of weight 0: use a batch size that they divide, and drop_last=True "
            "in flaxzoo.data.ArrayDataset"
        )
    start, stop = sharding.local_range(size)
    columns = Columns(start, stop, size, source.batch_size)
    return DatasetShare(source, make, columns, weighted=weighted)


def parts_here(sharding: StateSharding) -> int:
    """Of how many devices along the batch this process gives the examples.

    Raises:
      DataError: another process gives the same ones, so that each cannot bring its own.
    """
    start, stop = sharding.local_range(sharding.shares)
    if (stop - start) * process_count() != sharding.shares:
        raise DataError(
            f"the mesh divides batches among {sharding.shares} groups of devices, of which some "
            f"are in several of the {process_count()} processes: these cannot bring batches of "
            "their own; pass arrays, or a data set that knows its epochs, the same in all processes"
        )
    return stop - start


def weightless(batch: Batch) -> Batch:
    """The batch with the weight 0 for each example."""
    return batch._replace(weights=np.zeros(batch_size(batch), np.float32))


def together(
    channel: Channel, batches: Iterable[Batch], filler: Batch, *, pad: bool, name: str
) -> Iterator[Batch]:
    """Batches until they have ended in all processes: those whose own are over give ``filler``.

    Args:
      channel: where the processes tell whether they have a further batch, and what went wrong.
      batches: this process's own.
      filler: a batch of weight 0.
      pad: whether there may be such.
      name: what messages call the data.

    Raises:
      DataError: reading failed in another process; or data ended elsewhere and must not be filled.
    """
    own = iter(batches)
    while True:
        batch, failure = None, None
        try:
            batch = next(own, None)
        except Exception as error:
            failure = error
        told = f"!{failure}" if failure is not None else "" if batch is None else "1"
        said = channel.gather(told)
        if failure is not None:
            raise failure
        for index, word in enumerate(said):
            if word.startswith("!"):
                raise DataError(f"{word[1:]} (in process {index})")
        if not any(said):
            return
        if not all(said) and not pad:
            ended = ", ".join(str(i) for i, word in enumerate(said) if not word)
            raise DataError(
                f"{name} has ended in process {ended} and not in the others, and the loss or the "
                "optimizer takes no examples of weight 0: give all the same number of batches"
            )
        yield filler if batch is None else batch
