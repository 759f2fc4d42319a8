"""Candidates in processes of their own, which take turns.

Libraries keep threads that may spin after their work, and memory that another would have to go
without. So each candidate has a worker, started once, that sleeps until it is told to run; only one
runs at a time. Its clock is its own: no
communication is in the times.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _timing import Timing, turns

# A shorter measurement would be at the mercy of the scheduler.
SHORTEST = 0.1
# Threads of the candidate before have gone to sleep by then.
PAUSE = 0.02
# Calls before the first round, whose values are compared; long ones are called twice.
CHECKED, LONG = 3, 1.0


class WorkerError(Exception):
    """A worker ended, or could not start; the message is one line."""


class Worker:
    """A process that serves one candidate.

    Args:
      command: what to start; it speaks as ``serve`` does.
      environ: variables besides this process's.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        # Closed by close().
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **(environ or {})},
        )

    def ready(self) -> dict[str, Any]:
        """The first answer: it comes when the candidate has made its first calls.

        Raises:
          WorkerError: the candidate can't run; the message says why.
        """
        answer = self._read()
        if "missing" in answer:
            self.close()
            raise WorkerError(answer["missing"])
        return answer

    def run(self, calls: int, *, untimed: int = 0) -> float:
        """Seconds of one call: the mean over ``calls`` in a row, after ``untimed`` others.

        Raises:
          WorkerError: the process has ended.
        """
        try:
            self._process.stdin.write(json.dumps({"calls": calls, "untimed": untimed}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure() from error
        return self._read()["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        return json.loads(line)

    def _failure(self) -> WorkerError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return WorkerError(f"ended with exit code {code}{f': {last}' if last else ''}")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What ``measure`` found.

    Attributes:
      timings: name to timing.
      missing: name to the reason, of the candidates that did not run.
      ready: name to what the worker said first.
      rounds: how many there were.
    """

    timings: dict[str, Timing]
    missing: dict[str, str]
    ready: dict[str, dict[str, Any]]
    rounds: int


def measure(
    commands: Mapping[str, Sequence[str]],
    *,
    rounds: int,
    seconds: float,
    check: Callable[[Mapping[str, Any]], None] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Measured:
    """Starts a worker for each candidate and lets them take turns.

    Args:
      commands: name to what to start.
      rounds: how often each is timed, at most.
      seconds: time for the rounds; where they would take longer there are fewer, at least 3.
      check: gets what the workers said first, by name, and raises if that forbids timing them.
      environ: variables besides this process's.
    """
    workers: dict[str, Worker] = {}
    missing: dict[str, str] = {}
    ready: dict[str, dict[str, Any]] = {}
    calls: dict[str, int] = {}
    cost = 0.0
    try:
        for name, command in commands.items():
            worker = Worker(command, environ)
            try:
                ready[name] = worker.ready()
                once = ready[name]["once"]
                if once < SHORTEST:
                    # The first calls of short steps are slow: measure how many fit.
                    once = worker.run(max(1, math.ceil(SHORTEST / 4 / once)))
            except WorkerError as error:
                missing[name] = str(error)
                ready.pop(name, None)
                continue
            workers[name] = worker
            calls[name] = max(1, math.ceil(SHORTEST / once))
            cost += once * (calls[name] + _untimed(calls[name])) + PAUSE
        if check:
            check(ready)
        rounds = max(3, min(rounds, int(seconds / cost))) if workers else 0
        found: dict[str, list[float]] = {name: [] for name in workers}
        for order in turns(workers, rounds):
            for name in order:
                if name in missing:
                    continue
                time.sleep(PAUSE)
                try:
                    took = workers[name].run(calls[name], untimed=_untimed(calls[name]))
                except WorkerError as error:
                    missing[name] = str(error)
                    continue
                found[name].append(took / ready[name]["steps"])
    finally:
        for worker in workers.values():
            worker.close()
    timings = {n: Timing(n, tuple(s)) for n, s in found.items() if n not in missing}
    return Measured(timings, missing, ready, rounds)


def _untimed(calls: int) -> int:
    """Calls before the timed ones: short steps need their data back in the caches."""
    return 1 if calls > 1 else 0


def serve(start: Any) -> None:
    """The worker's side: answers on what was standard output, one JSON object per line.

    Args:
      start: makes the ``Candidate``; what it raises becomes the reason why it is missing.
    """
    # Libraries print: that goes to the error output, in order, so that what ends a process is last.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)
    try:
        candidate = start()
        values = []
        once = 0.0
        while len(values) < (2 if once > LONG else CHECKED):
            begin = time.perf_counter()
            result = candidate.call()
            candidate.wait(result)
            # The first one compiles.
            once = time.perf_counter() - begin if values else 0.0
            values.append(np.asarray(candidate.value(result), np.float64).reshape(-1)[:64].tolist())
    except Exception as error:
        answers.write(json.dumps({"missing": reason(error)}) + "\n")
        return
    facts = {key: getattr(candidate, key) for key in ("device", "same_weights", "gflop", "steps")}
    answers.write(json.dumps({"values": values, "once": once, **facts}) + "\n")
    for line in sys.stdin:
        request = json.loads(line)
        for _ in range(request["untimed"]):
            candidate.wait(candidate.call())
        begin = time.perf_counter()
        for _ in range(request["calls"]):
            result = candidate.call()
        candidate.wait(result)
        took = (time.perf_counter() - begin) / request["calls"]
        answers.write(json.dumps({"seconds": took}) + "\n")


def reason(error: BaseException) -> str:
    """Why a candidate is missing, in one line."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"not installed ({error.name})"
    text = next((line.strip() for line in str(error).split("\n") if line.strip()), "")
    text = text if isinstance(error, ImportError) else f"{type(error).__name__}: {text}"
    return text if len(text) <= 200 else f"{text[:200]}..."


def here(file: str) -> str:
    """A file of this directory, for a command."""
    return str(Path(__file__).with_name(file))
