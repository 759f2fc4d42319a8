"""Precision, recall and what combines them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics

from flaxzoo.errors import ShapeError, UnknownArgumentError
from flaxzoo.metrics import _arrays, _states
from flaxzoo.metrics._spec import REGISTRY


def _of_beta(
    name: str, beta: float, summary: str, aliases: tuple[str, ...] = ()
) -> Callable[..., clu_metrics.Metric]:
    """Registers the F-score of one beta under a name of its own."""

    def score(
        outputs: Any,
        targets: Any,
        *,
        weights: Any = None,
        threshold: float = 0.5,
        average: str = "binary",
        num_classes: int | None = None,
        from_logits: bool = True,
    ) -> clu_metrics.Metric:
        """The score of a batch.

        Args:
          outputs: for ``average="binary"``, scores of targets' shape, or [..., 2]; else class
            scores [..., C], or class ids as integers of targets' shape.
          targets: yes (1) or no (0); else integer labels [...] or one-hot rows [..., C].
          weights: leading axes of the labels, or None.
          threshold: for ``"binary"``, the probability above which the answer is yes.
          average: ``"binary"``; or, of several classes, ``"micro"`` (all decisions together),
            ``"macro"`` (mean over the classes that occur or are predicted) or ``"weighted"`` (mean
            over classes, by how often they occur).
          num_classes: C; needed where outputs are class ids.
          from_logits: for ``"binary"``, whether outputs are logits, as opposed to probabilities.

        Returns:
          Mergeable counts.

        Raises:
          ShapeError: targets don't fit outputs.
          UnknownArgumentError: outputs are class ids, and ``num_classes`` is None.
        """
        return _f_score(
            outputs, targets, weights, threshold, average, num_classes, from_logits, beta, name
        )

    score.__name__ = score.__qualname__ = name
    details = (inspect.getdoc(score) or "").partition("\n\n")[2]
    score.__doc__ = f"{summary}\n\n{details}"
    return REGISTRY.register(name, aliases=aliases)(score)


precision = _of_beta("precision", 0.0, "Share of the yes answers that are right; 0 without any.")
recall = _of_beta("recall", math.inf, "Share of the true yes that are found; 0 without any.")
f1 = _of_beta("f1", 1.0, "Harmonic mean of precision and recall.", aliases=("f1_score",))


@REGISTRY.register(aliases=["fbeta_score"])
def fbeta(
    outputs: Any,
    targets: Any,
    *,
    beta: float,
    weights: Any = None,
    threshold: float = 0.5,
    average: str = "binary",
    num_classes: int | None = None,
    from_logits: bool = True,
) -> clu_metrics.Metric:
    """Weighted harmonic mean of precision and recall.

    Args:
      outputs: as for ``precision``, and so are the other arguments.
      targets: yes (1) or no (0); else integer labels [...] or one-hot rows [..., C].
      beta: how many times more recall counts than precision; 1 is ``f1``.
      weights: leading axes of the labels, or None.
      threshold: for ``"binary"``, the probability above which the answer is yes.
      average: ``"binary"``, ``"micro"``, ``"macro"`` or ``"weighted"``.
      num_classes: C; needed where outputs are class ids.
      from_logits: for ``"binary"``, whether outputs are logits, as opposed to probabilities.

    Returns:
      Mergeable counts.

    Raises:
      ShapeError: targets don't fit outputs.
    """
    return _f_score(
        outputs, targets, weights, threshold, average, num_classes, from_logits, beta, "fbeta"
    )


def _f_score(
    outputs: Any,
    targets: Any,
    weights: Any,
    threshold: float,
    average: str,
    num_classes: int | None,
    from_logits: bool,
    beta: float,
    metric: str,
) -> _states.ConfusionCounts:
    if average == "binary":
        probabilities, truths, weights = _arrays.binary_scores(
            outputs,
            targets,
            weights,
            from_logits=from_logits,
            metric=metric,
            several="average='macro', 'micro' or 'weighted' is needed for several classes",
        )
        # Where a score is NaN the answer is the wrong one.
        yes = jnp.where(jnp.isnan(probabilities), ~truths, probabilities > threshold)
        counts = [(weights * cell).sum() for cell in (yes & truths, yes & ~truths, ~yes & truths)]
    else:
        answers, labels, classes = _class_answers(outputs, targets, num_classes, metric)
        weights = _arrays.expand_weights(weights, labels.shape, metric).ravel()
        answers, labels = answers.ravel(), labels.ravel()
        right = answers == labels
        counts = [
            jax.ops.segment_sum(weights * cell, ids, num_segments=classes)
            for cell, ids in ((right, labels), (~right, answers), (~right, labels))
        ]
    return _states.ConfusionCounts(*counts, beta=float(beta), average=average)


def _class_answers(
    outputs: Any, targets: Any, num_classes: int | None, metric: str
) -> tuple[jax.Array, jax.Array, int]:
    """Predicted class ids, true ones, and how many classes there are."""
    outputs = _arrays.as_array(outputs, "outputs", metric)
    if not _arrays.is_float(outputs):
        if num_classes is None:
            raise UnknownArgumentError(
                f"{metric}: outputs of dtype {outputs.dtype} are class ids and need num_classes"
            )
        answers, labels = _arrays.align(outputs, targets, metric)
        return answers, labels, num_classes
    labels = _arrays.class_labels(outputs, targets, metric)
    if num_classes not in (None, outputs.shape[-1]):
        raise ShapeError(
            f"{metric}: outputs has shape {outputs.shape}, takes [..., {num_classes}] for "
            f"num_classes={num_classes}"
        )
    # A row without a best class gives no class's count an answer; its own is missed.
    return _arrays.best_class(outputs), labels, outputs.shape[-1]
