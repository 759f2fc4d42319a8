"""What several processes say to each other: short texts through JAX's coordinator, not devices.

Devices have one order of programs, which must be the same in all processes; what a thread that
reads data or writes files has to say must not come between them.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import jax

import flaxzoo.errors as errors
from flaxzoo.distributed import is_main, process_count, process_index
from flaxzoo.errors import DistributedError

# Seconds for which a process waits for what others say: they may read or write large files.
PATIENCE = 1800

_numbers = itertools.count()


def several() -> bool:
    """Whether there is more than one process; does not start JAX where there cannot be."""
    return jax.distributed.is_initialized() and process_count() > 1


def silent() -> bool:
    """Whether another process prints and writes what this one would."""
    return several() and not is_main()


class Channel:
    """One talk of all processes, in which each says something in each of several rounds.

    All must make their channels in the same order, in the thread that trains; a channel may then be
    used by another thread.

    Args:
      name: what it is about, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name, self._round = name, 0
        self._prefix = f"flaxzoo/{next(_numbers)}"

    def gather(self, value: str = "") -> list[str]:
        """What each process says in this round, by its index; waits until all have spoken.

        Raises:
          DistributedError: some do not; the message names them.
        """
        if not several():
            return [value]
        client, index = _client(), process_index()
        here = f"{self._prefix}/{self._round}"
        # An empty text is no value.
        client.key_value_set(f"{here}/{index}", f"={value}")
        try:
            client.wait_at_barrier(here.replace("/", "-"), PATIENCE * 1000)
        except Exception as error:
            raise DistributedError(self._silent(client, here, error)) from error
        said = {int(k.rpartition("/")[2]): v[1:] for k, v in client.key_value_dir_get(f"{here}/")}
        if self._round:
            # All have read the round before, or they would not be here.
            client.key_value_delete(f"{self._prefix}/{self._round - 1}/{index}")
        self._round += 1
        return [said[i] for i in range(process_count())]

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What the process of index 0 makes, JSON, handed to all.

        Raises:
          Exception: what ``make`` raises, in all processes.
        """
        if not several():
            return make()
        said, raised = "", None
        if is_main():
            try:
                said = json.dumps({"value": make()})
            except Exception as error:
                raised = error
                said = json.dumps({"error": _public(error), "message": str(error)})
        told = json.loads(self.gather(said)[0])
        if raised is not None:
            raise raised
        if "error" in told:
            raise getattr(errors, told["error"])(f"{told['message']} (in process 0)")
        return told["value"]

    def _silent(self, client: Any, here: str, error: Exception) -> str:
        try:
            spoke = {int(k.rpartition("/")[2]) for k, _ in client.key_value_dir_get(f"{here}/")}
            silent = ", ".join(str(i) for i in range(process_count()) if i not in spoke)
        except Exception:
            silent = ""
        who = f"process {silent} did not come" if silent else f"not all processes came ({error})"
        return f"{self._name}: {who}; look at their logs"


def from_main(name: str, make: Callable[[], Any]) -> Any:
    """What the process of index 0 makes, JSON, handed to all; see ``Channel.from_main``."""
    return Channel(name).from_main(make) if several() else make()


def _public(error: Exception) -> str:
    """The class of the package's own that says what went wrong, by its name."""
    names = (cls.__name__ for cls in type(error).__mro__ if cls.__module__ == errors.__name__)
    return next(names, DistributedError.__name__)


def _client() -> Any:
    # The coordinator's client has no public name in JAX; Orbax takes it from here as well.
    from jax._src import distributed

    client = distributed.global_state.client
    if client is None:
        raise DistributedError(
            f"there are {process_count()} processes, which flaxzoo.distributed.initialize() has "
            "not joined: call it first in each of them"
        )
    return client
