"""Metrics of classes, and of yes and no: accuracies, areas under curves, perplexity."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics

from flaxzoo.metrics import _arrays, _curves, _states
from flaxzoo.metrics._spec import REGISTRY


@REGISTRY.register(aliases=["acc", "categorical_accuracy", "sparse_categorical_accuracy"])
def accuracy(
    outputs: Any, targets: Any, *, weights: Any = None, from_logits: bool = True
) -> clu_metrics.Metric:
    """Share of right answers, of several classes or of yes and no, told apart by shape.

    Where a score is NaN there is no right answer.

    Args:
      outputs: scores [..., C] of C > 1 classes; or scores [...] or [..., 1] of yes; or, as
        integers or booleans [...], the answers themselves.
      targets: for classes, integer labels [...] or one-hot rows [..., C]; else yes (1) or no (0).
        Outputs and targets of one shape with two or more axes are one-hot rows: for yes-or-no
        answers by element use ``binary_accuracy``.
      weights: leading axes of the labels, or None.
      from_logits: for yes-or-no scores, whether the boundary is at 0 or at 0.5.

    Returns:
      A mergeable mean.

    Raises:
      ShapeError: targets don't fit outputs, or class labels are not integers.
    """
    outputs = _arrays.as_array(outputs, "outputs", "accuracy")
    if not _arrays.is_float(outputs):
        answers, labels = _arrays.align(outputs, targets, "accuracy")
    elif outputs.ndim >= 2 and outputs.shape[-1] > 1:
        labels = _arrays.class_labels(outputs, targets, "accuracy")
        answers = _arrays.best_class(outputs)
        # No class is right where there is none, whatever the label.
        labels = jnp.where(labels < outputs.shape[-1], labels, -1)
    else:
        return _binary_accuracy(outputs, targets, weights, 0.5, from_logits, "accuracy")
    weights = _arrays.expand_weights(weights, labels.shape, "accuracy")
    return _states.Mean.of(answers == labels, weights)


@REGISTRY.register(aliases=["binary_acc"])
def binary_accuracy(
    outputs: Any,
    targets: Any,
    *,
    weights: Any = None,
    threshold: float = 0.5,
    from_logits: bool = True,
) -> clu_metrics.Metric:
    """Share of right yes-or-no answers, by element; where a score is NaN there is none.

    Args:
      outputs: scores of targets' shape (several axes: several labels by example), or [..., 2] for
        targets [...], where the second class is yes.
      targets: yes (1) or no (0).
      weights: leading axes of the targets, or None.
      threshold: probability above which the answer is yes.
      from_logits: whether outputs are logits, as opposed to probabilities.

    Returns:
      A mergeable mean.

    Raises:
      ShapeError: targets don't fit outputs.
    """
    return _binary_accuracy(outputs, targets, weights, threshold, from_logits, "binary_accuracy")


def _binary_accuracy(
    outputs: Any, targets: Any, weights: Any, threshold: float, from_logits: bool, metric: str
) -> clu_metrics.Metric:
    probabilities, truths, weights = _arrays.binary_scores(
        outputs, targets, weights, from_logits=from_logits, metric=metric
    )
    right = ((probabilities > threshold) == truths) & ~jnp.isnan(probabilities)
    return _states.Mean.of(right, weights)


@REGISTRY.register(aliases=["top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy"])
def top_k_accuracy(
    outputs: Any, targets: Any, *, weights: Any = None, k: int = 5
) -> clu_metrics.Metric:
    """Share of examples whose class is among the k of highest score.

    Of equal scores the lower class id ranks higher, as in argmax, so that k=1 is ``accuracy``. Of
    scores that hold NaN nothing is right. With k or fewer classes the value is 1.

    Args:
      outputs: scores [..., C].
      targets: integer labels [...] or one-hot rows [..., C].
      weights: leading axes of the labels, or None.
      k: how many guesses count.

    Returns:
      A mergeable mean.

    Raises:
      ShapeError: targets don't fit outputs, or labels are not integers.
    """
    outputs = _arrays.as_array(outputs, "outputs", "top_k_accuracy")
    labels = _arrays.class_labels(outputs, targets, "top_k_accuracy")[..., None]
    weights = _arrays.expand_weights(weights, labels.shape[:-1], "top_k_accuracy")
    classes = jnp.expand_dims(jnp.arange(outputs.shape[-1]), range(outputs.ndim - 1))
    score = _arrays.pick(outputs, labels)
    better = (outputs > score) | ((outputs == score) & (classes < labels))
    # A label out of range has the score NaN, as if the model had given it.
    right = (better.sum(-1) < k) & ~jnp.isnan(score[..., 0]) & ~jnp.isnan(outputs).any(-1)
    return _states.Mean.of(right, weights)


@REGISTRY.register(aliases=["auroc", "auc_roc", "roc_auc"])
def auc(
    outputs: Any, targets: Any, *, weights: Any = None, from_logits: bool = True
) -> clu_metrics.Metric:
    """Area under the ROC curve: how likely a yes scores higher than a no.

    Only the order of the scores counts, at any scale: they are sorted into bins whose width is
    at most 1/256 of the score, and those in one bin are ties, which count half. It is 0 if the
    data has only yes or only no. A score that is NaN is on the wrong side: below all others
    where the truth is yes, above them where it is no.

    Args:
      outputs: scores of targets' shape, or [..., 2] for targets [...].
      targets: yes (1) or no (0).
      weights: leading axes of the targets, or None.
      from_logits: False where outputs are probabilities, which are then ranked by their
        log-odds, so that those close to 1 stay apart.

    Returns:
      Mergeable histograms of the scores.

    Raises:
      ShapeError: targets don't fit outputs.
    """
    scores = _arrays.binary_scores(
        outputs, targets, weights, from_logits=from_logits, metric="auc", log_odds=True
    )
    return _curves.RocAuc.from_scores(*scores)


@REGISTRY.register(aliases=["auprc", "pr_auc"])
def auc_pr(
    outputs: Any, targets: Any, *, weights: Any = None, from_logits: bool = True
) -> clu_metrics.Metric:
    """Area under the precision-recall curve, for data where yes is rare.

    Interpolated between scores as by Davis and Goadrich, "The Relationship Between
    Precision-Recall and ROC Curves", 2006, which is what Keras does; scikit-learn's average
    precision is a step function, from which it differs the less the more yes there are. Scores
    are sorted into the bins of ``auc``.

    Args:
      outputs: scores of targets' shape, or [..., 2] for targets [...].
      targets: yes (1) or no (0).
      weights: leading axes of the targets, or None.
      from_logits: False where outputs are probabilities, as for ``auc``.

    Returns:
      Mergeable histograms of the scores.

    Raises:
      ShapeError: targets don't fit outputs.
    """
    scores = _arrays.binary_scores(
        outputs, targets, weights, from_logits=from_logits, metric="auc_pr", log_odds=True
    )
    return _curves.PrAuc.from_scores(*scores)


@REGISTRY.register(aliases=["ppl"])
def perplexity(
    outputs: Any, targets: Any, *, weights: Any = None, from_logits: bool = True
) -> clu_metrics.Metric:
    """Exponential of the mean cross-entropy by token: how many tokens the model wavers between.

    Args:
      outputs: logits [..., C] over the vocabulary, as [B, T, C].
      targets: token ids [...]; one that is negative or not below C makes the value NaN, unless
        its weight is 0.
      weights: leading axes of the targets ([B] or [B, T]), or None.
      from_logits: False where outputs are probabilities.

    Returns:
      A mergeable mean, whose exponential is the value.

    Raises:
      ShapeError: targets don't fit outputs, or are not integers.
    """
    outputs = _arrays.as_float(_arrays.as_array(outputs, "outputs", "perplexity"))
    labels = _arrays.class_labels(outputs, targets, "perplexity")
    weights = _arrays.expand_weights(weights, labels.shape, "perplexity")
    log_probabilities = jax.nn.log_softmax(outputs) if from_logits else jnp.log(outputs)
    cross_entropy = -_arrays.pick(log_probabilities, labels[..., None])[..., 0]
    return _states.Mean.of(cross_entropy, weights, then="exp")
