"""What a trainer's steps read and write, kept in the form that costs least per step."""

from __future__ import annotations

import collections
from typing import Any

import jax

from flaxzoo.data.batch import Batch
from flaxzoo.metrics import MetricCollection
from flaxzoo.training.groups import Group
from flaxzoo.training.multi_step import fit_steps
from flaxzoo.training.packed import Flat, Packed, pack, unpacked
from flaxzoo.training.state import TrainState
from flaxzoo.training.steps import as_configured, fit_step

# Calls with groups that may be under way: each holds its batches in memory.
_IN_FLIGHT = 2


class Carry:
    """The training state and the running metrics of the epoch.

    Around the arrays of a state there are dozens of Python objects, which ``jit`` would take
    apart and put together at every step. Steps therefore hand on the bare arrays, and the trees
    are made when somebody asks for them.
    """

    def __init__(self) -> None:
        # The state is in the one or the other: as a tree once somebody asked, who may change it.
        self._state: TrainState | None = None
        self._flat: Flat | None = None
        # The last treedef, which the next leaves share where they can.
        self._treedef: Any = None
        self._totals: Packed | None = None
        self._under_way: collections.deque[Any] = collections.deque()

    @property
    def state(self) -> TrainState | None:
        """The training state, or None; its arrays are gone after the next step."""
        if self._flat is not None:
            self._state, self._flat = self._flat.tree(), None
        return self._state

    @state.setter
    def state(self, value: TrainState | None) -> None:
        self._state, self._flat = value, None

    @property
    def totals(self) -> MetricCollection | None:
        """Metrics of the epoch so far, or None; copies."""
        return None if self._totals is None else unpacked(self._totals)

    @totals.setter
    def totals(self, value: MetricCollection | None) -> None:
        self._totals = None if value is None else pack(value)

    @property
    def has_totals(self) -> bool:
        """Whether there are metrics of the epoch so far."""
        return self._totals is not None

    def advance(self, item: Batch | Group) -> Packed:
        """Takes the step of a batch, or those of a group; the state and totals must be there.

        Returns:
          The metrics of the batch or of the whole group.
        """
        if self._flat is None:
            self._flat = Flat.of(self._state, self._treedef)
        if isinstance(item, Group):
            step = as_configured(fit_steps)
            self._flat, metrics, self._totals = step(self._flat, item.batch, self._totals)
            self._wait(metrics)
        else:
            step = as_configured(fit_step)
            self._flat, metrics, self._totals = step(self._flat, item, self._totals)
        self._treedef = self._flat.treedef
        # What has been donated is not to be kept.
        self._state = None
        return metrics

    def _wait(self, metrics: Packed) -> None:
        self._under_way.append(metrics)
        if len(self._under_way) > _IN_FLIGHT:
            jax.block_until_ready(self._under_way.popleft())
