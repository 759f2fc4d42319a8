"""Whether smaller or larger values of a metric are better."""

from __future__ import annotations

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
