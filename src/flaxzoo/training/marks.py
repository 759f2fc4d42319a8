"""What trains, marked in a model's layer table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from flaxzoo._trees import flatten
from flaxzoo.summary import Summary


def marked(summary: Summary, state: Any, step: int) -> Summary:
    """A layer table that says what is frozen, and the learning rates where they differ.

    Args:
      summary: the layer table of a model.
      state: a ``TrainState`` of that model.
      step: the number of steps so far, for the learning rates.
    """
    groups, sizes = state.groups, {p: leaf.size for p, leaf in flatten(state.params).items()}
    statistics = {path.rpartition("/")[0] for path in flatten(state.batch_stats)}
    rates: dict[str, float] = {}
    if groups is not None and groups.plan.rates is not None:
        rates = groups.rates_by_path(step // state.optimizer.accumulate_steps)

    def mark(layer: Any) -> Any:
        root = layer.depth == 0
        inside = [path for path in sizes if root or path.startswith(f"{layer.path}/")]
        notes = [*_frozen(inside, state.frozen)]
        keeps = state.freeze_batch_norm and layer.path in statistics
        if keeps and not set(inside) <= state.frozen:
            notes.append("fixed statistics")
        own = {rates[path] for path in inside if path in rates}
        if len(own) == 1:
            notes.append(f"rate {own.pop():.3g}")
        kind = f"{layer.kind} ({', '.join(notes)})" if notes else layer.kind
        return dataclasses.replace(layer, kind=kind)

    trainable = sum(size for path, size in sizes.items() if path not in state.frozen)
    return dataclasses.replace(
        summary,
        layers=tuple(map(mark, summary.layers)),
        trainable=trainable if state.frozen else None,
    )


def _frozen(paths: Iterable[str], frozen: frozenset[str]) -> Iterable[str]:
    inside = [path in frozen for path in paths]
    if inside and all(inside):
        yield "frozen"
    elif any(inside):
        yield "partly frozen"
