"""The learning rate as one of the epoch's metrics."""

from __future__ import annotations

from typing import Any

from flaxzoo.callbacks.base import Callback


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
