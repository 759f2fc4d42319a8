"""A callback made of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flaxzoo._explain import explained
from flaxzoo.callbacks.base import Callback
from flaxzoo.errors import CallbackError


@explained
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
            if function is not None:
                setattr(self, name, function)

    @property
    def watches_steps(self) -> bool:
        """Whether there is a function for steps, or a method of a subclass."""
        return "on_step_end" in vars(self) or super().watches_steps
