"""Ctrl-C and SIGTERM, heard between steps instead of in the middle of one."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from flaxzoo._processes import several

# Of all processes, how often they have asked each other: the same in all of them.
_asked = itertools.count()


class StopRequest:
    """Set by the first signal; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def look(self) -> None:
        """Called between two steps, in all processes."""

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A signal handler."""
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


class SharedStopRequest(StopRequest):
    """Set in all processes after the same step, when one of them has been sent SIGTERM.

    JAX hears SIGTERM from ``jax.distributed.initialize`` on, tells all, and lets them go on to a
    step that none has gone beyond. Ctrl-C in one of them is passed on as SIGTERM.
    """

    def __init__(self) -> None:
        super().__init__()
        self._interrupted = False

    def look(self) -> None:
        """Asks whether this is the step at which all stop."""
        if multihost_utils.reached_preemption_sync_point(next(_asked)):
            self.signal = signal.SIGTERM

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A handler of SIGINT."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Collects SIGINT and SIGTERM; outside the main thread, where that is impossible, none."""
    shared = several() and getattr(jax.config, "jax_enable_preemption_service", True)
    request = SharedStopRequest() if shared else StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    heard = (signal.SIGINT,) if shared else (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.signal(s, request.handle) for s in heard}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
