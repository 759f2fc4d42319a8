"""The ``flaxzoo`` command: ``list``, ``info``, ``train``, ``evaluate``, ``predict``, ``verify``.

Parsing imports nothing heavy: ``--help``, ``--version`` and usage errors answer at once, and jax
loads when a command begins to work.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

from flaxzoo.cli.parser import parse
from flaxzoo.cli.values import KINDS
from flaxzoo.errors import FlaxzooError

__all__ = ["main"]

_COMMANDS = {
    "list": "flaxzoo.cli.look:list_names",
    "info": "flaxzoo.cli.look:show_info",
    "train": "flaxzoo.cli.train:train",
    "evaluate": "flaxzoo.cli.use:evaluate",
    "predict": "flaxzoo.cli.use:predict",
    "verify": "flaxzoo.cli.verify:verify",
}
# How the library's messages point to a registry.
_LIST_CALL = re.compile(rf"\b(?:flaxzoo|fz)\.({'|'.join(KINDS)})\.list\(\)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the arguments after the program's name; None for the process's own.

    Returns:
      The exit code: 0 for success, 1 for a mistake found while running (one line on standard
      error says which), 2 for wrong usage, 130 after Ctrl-C, 143 after SIGTERM, 141 where the
      reader of standard output has gone.
    """
    show_traceback = False
    try:
        with _terminable():
            args = parse(sys.argv[1:] if argv is None else list(argv))
            show_traceback = args.traceback
            module, _, function = _COMMANDS[args.command].partition(":")
            getattr(importlib.import_module(module), function)(args)
            # A closed pipe shows here, where it is caught, instead of at interpreter exit.
            sys.stdout.flush()
            return 0
    except SystemExit as stop:
        # argparse's --help and usage errors, and the trainer's answer to SIGTERM.
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print("flaxzoo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _discard_output()
        return 128 + getattr(signal, "SIGPIPE", 13)
    except (FlaxzooError, OSError) as error:
        if show_traceback:
            traceback.print_exc()
        print(f"flaxzoo: error: {_in_shell_terms(str(error))}", file=sys.stderr)
        return 1


def _in_shell_terms(message: str) -> str:
    """A message of the library on one line, with commands to type instead of Python calls."""
    line = " ".join(message.split())
    return _LIST_CALL.sub(r"flaxzoo list --kind \1", line)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turns SIGTERM into an exit that lets files close; ``Trainer.fit`` has its own answer."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _discard_output() -> None:
    # The interpreter flushes standard output once more when it exits.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
