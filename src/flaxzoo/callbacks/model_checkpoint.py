"""Saves the run as it goes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from flaxzoo._checks import check_choice, check_size
from flaxzoo._explain import explained
from flaxzoo._files import as_path
from flaxzoo.callbacks.base import Callback
from flaxzoo.callbacks.monitor import MODES, monitored, resolve_mode
from flaxzoo.errors import DataError
from flaxzoo.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from flaxzoo.training.trainer import Trainer


@explained
@dataclasses.dataclass
class ModelCheckpoint(Callback):
    """Saves the run as it goes: after each epoch, the last and the best are kept.

    Attributes:
      directory: where the checkpoints go; ``run_dir/checkpoints`` by default.
      monitor: which metric says what is best; by default ``val_loss`` where there is validation,
        else ``loss``.
      mode: ``"min"``, ``"max"`` or ``"auto"``, which takes losses and errors as better when low.
      keep: how many of the latest to keep.
      keep_best: how many of the best to keep besides.
      every_steps: number of steps between saves within an epoch; None saves at its end alone.
    """

    directory: str | os.PathLike[str] | None = None
    monitor: str | None = None
    mode: str = "auto"
    keep: int = 1
    keep_best: int = 1
    every_steps: int | None = None

    saves_run: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.directory is not None:
            os.fspath(self.directory)
        if self.monitor is not None:
            resolve_mode(self.monitor, self.mode)
        check_choice("mode", self.mode, MODES)
        check_size("keep", self.keep)
        check_size("keep_best", self.keep_best, minimum=0)
        check_size("every_steps", self.every_steps, optional=True)
        self._checkpoints: Checkpoints | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Opens the directory, and fails now if it cannot be written."""
        self.on_train_end(trainer)
        directory = self.checkpoint_directory(trainer)
        self._checkpoints = Checkpoints(directory, keep=self.keep, keep_best=self.keep_best)
        self._checkpoints.begin(trainer.run, trainer.step)

    def checkpoint_directory(self, trainer: Trainer) -> Path:
        """The directory with the checkpoints.

        Raises:
          ValueError: neither this callback nor the trainer has one.
        """
        if self.directory is not None:
            return as_path(self.directory)
        if trainer.run_dir is None:
            raise ValueError(
                "ModelCheckpoint needs a directory: ModelCheckpoint(directory=...), or "
                "Trainer(..., run_dir=...)"
            )
        return trainer.run_dir / "checkpoints"

    @property
    def watches_steps(self) -> bool:
        """Whether it saves within an epoch."""
        own = type(self).on_step_end is not ModelCheckpoint.on_step_end
        return own or self.every_steps is not None

    def on_step_end(self, trainer: Trainer, step: int, metrics: Any) -> None:
        """Saves every ``every_steps`` steps; after an epoch's last, its end is about to."""
        at_end = trainer.position_in_epoch == trainer.steps_per_epoch
        if self.every_steps and step % self.every_steps == 0 and not at_end:
            self.save(trainer)

    def due_at(self, step: int) -> bool:
        """Every ``every_steps`` steps."""
        return bool(self.every_steps) and step % self.every_steps == 0  # type: ignore[operator]

    def on_epoch_end(self, trainer: Trainer, epoch: int, logs: dict[str, float]) -> None:
        """Saves the epoch's result with its score."""
        self.save(trainer, logs=logs)

    def on_train_end(self, trainer: Trainer) -> None:
        """Waits for what is still being written."""
        if self._checkpoints is not None:
            checkpoints, self._checkpoints = self._checkpoints, None
            checkpoints.close()

    def save(self, trainer: Trainer, logs: Mapping[str, float] | None = None) -> Path:
        """Saves now; returns the checkpoint's directory.

        Within ``fit`` it is complete once ``wait`` has returned, outside of it at once.

        Raises:
          DataError: the directory cannot be written, or another run is writing there.
          RuntimeError: there is no state yet.
        """
        if trainer.state is None:
            raise RuntimeError("there is nothing to save before fit, evaluate or build")
        alone = self._checkpoints is None
        if alone:
            self.on_train_begin(trainer)
        score = None if logs is None else self._score(logs)
        path = self._checkpoints.save(  # type: ignore[union-attr]
            trainer.state, trainer.step, trainer.position(), score=score
        )
        if alone:
            self.on_train_end(trainer)
        return path

    def save_interrupted(self, trainer: Trainer) -> Path:
        """Saves, and waits until it is on disk."""
        with contextlib.suppress(DataError):
            # If the one before could not be written, this one may all the same.
            self.wait()
        path = self.save(trainer)
        self.on_train_end(trainer)
        return path

    def wait(self) -> None:
        """Returns when all saves are on disk."""
        if self._checkpoints is not None:
            self._checkpoints.wait()

    def _score(self, logs: Mapping[str, float]) -> float | None:
        monitor = self.monitor or ("val_loss" if "val_loss" in logs else "loss")
        value = monitored(logs, monitor, "ModelCheckpoint")
        if not np.isfinite(value):
            return None
        return -value if resolve_mode(monitor, self.mode) == "min" else value
