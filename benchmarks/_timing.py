"""Times several callables against each other, in alternation and in one process.

Alternation matters: on a shared machine the speed drifts by more than what is to be measured, and
what drifts hits all candidates of a round alike. Compare the ratios; absolute times belong to the
machine they were taken on.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
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
    candidates: Mapping[str, Callable[[], Any]], *, rounds: int = 30, warmup: int = 2
) -> dict[str, Timing]:
    """Times every candidate once per round; each round starts with another one.

    Args:
      candidates: name to a function that returns when its work is done (block on JAX arrays).
      rounds: how often each is timed.
      warmup: untimed calls of each before the first round; compilation happens there.

    Returns:
      Name to timing, in the order given.
    """
    for run in candidates.values():
        for _ in range(warmup):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates)
    for _ in range(rounds):
        order = order[1:] + order[:1]
        for name in order:
            run = candidates[name]
            # The untimed call lets the worker threads of another library go to sleep first.
            run()
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(name, tuple(values)) for name, values in seconds.items()}


def environment(packages: Sequence[str] = ("jax", "jaxlib", "flax")) -> dict[str, str]:
    """The processor, the number of cores and the versions that a result depends on."""
    result = {
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


def table(timings: Mapping[str, Timing], *, baseline: str) -> str:
    """A Markdown table of medians and spreads in milliseconds, and ratios to the baseline."""
    rows = ["| | median ms | min - max ms | time relative to ours |", "|---|---|---|---|"]
    for name, timing in timings.items():
        low, high = 1e3 * min(timing.seconds), 1e3 * max(timing.seconds)
        rows.append(
            f"| {name} | {1e3 * timing.median:.2f} | {low:.2f} - {high:.2f} "
            f"| {timing.ratio(timings[baseline]):.2f} |"
        )
    return "\n".join(rows)
