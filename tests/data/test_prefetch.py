from __future__ import annotations

import gc
import threading

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxzoo import data
from flaxzoo.errors import ArgumentError


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "flaxzoo-prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    gc.collect()
    assert threads() == []


@pytest.mark.parametrize("size", [1, 2, 7])
def test_order_and_values(size):
    source = ({"x": np.full((2, 2), i), "y": np.array([i])} for i in range(20))
    out = list(data.prefetch_to_device(source, size))
    assert [int(b["y"][0]) for b in out] == list(range(20))
    assert all(isinstance(b["x"], jax.Array) for b in out)


def test_empty_source():
    assert list(data.prefetch_to_device([])) == []


def test_a_source_may_reuse_its_buffer():
    buffer = np.zeros(1024, np.float32)

    def source():
        for i in range(10):
            buffer[:] = i
            yield buffer

    assert [float(b[0]) for b in data.prefetch_to_device(source(), 4)] == list(range(10))


def test_the_sources_exception_comes_in_its_place():
    def source():
        yield np.zeros(1)
        yield np.ones(1)
        raise OSError("disk gone")

    batches = data.prefetch_to_device(source())
    assert float(next(batches)[0]) == 0
    assert float(next(batches)[0]) == 1
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_what_is_no_array_is_refused_to_the_consumer():
    with pytest.raises(TypeError, match="str"):
        next(data.prefetch_to_device([("a", np.zeros(1))]))
    with pytest.raises(TypeError, match="iterable"):
        next(data.prefetch_to_device(3))


def test_stopping_early_ends_the_thread_and_reads_no_further():
    read = []

    def source():
        for i in range(1000):
            read.append(i)
            yield np.array(i)

    for batch in data.prefetch_to_device(source(), 2):
        if int(batch) == 3:
            break
    gc.collect()
    assert threads() == []
    # The batches in hand and at most `size` beyond them.
    assert len(read) <= 4 + 2


def test_close_frees_the_source():
    source = (np.array(i) for i in range(100))
    batches = data.prefetch_to_device(source, 2)
    next(batches)
    batches.close()
    rest = list(source)  # No "generator already executing".
    assert len(rest) >= 97


def test_no_thread_before_the_first_batch():
    batches = data.prefetch_to_device(iter([]))
    assert threads() == []
    batches.close()


def test_it_works_ahead():
    done = threading.Event()

    def source():
        yield np.zeros(1)
        yield np.ones(1)
        done.set()

    batches = data.prefetch_to_device(source(), 2)
    next(batches)
    assert done.wait(10)
    batches.close()


def test_sharding_and_default_device():
    device = jax.devices()[0]
    sharding = NamedSharding(Mesh(np.array([device]), ("data",)), PartitionSpec("data"))
    (batch,) = data.prefetch_to_device([np.zeros(4)], sharding=sharding)
    assert batch.sharding == sharding
    with jax.default_device(device):
        (batch,) = data.prefetch_to_device([np.zeros(4)])
    assert batch.devices() == {device}


def test_bad_size():
    with pytest.raises(ArgumentError, match="size must be an int of at least 1, got 0"):
        data.prefetch_to_device([], 0)
