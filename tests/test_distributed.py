"""What ``initialize`` refuses; ``tests/devices/test_processes.py`` has processes that join."""

from __future__ import annotations

import socket
import subprocess
import sys
import time

import pytest

import flaxzoo as fz
from flaxzoo.data.epochs import Columns
from flaxzoo.errors import ArgumentError, DistributedError


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_one_process_is_the_main_one():
    assert fz.distributed.is_main()
    assert (fz.distributed.process_index(), fz.distributed.process_count()) == (0, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_processes": 0}, "num_processes must be an int of at least 1"),
        ({"process_id": -1}, "process_id must be an int of at least 0"),
        ({"timeout": 0}, "timeout must be an int of at least 1"),
        ({"timeout": 1.5}, "timeout must be an int"),
        ({"num_processes": 2, "process_id": 2}, "the last is 1"),
        ({"coordinator_address": "host"}, "must be 'host:port'"),
        ({"coordinator_address": "host:port"}, "must be 'host:port'"),
        ({"coordinator_address": ":80"}, "must be 'host:port'"),
        ({"coordinator_address": "host:70000"}, "must be 'host:port'"),
        ({"coordinator_address": 7}, "must be 'host:port'"),
    ],
)
def test_senseless_values_are_refused(options, says):
    with pytest.raises(ArgumentError, match=says):
        fz.distributed.initialize(**options)


def test_a_coordinator_that_nobody_reaches_is_named_with_the_time():
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(DistributedError, match=rf"'{address}' within timeout=1 seconds"):
        fz.distributed.initialize(address, 2, 1, timeout=1)
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_without_a_cluster_and_after_a_computation_it_says_what_to_do():
    code = """
import flaxzoo as fz, jax.numpy as jnp
def refused(*arguments):
    try:
        fz.distributed.initialize(*arguments)
    except Exception as error:
        print(type(error).__name__, error)
refused()
jnp.ones(2)
refused("127.0.0.1:PORT", 1, 0)
""".replace("PORT", str(free_port()))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    none, late = done.stdout.splitlines()
    assert none.startswith("ArgumentError")
    assert "JAX finds no cluster here" in none
    assert late.startswith("DistributedError JAX has already computed in this process")


def test_parts_of_a_batch_are_those_that_filling_up_makes():
    import numpy as np

    # Ten examples in batches of 4, filled up to 6, of which two processes have 3 each.
    order = np.arange(10)[::-1]
    whole = [[9, 8, 7, 6, 9, 9], [5, 4, 3, 2, 5, 5], [1, 0, 1, 1, 1, 1]]
    for start in (0, 3):
        part = Columns(start, start + 3, 6, 4).of(order).reshape(3, 3)
        assert part.tolist() == [batch[start : start + 3] for batch in whole]
