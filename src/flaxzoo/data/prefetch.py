"""Batches to the device ahead of their use."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from flaxzoo._checks import check_size
from flaxzoo._explain import explained
from flaxzoo._host import unmasked

# How long a consumer that stops early waits for the source's batch in progress (seconds): the
# source is then free for other use, and a source that hangs cannot hang its consumer.
_JOIN_SECONDS = 5.0


class _End:
    """What the thread sends last: the source's exception, or None after its last batch."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


@explained
def prefetch_to_device(
    iterator: Iterable[Any], size: int = 2, *, sharding: Any = None
) -> Iterator[Any]:
    """Reads batches and copies them to the device in a background thread.

    The order is the source's. An exception of the source is raised again where the batch would
    have come. The thread starts with the first batch asked for, and ends with the source or when
    the returned iterator is closed or dropped.

    Args:
      iterator: any iterable of batches (pytrees of arrays). Batches are copied, so that a source
        may reuse its buffers. Nobody else may read from it meanwhile.
      size: number of batches to hold ready, at least 1. Two are enough to hide the copy; more
        only help a source whose batches take unequal times.
      sharding: a ``jax.sharding.Sharding`` or device, or a tree of them, for the arrays; None is
        the default device, and leaves batches that lie on several devices where they are.

    Returns:
      An iterator of the same batches as JAX arrays.

    Raises:
      ArgumentError: ``size`` is not an int of at least 1.
    """
    size = check_size("size", size)
    if sharding is not None:
        return _consume(iterator, size, lambda batch: sharding)
    # jax.default_device is a setting of the calling thread; ours would not see it.
    default = getattr(jax.config, "jax_default_device", None)
    return _consume(iterator, size, lambda batch: None if _is_divided(batch) else default)


def _is_divided(batch: Any) -> bool:
    """Whether an array has been placed on several devices, which is never by default."""
    leaves = jax.tree.leaves(batch)
    return any(isinstance(x, jax.Array) and len(x.devices()) > 1 for x in leaves)


def _consume(source: Iterable[Any], size: int, place: Callable[[Any], Any]) -> Iterator[Any]:
    ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
    # One slot per batch that may exist beyond what the consumer holds.
    slots = threading.Semaphore(size)
    stop = threading.Event()
    thread = threading.Thread(
        target=_produce,
        args=(source, ready, slots, stop, place),
        name="flaxzoo-prefetch",
        daemon=True,
    )
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            slots.release()
            yield item
    finally:
        stop.set()
        slots.release()
        thread.join(_JOIN_SECONDS)


def _produce(
    source: Iterable[Any],
    ready: queue.SimpleQueue[Any],
    slots: threading.Semaphore,
    stop: threading.Event,
    place: Callable[[Any], Any],
) -> None:
    try:
        batches = iter(source)
        while True:
            slots.acquire()
            if stop.is_set():
                return
            try:
                batch = next(batches)
            except StopIteration:
                break
            ready.put(_put(batch, place(batch)))
            # Not to be kept alive while this thread waits for its next slot.
            del batch
    except BaseException as error:
        ready.put(_End(error))
    else:
        ready.put(_End(None))


def _put(batch: Any, place: Any) -> Any:
    """Copies a batch to the device; its own memory is free for reuse on return."""
    batch = jax.tree.map(lambda x: unmasked(x, "the batch"), batch)
    if _on_host(place):
        # The CPU backend takes over aligned NumPy memory without a copy, even when it is asked
        # for one with may_alias=False (jax 0.10).
        batch = jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, batch)
    # Waiting for the transfer here, off the main thread, costs the consumer nothing.
    return jax.block_until_ready(jax.device_put(batch, place))


def _on_host(place: Any) -> bool:
    places = jax.tree.leaves(place)
    if not places:
        return jax.default_backend() == "cpu"
    devices = [device for leaf in places for device in getattr(leaf, "device_set", (leaf,))]
    return any(getattr(device, "platform", device) == "cpu" for device in devices)
