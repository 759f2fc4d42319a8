"""Ends training when a metric no longer improves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from flaxzoo._checks import check_flag, check_number, check_size
from flaxzoo._explain import explained
from flaxzoo._trees import copied
from flaxzoo.callbacks.base import Callback
from flaxzoo.callbacks.monitor import monitored, resolve_mode


@explained
class EarlyStopping(Callback):
    """Stops training when a metric no longer improves.

    Args:
      monitor: the metric, as named in the history.
      patience: number of epochs without improvement to sit through; the next one stops. 0 stops
        at the first epoch that is no better.
      min_delta: how much better a value must be to count as an improvement.
      mode: ``"min"``, ``"max"``, or ``"auto"`` to judge by the metric's name.
      baseline: value that the first improvement must beat.
      restore_best: whether the state gets the parameters, statistics and optimizer state of the
        best epoch back at the end of training. They are kept as copies on the device. A best
        epoch from before a resume cannot be given back; ``ModelCheckpoint`` keeps it on disk.

    Attributes:
      best: best value so far, None before the first improvement.
      best_epoch: the epoch that had it.
      stopped_epoch: the epoch that ended training, None if it ran to its end.

    Raises:
      ArgumentError: a setting is out of range.
      CallbackError: the metric's name does not tell the direction.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        *,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best: bool = False,
    ) -> None:
        self.monitor = monitor
        self.patience = check_size("patience", patience, minimum=0)
        self.min_delta = check_number("min_delta", min_delta, minimum=0)
        self.mode = resolve_mode(monitor, mode)
        self.baseline = check_number("baseline", baseline, optional=True)
        self.restore_best = check_flag("restore_best", restore_best)
        self._resumed = False
        self._reset()

    def _reset(self) -> None:
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self.wait = 0
        self._best_state: dict[str, Any] | None = None

    def on_train_begin(self, trainer: Any) -> None:
        """Starts anew, unless a state has just been loaded to go on from."""
        if not self._resumed:
            self._reset()
        elif self.wait > self.patience:
            # The run had been stopped: it is not to go on because it is resumed.
            trainer.stop_training = True
        self._resumed = False

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """Compares with the best value, and asks the trainer to stop if patience is used up."""
        value = monitored(logs, self.monitor, "EarlyStopping")
        if self._improves(value):
            self.best, self.best_epoch, self.wait = value, epoch, 0
            if self.restore_best:
                self._best_state = _copy_model_state(trainer.state)
            return
        self.wait += 1
        if self.wait > self.patience:
            self.stopped_epoch = epoch
            trainer.stop_training = True

    def _improves(self, value: float) -> bool:
        if math.isnan(value):
            return False
        reference = self.baseline if self.best is None else self.best
        if reference is None:
            return True
        gain = reference - value if self.mode == "min" else value - reference
        return gain > self.min_delta

    def on_train_end(self, trainer: Any) -> None:
        """Gives the best epoch's state back, if asked to."""
        if not self.restore_best or self.best_epoch is None:
            return
        if self._best_state is None:
            warnings.warn(
                f"EarlyStopping cannot restore epoch {self.best_epoch}: it was before this run "
                "was resumed. ModelCheckpoint keeps the best epoch on disk.",
                stacklevel=2,
            )
            return
        trainer.state = trainer.state.replace(**self._best_state)
        # The next step would donate these arrays: they are the trainer's now.
        self._best_state = None

    def state_dict(self) -> dict[str, Any]:
        """The best value, its epoch, and how long ago it was."""
        return {"best": self.best, "best_epoch": self.best_epoch, "wait": self.wait}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from ``state_dict``."""
        self._reset()
        self.best, self.best_epoch = state["best"], state["best_epoch"]
        self.wait = state["wait"]
        self._resumed = True


def _copy_model_state(state: Any) -> dict[str, Any]:
    # The optimizer state belongs to it: schedule-free optimizers evaluate parameters with it.
    fields = ("params", "batch_stats", "collections", "opt_state")
    kept = {name: getattr(state, name) for name in fields if hasattr(state, name)}
    # And to the optimizer state belongs what was frozen then, which may change in mid-run.
    static = ("tx", "frozen", "optimizer", "groups")
    return copied(kept) | {name: getattr(state, name) for name in static if hasattr(state, name)}
