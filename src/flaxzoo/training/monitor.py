"""Which metric a callback watches, and which direction is better."""

from __future__ import annotations

from collections.abc import Mapping

from flaxzoo.errors import CallbackError, UnknownNameError, did_you_mean

# Parts of names; those of _SMALLER count first ("error" of "accuracy_error").
_SMALLER = (
    "loss",
    "error",
    "perplexity",
    "mse",
    "mae",
    "mape",
    "msle",
    "entropy",
    "hinge",
    "huber",
    "log_cosh",
    "divergence",
    "distance",
)
_LARGER = (
    "acc",
    "auc",
    "precision",
    "recall",
    "f1",
    "fbeta",
    "r2",
    "score",
    "iou",
    "similarity",
    "bleu",
    "sensitivity",
    "specificity",
)


def infer_mode(name: str) -> str | None:
    """Whether smaller or larger values of a metric are better, judged by its name.

    Returns:
      ``"min"``, ``"max"``, or None for a name that says neither.
    """
    name = name.lower()
    if any(word in name for word in _SMALLER):
        return "min"
    if any(word in name for word in _LARGER):
        return "max"
    return None


def resolve_mode(monitor: str, mode: str) -> str:
    """``"min"`` or ``"max"`` for a metric and a setting of ``"min"``, ``"max"`` or ``"auto"``.

    Raises:
      CallbackError: another setting, or ``"auto"`` for a name that does not tell.
    """
    if mode not in ("auto", "min", "max"):
        raise CallbackError(f"mode must be 'auto', 'min' or 'max', got {mode!r}")
    found = infer_mode(monitor) if mode == "auto" else mode
    if found is None:
        raise CallbackError(
            f"the name {monitor!r} does not tell whether larger is better: "
            "pass mode='max' or mode='min'"
        )
    return found


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
