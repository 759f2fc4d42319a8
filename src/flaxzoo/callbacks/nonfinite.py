"""Finds the step at which training went NaN or infinite, and what did."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_flag, check_size
from flaxzoo._explain import explained
from flaxzoo._finite import all_finite
from flaxzoo._programs import Jitted
from flaxzoo._spread import gathered, is_spread
from flaxzoo._trees import by_path
from flaxzoo.callbacks.base import Callback
from flaxzoo.errors import FlaxzooError


@dataclasses.dataclass(frozen=True)
class NonFiniteReport:
    """What went non-finite, and when; printing it gives one sentence.

    Attributes:
      step: the update after which it was first seen, from 1.
      metrics: the metrics that are NaN or infinite, by name.
      groups: the parameter groups that hold NaN or infinity, such as ``backbone/conv_1``.
    """

    step: int
    metrics: dict[str, float]
    groups: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{name} is {value}" for name, value in self.metrics.items()]
        if self.groups:
            shown = ", ".join(self.groups[:8])
            more = f" and {len(self.groups) - 8} more" if len(self.groups) > 8 else ""
            parts.append(f"parameters are not finite in {shown}{more}")
        elif self.metrics:
            parts.append("all parameters are still finite")
        return f"training stopped at step {self.step}: {'; '.join(parts)}"


class NonFiniteError(FlaxzooError, FloatingPointError):
    """Training went NaN or infinite; ``report`` says where."""

    def __init__(self, report: NonFiniteReport) -> None:
        super().__init__(str(report))
        self.report = report


@explained
class TerminateOnNaN(Callback):
    """Stops training when a metric or a parameter becomes NaN or infinite.

    Every step is checked on the device, by one small function over the batch's metrics and the
    updated parameters. Its answer is read when the next step has been dispatched, so that the
    device never waits; training therefore ends one step after the one reported.

    Args:
      raise_error: whether to raise ``NonFiniteError``; otherwise training stops as early stopping
        does, with a warning.
      check_params: whether to look at the parameters after every step, which reads each of them
        once. Without it only the metrics are watched, and by the time that these are NaN all
        parameters often are.
      depth: number of path parts that name a parameter group; 2 gives ``backbone/conv_1``.

    Attributes:
      report: a ``NonFiniteReport`` once something went wrong, else None.
    """

    def __init__(
        self, *, raise_error: bool = False, check_params: bool = True, depth: int = 2
    ) -> None:
        self.raise_error = check_flag("raise_error", raise_error)
        self.check_params = check_flag("check_params", check_params)
        self.depth = check_size("depth", depth)
        self.report: NonFiniteReport | None = None
        # (step, metrics, flags) of the step whose answer has not been read yet.
        self._pending: tuple[int, Any, Any] | None = None

    def on_train_begin(self, trainer: Any) -> None:
        """Forgets an earlier run's report."""
        self.report, self._pending = None, None

    def on_step_end(self, trainer: Any, step: int, metrics: Any) -> None:
        """Asks about this step, reads the answer about the one before."""
        params = trainer.state.params if self.check_params else {}
        flags = _flags_of(metrics, params, self.depth)
        previous, self._pending = self._pending, (step, metrics, flags)
        if previous is not None:
            self._read(trainer, *previous)

    def on_epoch_end(self, trainer: Any, epoch: int, logs: dict[str, float]) -> None:
        """Reads the answer about the epoch's last step, and looks at the validation loss."""
        last, self._pending = self._pending, None
        if last is not None:
            self._read(trainer, *last)
        value = logs.get("val_loss")
        if self.report is None and value is not None and not math.isfinite(value):
            step = last[0] if last is not None else int(trainer.state.step)
            self._fail(trainer, NonFiniteReport(step, {"val_loss": float(value)}, ()))

    def _read(self, trainer: Any, step: int, metrics: Any, flags: Any) -> None:
        finite = np.asarray(flags)
        if self.report is not None or finite.all():
            return
        params = trainer.state.params if self.check_params else {}
        names = _groups(params, self.depth)
        groups = tuple(name for name, good in zip(names, finite[1:], strict=True) if not good)
        values = {name: float(value) for name, value in metrics.compute().items()}
        wrong = {name: value for name, value in values.items() if not math.isfinite(value)}
        # A metric may hold infinities of its own, such as the start of a running minimum.
        if groups or wrong:
            self._fail(trainer, NonFiniteReport(step, wrong, groups))

    def _fail(self, trainer: Any, report: NonFiniteReport) -> None:
        self.report = report
        trainer.stop_training = True
        self._pending = None
        if self.raise_error:
            raise NonFiniteError(report)
        warnings.warn(str(report), stacklevel=2)


def _flags(metrics: Any, params: Any, *, depth: int) -> jax.Array:
    """Whether all metric sums are finite, then whether each parameter group is: bool ``[1 + G]``.

    One array, as each one costs a transfer.
    """
    groups = _groups(params, depth).values()
    return jnp.stack([all_finite(leaves) for leaves in (jax.tree.leaves(metrics), *groups)])


def _flags_of(metrics: Any, params: Any, depth: int) -> jax.Array:
    if not any(map(is_spread, jax.tree.leaves(params))):
        return _finite_flags(metrics, params, depth=depth)
    # Metrics are this process's own, parameters those of several: no one program takes both.
    first = _finite_flags(metrics, {}, depth=depth)
    rest = gathered(_finite_flags({}, params, depth=depth))
    return jnp.concatenate([first, rest[1:]])


def _structure(_: Any, params: Any, *, depth: int) -> tuple[Any, ...]:
    leaves, treedef = jax.tree.flatten(params)
    return (treedef, *(leaf.shape for leaf in leaves), depth)


_finite_flags = Jitted(_flags, _structure, static_argnames="depth")


def _groups(params: Any, depth: int) -> dict[str, list[Any]]:
    """Parameters by the name of their group, in the order of the tree."""
    groups: dict[str, list[Any]] = {}
    for path, leaf in by_path(params).items():
        names = path.split("/")
        # The leaf's own name (kernel, bias) is not a group.
        group = "/".join(names[: max(1, min(depth, len(names) - 1))])
        groups.setdefault(group, []).append(leaf)
    return groups
