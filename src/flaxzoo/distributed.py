"""Several processes as one: each calls ``initialize`` once, and from then on sees all devices.

Every process runs the same program. ``Trainer(devices="all")`` then trains on the devices of all
of them, with the numbers of one; the process of index 0 prints and writes what is written once.
The transport is that of ``jax.distributed``.
"""

from __future__ import annotations

import inspect
import os
import socket
import sys
import threading
import time
from typing import Any

import jax

from flaxzoo._checks import check_address, check_size
from flaxzoo.errors import ArgumentError, DistributedError

__all__ = ["initialize", "is_main", "process_count", "process_index"]

# Seconds without a sign of life after which a process counts as dead, and the others end; and
# those that a process waits for the others at its end, which ends them where they hang.
_HEARTBEAT = _SHUTDOWN = 30
# Seconds between two attempts to reach a coordinator that may not have begun yet.
_PAUSE = 0.2


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 300,
) -> None:
    """Joins this process with the others of a run; call it before anything else of JAX.

    On SLURM, GKE and TPU pods, under Open MPI and wherever else JAX finds the cluster by itself,
    there is nothing to pass. Elsewhere every process says the same address and number, and its own
    index. A process that dies ends the others within a minute, with a message.

    Args:
      coordinator_address: ``"host:port"`` of the process of index 0, as all others reach it, with
        a port that is free there; the environment's ``JAX_COORDINATOR_ADDRESS`` by default.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      timeout: seconds to wait for the coordinator and for all others.

    Raises:
      ArgumentError: a value out of range, an address that is none, or neither arguments nor a
        cluster that JAX finds.
      DistributedError: (a RuntimeError) it was called before, JAX has already computed, or nobody
        answers at the address.
    """
    check_size("num_processes", num_processes, optional=True)
    check_size("process_id", process_id, minimum=0, optional=True)
    check_size("timeout", timeout)
    if process_id is not None and num_processes is not None and process_id >= num_processes:
        raise ArgumentError(
            f"process_id={process_id} of num_processes={num_processes}: they count from 0, so that "
            f"the last is {num_processes - 1}"
        )
    address = coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS")
    place = None if address is None else check_address("coordinator_address", address)
    if jax.distributed.is_initialized():
        raise DistributedError(
            f"this process has joined already, as {process_index()} of {process_count()}: call "
            "flaxzoo.distributed.initialize() once"
        )
    # A coordinator that nobody reaches would end the process in C++, without an exception.
    if place is not None and process_id not in (0, None):
        _wait_for(*place, timeout)
    _prefer_gloo()
    with _Watch(address, num_processes, process_id, timeout):
        _join(coordinator_address, num_processes, process_id, timeout)


def process_index() -> int:
    """The index of this process, from 0; 0 where there is one."""
    return jax.process_index()


def process_count() -> int:
    """The number of processes that have been joined; 1 without ``initialize``."""
    return jax.process_count()


def is_main() -> bool:
    """Whether this process is the one that prints and writes what is written once.

    ``if fz.distributed.is_main(): print(...)``. What computes on the devices of all is no such
    thing: every process has to call it.
    """
    return process_index() == 0


def _join(address: str | None, count: int | None, index: int | None, timeout: int) -> None:
    known = inspect.signature(jax.distributed.initialize).parameters
    limits = {
        "heartbeat_timeout_seconds": _HEARTBEAT,
        "shutdown_timeout_seconds": _SHUTDOWN,
    }
    options: dict[str, Any] = {name: value for name, value in limits.items() if name in known}
    try:
        jax.distributed.initialize(
            address, count, index, initialization_timeout=int(timeout), **options
        )
    except ValueError as error:
        raise ArgumentError(
            f"{str(error).rstrip('.')}: JAX finds no cluster here (SLURM, GKE, a TPU pod, Open "
            "MPI), so pass all of flaxzoo.distributed.initialize(coordinator_address='host:port', "
            "num_processes=..., process_id=...)"
        ) from error
    except RuntimeError as error:
        if "before any JAX" not in str(error):
            raise DistributedError(f"the processes could not be joined: {error}") from error
        raise DistributedError(
            "JAX has already computed in this process, or counted its devices, and cannot join "
            "others any more: call flaxzoo.distributed.initialize() first, before a model, a "
            "Trainer or an array is made"
        ) from error


def _prefer_gloo() -> None:
    # What carries sums between the CPUs of several processes; other platforms have their own.
    name = "jax_cpu_collectives_implementation"
    if getattr(jax.config, name, "gloo") in (None, "none"):
        jax.config.update(name, "gloo")


def _wait_for(host: str, port: int, timeout: int) -> None:
    """Returns once something answers there.

    Raises:
      DistributedError: nothing does within the time.
    """
    end = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, end - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() + _PAUSE >= end:
                raise DistributedError(
                    f"nobody answers at coordinator_address='{host}:{port}' within timeout="
                    f"{timeout} seconds ({error.strerror or error}): is the process of index 0 "
                    "running there, and does a firewall let this port through?"
                ) from error
        time.sleep(_PAUSE)


class _Watch:
    """Says what was waited for, shortly before JAX ends a process for whose others it waited."""

    def __init__(
        self, address: str | None, count: int | None, index: int | None, timeout: int
    ) -> None:
        which = "this process" if index is None else f"process {index}"
        others = "the others" if count is None else f"all {count} processes"
        where = "" if address is None else f" at {address}"
        self._said = (
            f"flaxzoo: {which} has waited {timeout} seconds{where} for {others}, and not all have "
            "come: look at their logs; timeout= waits longer"
        )
        self._timer = threading.Timer(max(timeout - 0.5, 0.1), self._say)
        self._timer.daemon = True

    def _say(self) -> None:
        print(self._said, file=sys.stderr, flush=True)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
