"""Timings, their tables and their files: what the scripts of this directory share.

Alternation matters: on a shared machine the speed drifts by more than what is to be measured, and
what drifts hits all candidates of a round alike. Compare the ratios; absolute times belong to the
machine they were taken on. ``alternate`` times callables in one process; ``_workers.py`` times
processes, where libraries would disturb each other. The files' form is in README.md.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds that one candidate took in each round."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the rounds, in seconds."""
        return statistics.median(self.seconds)

    def ratio(self, baseline: Timing) -> float:
        """How many times as long as the baseline: the median of the ratios within each round."""
        return statistics.median(
            ours / theirs for ours, theirs in zip(self.seconds, baseline.seconds, strict=True)
        )


def alternate(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 30,
    warmup: int = 2,
    pause: float = 0.0,
    calls: int = 1,
) -> dict[str, Timing]:
    """Times every candidate once per round; each round starts with another one.

    Args:
      candidates: name to a function that returns when its work is done (block on JAX arrays).
      rounds: how often each is timed.
      warmup: untimed calls of each before the first round; compilation happens there.
      pause: seconds of rest before a turn, for calls so short that threads of another library
        would spin through them.
      calls: of each in a turn, whose time is their mean.

    Returns:
      Name to timing, in the order given.
    """
    for run in candidates.values():
        for _ in range(warmup):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for order in turns(candidates, rounds):
        for name in order:
            run = candidates[name]
            time.sleep(pause)
            # The untimed call lets the worker threads of another library go to sleep first.
            run()
            start = time.perf_counter()
            for _ in range(calls):
                run()
            seconds[name].append((time.perf_counter() - start) / calls)
    return {name: Timing(name, tuple(values)) for name, values in seconds.items()}


def turns(names: Sequence[str] | Mapping[str, Any], rounds: int) -> list[list[str]]:
    """The order of each round: all names, each round from another one on."""
    order = list(names)
    return [order[i % len(order) :] + order[: i % len(order)] for i in range(1, rounds + 1)]


def environment(packages: Sequence[str] = ("jax", "jaxlib", "flax")) -> dict[str, str]:
    """The processor, the number of cores and the versions that a result depends on."""
    result = {
        "cpu": processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "?"),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    for package in packages:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            result[package] = "not installed"
    return result


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or "unknown"


def table(
    timings: Mapping[str, Timing], *, baseline: str, missing: Mapping[str, str] | None = None
) -> str:
    """A Markdown table of medians and spreads in milliseconds, and ratios to the baseline.

    Args:
      timings: name to timing; the baseline's is among them.
      baseline: what the last column is relative to.
      missing: name to the reason, of the candidates without a timing.
    """
    rows = ["| | median ms | min - max ms | time relative to ours |", "|---|---|---|---|"]
    for name, timing in timings.items():
        ratio = f"{timing.ratio(timings[baseline]):.2f}" if baseline in timings else ""
        low, high = (_milliseconds(value) for value in (min(timing.seconds), max(timing.seconds)))
        rows.append(f"| {name} | {_milliseconds(timing.median)} | {low} - {high} | {ratio} |")
    rows += [f"| {name} | {reason} | | |" for name, reason in (missing or {}).items()]
    return "\n".join(rows)


def _milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def results(
    timings: Mapping[str, Timing], missing: Mapping[str, str] | None = None, **facts: Any
) -> list[dict[str, Any]]:
    """The rows of a results file for one table.

    Args:
      timings: name to timing.
      missing: name to the reason, of the candidates without a timing.
      **facts: what tells this table's rows from others', such as ``work="resnet50"``.
    """
    return [
        *({**facts, "name": name, "seconds": list(t.seconds)} for name, t in timings.items()),
        *({**facts, "name": name, "missing": reason} for name, reason in (missing or {}).items()),
    ]


def write_results(
    path: str | os.PathLike[str],
    environment: Mapping[str, str],
    arguments: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Writes a results file; its form is in README.md."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One row to a line: readable, and small enough to commit.
    body = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    head = f' "environment": {json.dumps(environment)},\n "arguments": {json.dumps(arguments)},'
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(f'{{\n{head}\n "results": [\n{body}\n ]\n}}\n')
    temporary.replace(path)
