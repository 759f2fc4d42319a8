"""Whether a directory is the same one in all processes."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from flaxzoo._processes import Channel, several
from flaxzoo.distributed import is_main
from flaxzoo.errors import DistributedError

# Seconds until a file that one host has written is seen on another, at the latest.
_UNTIL_SEEN = 15.0


def check_shared(directory: Path) -> None:
    """Has every process see a file that the process of index 0 writes.

    Args:
      directory: where a run saves.

    Raises:
      DistributedError: some do not; the message names them.
    """
    if not several():
        return
    channel = Channel(f"whether {directory} is shared")

    def write() -> str:
        name = f".shared.{secrets.token_hex(8)}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).touch()
        return name

    token = directory / channel.from_main(write)
    end = time.monotonic() + _UNTIL_SEEN
    while not (seen := token.exists()) and time.monotonic() < end:
        time.sleep(0.2)
    blind = [str(i) for i, said in enumerate(channel.gather("1" if seen else "")) if not said]
    if is_main():
        token.unlink(missing_ok=True)
    if blind:
        raise DistributedError(
            f"{directory} is not shared: what process 0 writes there is not seen by process "
            f"{', '.join(blind)}. Several processes need a run_dir on a file system of all hosts"
        )
