"""The callbacks of one ``fit``, called together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from flaxzoo.training.callbacks import Callback
from flaxzoo.training.checkpoint import ModelCheckpoint

if TYPE_CHECKING:
    from flaxzoo.training.trainer import Trainer


class CallbackList:
    """Calls several callbacks in their order.

    Args:
      callbacks: one or several.
      progress: whether to add a ``ProgressBar`` where there is none.

    Attributes:
      checkpoint: the first ``ModelCheckpoint``, or None.
      watches_steps: whether one of them looks at steps.

    Raises:
      TypeError: one is not a ``Callback``.
    """

    def __init__(
        self, callbacks: Iterable[Callback] | Callback = (), progress: bool = False
    ) -> None:
        self._all = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
        for callback in self._all:
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks must hold flaxzoo.callbacks.Callback objects, got {callback!r}"
                )
        if progress:
            from flaxzoo.training.progress import ProgressBar

            if not any(isinstance(c, ProgressBar) for c in self._all):
                self._all.append(ProgressBar())
        checkpoints = [c for c in self._all if isinstance(c, ModelCheckpoint)]
        self.checkpoint = checkpoints[0] if checkpoints else None
        # Checkpoints hold the history and the other callbacks' states, so they come last.
        self._early = [c for c in self._all if c not in checkpoints]
        self._late = checkpoints
        self._watching = [c for c in self._all if _watches_steps(c)]
        self.watches_steps = bool(self._watching)

    def train_begin(self, trainer: Trainer, stack: ExitStack) -> None:
        """Begins, and has each end with ``stack``, whatever happens in the loop or in others."""
        for callback in self._all:
            stack.callback(callback.on_train_end, trainer)
            callback.on_train_begin(trainer)

    def epoch_begin(self, trainer: Trainer, epoch: int) -> None:
        """Before an epoch."""
        for callback in self._all:
            callback.on_epoch_begin(trainer, epoch)

    def step_end(self, trainer: Trainer, step: int, metrics: Any) -> None:
        """After a step; only those that look at steps."""
        for callback in self._watching:
            callback.on_step_end(trainer, step, metrics)

    def due_at(self, step: int) -> bool:
        """Whether one of them acts after this very step."""
        return any(callback.due_at(step) for callback in self._watching)

    def validation_end(self, trainer: Trainer, epoch: int, logs: dict[str, float]) -> None:
        """After a validation."""
        for callback in self._all:
            callback.on_validation_end(trainer, epoch, logs)

    def epoch_end(self, trainer: Trainer, epoch: int, logs: dict[str, float]) -> None:
        """After an epoch: they may add to ``logs``, then the history and the checkpoints follow."""
        for callback in self._early:
            callback.on_epoch_end(trainer, epoch, logs)
        trainer.history.append(epoch, logs)
        for callback in self._late:
            callback.on_epoch_end(trainer, epoch, logs)

    def states(self) -> dict[str, Any]:
        """What each wants to remember, by class and number; JSON."""
        found = {key: callback.state_dict() for key, callback in self._keyed().items()}
        return {key: state for key, state in found.items() if state}

    def load_states(self, states: Mapping[str, Any]) -> None:
        """Gives back what ``states`` gave."""
        for key, callback in self._keyed().items():
            if key in states:
                callback.load_state_dict(states[key])

    def _keyed(self) -> dict[str, Callback]:
        keyed: dict[str, Callback] = {}
        for callback in self._all:
            name = type(callback).__name__
            number = sum(key.startswith(f"{name}.") for key in keyed)
            keyed[f"{name}.{number}"] = callback
        return keyed


def _watches_steps(callback: Callback) -> bool:
    if type(callback) is ModelCheckpoint:
        return callback.every_steps is not None
    return type(callback).on_step_end is not Callback.on_step_end
