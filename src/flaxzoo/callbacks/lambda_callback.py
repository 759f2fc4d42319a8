"""A callback made of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flaxzoo.callbacks.base import Callback
from flaxzoo.errors import CallbackError


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

    @property
    def watches_steps(self) -> bool:
        """Whether there is a function for steps."""
        return "on_step_end" in self._hooks

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
