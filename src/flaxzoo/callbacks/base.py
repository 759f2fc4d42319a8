"""``Callback``, what happens around training, and the callbacks of one ``fit``, called together.

A callback sees the ``Trainer`` at fixed points and may read anything it has. The trainer donates
its state to every step: arrays of ``trainer.state`` are gone after the next one, so a callback
that keeps them must copy them.

The trainer knows callbacks by what stands here alone: what it adds of its own accord, such as a
progress bar, is a class that ``default_for`` has put down in ``DEFAULTS``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from flaxzoo._explain import foreign, keyword_hints
from flaxzoo._processes import silent
from flaxzoo.errors import CallbackError

if TYPE_CHECKING:
    from flaxzoo.training.trainer import Trainer


class Callback:
    """Base class: every method does nothing until it is overridden.

    Epochs count from 0. Steps count updates over the whole run, so the first one is 1.

    Attributes:
      role: what the callback does that a trainer would otherwise have done for it, such as
        ``"progress"``; see ``default_for``. None for all that only adds.
      saves_run: whether ``on_epoch_end`` comes after the history's entry and after all other
        callbacks, because it saves what they remember.
      main_only: whether, in several processes, the one of index 0 alone calls it, because it
        prints or writes and computes nothing on the devices of all.
    """

    role: ClassVar[str | None] = None
    saves_run: ClassVar[bool] = False
    main_only: ClassVar[bool] = False

    @property
    def watches_steps(self) -> bool:
        """Whether ``on_step_end`` is to be called: handing out each step's metrics takes time."""
        return type(self).on_step_end is not Callback.on_step_end

    def check_methods(self) -> None:
        """Looks at what a subclass defines; ``fit`` does it before it begins.

        Raises:
          CallbackError: a method is called like one of another library's, which nothing calls, or
            takes other arguments than it will get.
        """
        hooks = {name: value for name, value in vars(Callback).items() if name.startswith("on_")}
        for name in dir(type(self)):
            method = getattr(self, name) if name.startswith("on_") else None
            if not callable(method):
                continue
            hint = "" if name in hooks else keyword_hints([name], hooks)
            if hint:
                raise CallbackError(
                    f"{type(self).__name__}.{name} is called by nothing.{hint} "
                    f"There are: {', '.join(hooks)}"
                )
            if name not in hooks:
                continue
            takes = list(inspect.signature(hooks[name]).parameters)[1:]
            try:
                inspect.signature(method).bind(*takes)
            except TypeError:
                raise CallbackError(
                    f"{type(self).__name__}.{name} must take ({', '.join(takes)}), "
                    f"takes {inspect.signature(method)}"
                ) from None

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

    def checkpoint_directory(self, trainer: Any) -> Path | None:
        """Where this callback keeps the run's checkpoints, from which a resumed one goes on."""
        return None

    def save_interrupted(self, trainer: Any) -> Path | None:
        """Saves the run when a signal ends training, before ``on_train_end``.

        Returns:
          Where this has saved the run; None for a callback that does not.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on as if it had not stopped; must fit in JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes back what ``state_dict`` gave."""


def path_in_run(trainer: Any, name: str, callback: str, argument: str) -> Path:
    """The path of a callback's file or folder in the trainer's run directory.

    Args:
      trainer: the trainer.
      name: the name of the file or folder.
      callback: the callback's name, for the message.
      argument: its argument that names another path, for the message.

    Raises:
      CallbackError: the trainer has no run directory.
    """
    if trainer.run_dir is None:
        raise CallbackError(
            f"{callback} has nowhere to write: pass {argument}=, or give the trainer a run_dir"
        )
    return Path(trainer.run_dir) / name


C = TypeVar("C", bound=type[Callback])

# By role, what makes the callback of a ``fit`` that was given none for it.
DEFAULTS: dict[str, Callable[[], Callback]] = {}


def default_for(role: str) -> Callable[[C], C]:
    """Decorator: the class fills ``role`` where ``fit`` wants it and has no callback for it.

    Args:
      role: ``"progress"`` is the one that ``Trainer.fit`` asks for.
    """

    def add(cls: C) -> C:
        cls.role = role
        DEFAULTS[role] = cls
        return cls

    return add


def _advice(value: Any) -> str:
    """What to write instead of something that is no callback."""
    if isinstance(value, type) and issubclass(value, Callback):
        return f": make one, {value.__name__}(...)"
    library = foreign(value)
    if library is not None:
        return f", an object of {library}; flaxzoo.callbacks has our own"
    return ": flaxzoo.callbacks has classes to make them of" if isinstance(value, str) else ""


class CallbackList:
    """Calls several callbacks in their order.

    Args:
      callbacks: one callback or several.
      roles: the roles to be filled; for each that no callback has, ``DEFAULTS`` gives one more.

    Attributes:
      watches_steps: whether one of them looks at steps.

    Raises:
      TypeError: one of them is not a ``Callback``.
    """

    def __init__(
        self, callbacks: Iterable[Callback] | Callback = (), roles: Iterable[str] = ()
    ) -> None:
        self._all = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
        for callback in self._all:
            if not isinstance(callback, Callback):
                raise TypeError(
                    "callbacks must hold flaxzoo.callbacks.Callback objects, got "
                    f"{callback!r}{_advice(callback)}"
                )
            callback.check_methods()
        filled = {callback.role for callback in self._all}
        self._all += [DEFAULTS[role]() for role in roles if role not in filled]
        # Silent ones still say when they are due, so that all processes take the same steps.
        self._due = [callback for callback in self._all if callback.watches_steps]
        if silent():
            self._all = [callback for callback in self._all if not callback.main_only]
        self._early = [callback for callback in self._all if not callback.saves_run]
        self._late = [callback for callback in self._all if callback.saves_run]
        self._watching = [callback for callback in self._all if callback.watches_steps]
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
        return any(callback.due_at(step) for callback in self._due)

    def validation_end(self, trainer: Trainer, epoch: int, logs: dict[str, float]) -> None:
        """After a validation."""
        for callback in self._all:
            callback.on_validation_end(trainer, epoch, logs)

    def epoch_end(self, trainer: Trainer, epoch: int, logs: dict[str, float]) -> None:
        """After an epoch: all may add to ``logs``; the history follows, then what saves the run."""
        for callback in self._early:
            callback.on_epoch_end(trainer, epoch, logs)
        trainer.history.append(epoch, logs)
        for callback in self._late:
            callback.on_epoch_end(trainer, epoch, logs)

    def checkpoint_directory(self, trainer: Any) -> Path | None:
        """Where the first that keeps checkpoints has them; None if none does."""
        places = (callback.checkpoint_directory(trainer) for callback in self._all)
        return next((place for place in places if place is not None), None)

    def interrupted(self, trainer: Trainer) -> Path | None:
        """Has the first that can save the run; returns where it is, None if none can."""
        places = (callback.save_interrupted(trainer) for callback in self._all)
        return next((place for place in places if place is not None), None)

    def states(self) -> dict[str, Any]:
        """What each wants to remember, by class and number; JSON."""
        states = {key: callback.state_dict() for key, callback in self._keyed().items()}
        return {key: state for key, state in states.items() if state}

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
