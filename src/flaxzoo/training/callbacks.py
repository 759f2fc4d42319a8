"""What happens around training: stop early, log, watch for NaN, show progress.

A callback sees the ``Trainer`` at fixed points and may read anything it has. The trainer donates
its state to every step: arrays of ``trainer.state`` are gone after the next one, so a callback
that keeps them must copy them.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from flaxzoo.errors import CallbackError
from flaxzoo.training.monitor import infer_mode, monitored, resolve_mode

if TYPE_CHECKING:
    from flaxzoo.training.checkpoint import ModelCheckpoint
    from flaxzoo.training.csv_logger import CSVLogger
    from flaxzoo.training.nonfinite import NonFiniteError, NonFiniteReport, TerminateOnNaN
    from flaxzoo.training.progress import ProgressBar
    from flaxzoo.training.tensorboard import TensorBoard
    from flaxzoo.training.unfreezing import GradualUnfreezing

# Callbacks in files of their own, loaded when first asked for.
_LAZY = {
    "CSVLogger": "flaxzoo.training.csv_logger",
    "GradualUnfreezing": "flaxzoo.training.unfreezing",
    "ModelCheckpoint": "flaxzoo.training.checkpoint",
    "NonFiniteError": "flaxzoo.training.nonfinite",
    "NonFiniteReport": "flaxzoo.training.nonfinite",
    "ProgressBar": "flaxzoo.training.progress",
    "TensorBoard": "flaxzoo.training.tensorboard",
    "TerminateOnNaN": "flaxzoo.training.nonfinite",
}

__all__ = [
    "CSVLogger",
    "Callback",
    "CallbackError",
    "EarlyStopping",
    "GradualUnfreezing",
    "LambdaCallback",
    "LearningRateMonitor",
    "ModelCheckpoint",
    "NonFiniteError",
    "NonFiniteReport",
    "ProgressBar",
    "TensorBoard",
    "TerminateOnNaN",
    "infer_mode",
    "monitored",
    "resolve_mode",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


class Callback:
    """Base class: every method does nothing until it is overridden.

    Epochs count from 0. Steps count updates over the whole run, so the first one is 1.
    """

    def on_train_begin(self, trainer: Any) -> None:
        """Called once, before the first step of ``fit``."""

    def on_train_end(self, trainer: Any) -> None:
        """Called once, after the last epoch, also when training stopped early."""

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        """Called before the first step of an epoch."""

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """Called after an epoch and its validation.

        Args:
          trainer: the trainer.
          epoch: number of the epoch, from 0.
          logs: the epoch's metrics (``loss``, ``accuracy``, ``val_loss``, ...). What is added
            here lands in the history and is seen by the callbacks further down the list.
        """

    def on_step_end(self, trainer: Any, step: int, metrics: Any) -> None:
        """Called after each update, or after several that were one call.

        Args:
          trainer: the trainer. With ``Trainer(steps_per_call=k)`` this is called after up to k
            updates, with the state of the last one.
          step: number of updates so far, from 1.
          metrics: the collection of this batch, or of all batches of the call, on the device:
            ``metrics.compute()`` waits for the step to finish, so that calling it every time
            makes training slower.
        """

    def due_at(self, step: int) -> bool:
        """Whether ``on_step_end`` has to see the state or the metrics of this very step.

        With ``Trainer(steps_per_call=k)`` no call goes past such a step, and steps around it that
        make no whole call are taken one by one.

        Args:
          step: number of updates, from 1.
        """
        return False

    def on_validation_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """Called after the validation pass of an epoch, with its metrics."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if it had not stopped; must fit in JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what ``state_dict`` gave."""


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
      best_epoch: its epoch.
      stopped_epoch: the epoch that ended training, None if it ran to its end.

    Raises:
      CallbackError: settings that make no sense, or a name that does not tell the direction.
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
        if patience < 0 or min_delta < 0:
            raise CallbackError(
                f"patience and min_delta must not be negative, got {patience} and {min_delta}"
            )
        self.monitor = monitor
        self.patience = patience
        self.min_delta = min_delta
        self.mode = resolve_mode(monitor, mode)
        self.baseline = baseline
        self.restore_best = restore_best
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
    copies = jax.tree.map(lambda x: jnp.copy(x) if isinstance(x, jax.Array) else x, kept)
    # And to the optimizer state belongs what was frozen then, which may change in mid-run.
    static = ("tx", "frozen", "optimizer", "groups")
    return copies | {name: getattr(state, name) for name in static if hasattr(state, name)}


class LearningRateMonitor(Callback):
    """Adds ``learning_rate``, as it is at the end of the epoch, to the epoch's metrics.

    Where groups have rates of their own it is the head's, and those of all groups follow as
    ``learning_rate/<group>``; with ``layer_decay`` they all shrink alike, and the head's is the
    only one. Put it before the callbacks that are to see it, such as ``CSVLogger``.
    """

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """Adds the learning rate, if the trainer knows one."""
        if trainer.learning_rate is not None:
            logs["learning_rate"] = float(trainer.learning_rate)
        for group, rate in getattr(trainer, "group_learning_rates", {}).items():
            logs[f"learning_rate/{group}"] = rate


class LambdaCallback(Callback):
    """A callback made of functions; each takes what the method of its name takes.

    Example: ``LambdaCallback(on_epoch_end=lambda trainer, epoch, logs: print(epoch, logs))``.

    Args:
      on_train_begin: called with ``(trainer)``.
      on_train_end: called with ``(trainer)``.
      on_epoch_begin: called with ``(trainer, epoch)``.
      on_epoch_end: called with ``(trainer, epoch, logs)``.
      on_step_end: called with ``(trainer, step, metrics)``.
      on_validation_end: called with ``(trainer, epoch, logs)``.

    Raises:
      CallbackError: something that cannot be called.
    """

    def __init__(
        self,
        *,
        on_train_begin: Callable[..., Any] | None = None,
        on_train_end: Callable[..., Any] | None = None,
        on_epoch_begin: Callable[..., Any] | None = None,
        on_epoch_end: Callable[..., Any] | None = None,
        on_step_end: Callable[..., Any] | None = None,
        on_validation_end: Callable[..., Any] | None = None,
    ) -> None:
        hooks = {
            "on_train_begin": on_train_begin,
            "on_train_end": on_train_end,
            "on_epoch_begin": on_epoch_begin,
            "on_epoch_end": on_epoch_end,
            "on_step_end": on_step_end,
            "on_validation_end": on_validation_end,
        }
        for name, function in hooks.items():
            if function is not None and not callable(function):
                raise CallbackError(f"LambdaCallback: {name} must be a function, got {function!r}")
        self._hooks = {name: f for name, f in hooks.items() if f is not None}

    def _call(self, name: str, *args: Any) -> None:
        if name in self._hooks:
            self._hooks[name](*args)

    def on_train_begin(self, trainer: Any) -> None:
        """Calls the function given for it, as do the others."""
        self._call("on_train_begin", trainer)

    def on_train_end(self, trainer: Any) -> None:
        """See ``on_train_begin``."""
        self._call("on_train_end", trainer)

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        """See ``on_train_begin``."""
        self._call("on_epoch_begin", trainer, epoch)

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """See ``on_train_begin``."""
        self._call("on_epoch_end", trainer, epoch, logs)

    def on_step_end(self, trainer: Any, step: int, metrics: Any) -> None:
        """See ``on_train_begin``."""
        self._call("on_step_end", trainer, step, metrics)

    def on_validation_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """See ``on_train_begin``."""
        self._call("on_validation_end", trainer, epoch, logs)
