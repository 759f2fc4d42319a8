"""Arrays whose parts lie in several processes: how they are made of what each has, and read."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


def put(leaf: Any, sharding: Any, **options: Any) -> Any:
    """``jax.device_put``, also to devices of several processes, each of which has the whole array.

    Nothing is sent: every process puts the parts of its own devices there.

    Args:
      leaf: an array.
      sharding: where it is to lie, or None for where it lies.
      **options: of ``jax.device_put``.
    """
    if sharding is None or sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding, **options)
    if is_spread(leaf) or isinstance(leaf, jax.core.Tracer):
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def put_part(leaf: Any, sharding: NamedSharding, shape: tuple[int, ...]) -> jax.Array:
    """An array of all processes from the part of it that this one has.

    Args:
      leaf: this process's part, NumPy's, in the order of its devices.
      sharding: where the whole array is to lie.
      shape: of the whole array.
    """
    return jax.make_array_from_process_local_data(sharding, np.asarray(leaf), shape)


def local_range(sharding: NamedSharding, size: int) -> tuple[int, int]:
    """From where to before where an axis, the first, lies on this process's devices.

    Args:
      sharding: of an array ``[size]``.
      size: a multiple of what it is divided into.

    Raises:
      ValueError: this process has none, or parts that are not side by side.
    """
    parts = {
        index[0].indices(size)[:2]
        for index in sharding.addressable_devices_indices_map((size,)).values()
        if index is not None
    }
    begin, end = min(b for b, _ in parts), max(e for _, e in parts)
    if sum(e - b for b, e in parts) != end - begin:
        raise ValueError(f"a process's parts of the batch are not side by side: {sorted(parts)}")
    return begin, end


def gathered(tree: Any) -> Any:
    """Spread arrays as this process's own, whole; every process has to call it.

    All other arrays stay.
    """

    def whole(leaf: Any) -> Any:
        if not is_spread(leaf) or leaf.is_fully_replicated:
            return leaf
        return jax.device_put(leaf, NamedSharding(leaf.sharding.mesh, PartitionSpec()))

    return local(jax.tree.map(whole, tree))


def local(tree: Any) -> Any:
    """Arrays that are whole on every device of several processes, as this process's own.

    What computes with them then computes here alone. All other arrays stay.
    """

    def own(leaf: Any) -> Any:
        return leaf.addressable_data(0) if is_spread(leaf) and leaf.is_fully_replicated else leaf

    return jax.tree.map(own, tree)


def is_spread(leaf: Any) -> bool:
    """Whether an array lies on devices of several processes."""
    known = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    return known and not leaf.is_fully_addressable


def copied_parts(leaf: jax.Array) -> jax.Array:
    """A spread array in memory of its own, where it lay: each process copies its parts."""
    parts = [jax.device_put(shard.data, may_alias=False) for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, parts)
