"""Unfreezing a model as training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxzoo._checks import check_choice, is_size
from flaxzoo._explain import explained
from flaxzoo._trees import flatten
from flaxzoo.callbacks.base import Callback
from flaxzoo.errors import CallbackError
from flaxzoo.training.freezing import FreezeSpec, frozen_paths
from flaxzoo.training.refreezing import unfreezing_schedule


@explained
class GradualUnfreezing(Callback):
    """Changes what is frozen at given epochs: from the head down, to begin with.

    What goes on training keeps its optimizer state, and what begins to train starts at the run's
    present learning rate; see ``flaxzoo.transfer.refreeze``. Each change compiles the step anew.
    A resumed run has what was frozen when it stopped.

    Args:
      schedule: epoch, from 0, to what is frozen from its first step on, as ``Trainer``'s
        ``freeze`` takes it; None for nothing. Before the first one the trainer's own ``freeze``
        holds. By default that of ``flaxzoo.transfer.unfreezing_schedule``: the head alone in the
        first epoch, then one group of stages more in each.
      freeze_until: instead of a schedule, epoch to the first stage that trains, by its name or
        position.
      unit: ``"epoch"``, or ``"step"`` for schedules by the number of steps taken before.

    Raises:
      ArgumentError: another ``unit``.
      CallbackError: schedules that make no sense; at the beginning of training also a schedule
        that does not fit the model.

    Source: Howard and Ruder, ULMFiT (https://arxiv.org/abs/1801.06146), section 3.3.
    """

    def __init__(
        self,
        schedule: Mapping[int, FreezeSpec] | None = None,
        *,
        freeze_until: Mapping[int, int | str] | None = None,
        unit: str = "epoch",
    ) -> None:
        if schedule is not None and freeze_until is not None:
            raise CallbackError("GradualUnfreezing takes a schedule or freeze_until, not both")
        for label, entries in (("schedule", schedule), ("freeze_until", freeze_until)):
            _check(label, entries)
        self.schedule = None if schedule is None else dict(sorted(schedule.items()))
        self.freeze_until = None if freeze_until is None else dict(sorted(freeze_until.items()))
        self.unit = check_choice("unit", unit, ("epoch", "step"))
        self._frozen: dict[int, frozenset[str]] = {}

    def on_train_begin(self, trainer: Any) -> None:
        """Looks the whole schedule up in the model: an error is not to wait for its epoch."""
        self._frozen = self._resolved(trainer)
        if self.unit == "step":
            self._apply(trainer, trainer.step)

    def on_epoch_begin(self, trainer: Any, epoch: int) -> None:
        """Changes what is frozen, if the schedule says so."""
        if self.unit == "epoch":
            self._apply(trainer, epoch)

    def on_step_end(self, trainer: Any, step: int, metrics: Any) -> None:
        """Changes what is frozen, for schedules by step."""
        if self.unit == "step" and step in self._frozen:
            self._apply(trainer, step)

    def due_at(self, step: int) -> bool:
        """At the steps of a schedule by step."""
        return self.unit == "step" and step in self._frozen

    def _apply(self, trainer: Any, now: int) -> None:
        due = [when for when in self._frozen if when <= now]
        if due and trainer.state.frozen != self._frozen[due[-1]]:
            frozen = self._frozen[due[-1]]
            trainer.refreeze(lambda path: path in frozen)

    def _resolved(self, trainer: Any) -> dict[int, frozenset[str]]:
        state = trainer.state
        schedule, until = self.schedule, self.freeze_until
        try:
            if schedule is None and until is None:
                schedule = unfreezing_schedule(trainer.model_with_state())
            specs: dict[int, tuple[FreezeSpec, int | str | None]] = {}
            specs |= {when: (spec, None) for when, spec in (schedule or {}).items()}
            specs |= {when: (None, stage) for when, stage in (until or {}).items()}
            frozen = {
                when: frozen_paths(state.module, state.params, *spec)
                for when, spec in specs.items()
            }
            every_path = tuple(flatten(state.params))
            for paths in frozen.values():
                # What begins to train needs a learning rate.
                state.plan.entries(every_path, paths)
        except (KeyError, TypeError, ValueError) as error:
            raise CallbackError(f"GradualUnfreezing: {error}") from error
        return frozen


def _check(label: str, entries: Mapping[int, Any] | None) -> None:
    if entries is None:
        return
    if not isinstance(entries, Mapping) or not entries:
        raise CallbackError(
            f"GradualUnfreezing: {label} must map epochs to stages, got {entries!r}"
        )
    for when in entries:
        if not is_size(when, 0):
            raise CallbackError(
                f"GradualUnfreezing: {label} must have epochs (or steps) from 0, got {when!r}"
            )
