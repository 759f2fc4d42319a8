"""Which metric a callback watches, and which direction is better."""

from __future__ import annotations

from collections.abc import Mapping

from flaxzoo._checks import check_choice
from flaxzoo._directions import infer_mode
from flaxzoo.errors import ArgumentError, CallbackError, UnknownNameError, did_you_mean

MODES = ("auto", "min", "max")


def resolve_mode(monitor: str, mode: str) -> str:
    """``"min"`` or ``"max"`` for a metric and a setting of ``"min"``, ``"max"`` or ``"auto"``.

    Raises:
      ArgumentError: another setting.
      CallbackError: ``"auto"`` for a name that does not tell.
    """
    if not isinstance(monitor, str):
        raise ArgumentError(f"monitor must be the name of a metric, got {monitor!r}")
    check_choice("mode", mode, MODES)
    direction = infer_mode(monitor) if mode == "auto" else mode
    if direction is None:
        raise CallbackError(
            f"the name {monitor!r} does not tell whether larger is better: "
            "pass mode='max' or mode='min'"
        )
    return direction


def monitored(logs: Mapping[str, float], monitor: str, who: str) -> float:
    """The value of the metric that a callback watches.

    Raises:
      UnknownNameError: it is not among the epoch's metrics; the message lists them.
    """
    if monitor in logs:
        return float(logs[monitor])
    hint = did_you_mean(monitor, logs)
    if monitor.startswith("val_") and not any(name.startswith("val_") for name in logs):
        hint = " Names with val_ need validation_data."
    raise UnknownNameError(
        f"{who} watches {monitor!r}, which is not among the epoch's metrics: "
        f"{', '.join(logs) or 'none'}.{hint}"
    )


__all__ = ["infer_mode", "monitored", "resolve_mode"]
