"""Shape rules that the metrics share: which outputs, targets and weights fit together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flaxzoo._host import unmasked
from flaxzoo.errors import ShapeError


def as_array(value: Any, argument: str, metric: str) -> jax.Array:
    """One array, or a ShapeError for dictionaries and tuples of them."""
    if isinstance(value, Mapping | tuple) or value is None:
        raise ShapeError(
            f"{metric}: {argument} is a {type(value).__name__}, takes one array; for structured "
            "outputs pass a function of (outputs, targets) as the metric"
        )
    return jnp.asarray(unmasked(value, f"{argument} of {metric}"))


def as_float(x: jax.Array) -> jax.Array:
    """At least float32, so that no sum is taken in half precision."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def is_float(x: jax.Array) -> bool:
    """Whether an array holds scores, as opposed to class ids or booleans."""
    return jnp.issubdtype(x.dtype, jnp.floating)


def expand_weights(weights: Any, shape: tuple[int, ...], metric: str) -> jax.Array:
    """Weights as a float array of ``shape``; ones where there are none.

    Args:
      weights: array whose shape is ``shape`` or its leading axes ([B] for [B, T]), or None.
      shape: shape of the values to weigh.
      metric: name for the message.

    Raises:
      ShapeError: the shapes don't fit.
    """
    if weights is None:
        return jnp.ones(shape, jnp.float32)
    weights = as_float(as_array(weights, "weights", metric))
    if weights.shape != shape[: weights.ndim]:
        raise ShapeError(
            f"{metric}: weights has shape {weights.shape}, takes {shape} or its leading axes"
        )
    extra = (1,) * (len(shape) - weights.ndim)
    return jnp.broadcast_to(weights.reshape(weights.shape + extra), shape)


def masked(x: jax.Array, weights: jax.Array) -> jax.Array:
    """``x`` with zeros where the weight is zero: padding may hold anything, NaN included."""
    return jnp.where(weights != 0, x, jnp.zeros_like(x))


def divide_no_nan(x: jax.Array, y: jax.Array) -> jax.Array:
    """``x / y``, and 0 where y is 0."""
    return jnp.where(y != 0, jnp.divide(x, y), 0.0)


def align(outputs: Any, targets: Any, metric: str) -> tuple[jax.Array, jax.Array]:
    """Outputs and targets of one shape; [..., 1] and [...] are made alike, nothing broadcasts.

    Raises:
      ShapeError: the shapes differ otherwise.
    """
    outputs, targets = as_array(outputs, "outputs", metric), as_array(targets, "targets", metric)
    if outputs.shape == (*targets.shape, 1):
        return outputs[..., 0], targets
    if targets.shape == (*outputs.shape, 1):
        return outputs, targets[..., 0]
    if outputs.shape != targets.shape:
        raise ShapeError(
            f"{metric}: targets has shape {targets.shape}, takes the shape of outputs, "
            f"{outputs.shape}"
        )
    return outputs, targets


def class_labels(outputs: jax.Array, targets: Any, metric: str) -> jax.Array:
    """Class ids [...] from integer or one-hot targets of outputs [..., C].

    Raises:
      ShapeError: targets have another shape, or are ids that are not integers.
    """
    targets = as_array(targets, "targets", metric)
    leading = outputs.shape[:-1]
    if outputs.ndim < 2:
        raise ShapeError(
            f"{metric}: outputs has shape {outputs.shape}, takes [batch, ..., classes]"
        )
    if targets.shape == outputs.shape:
        return jnp.where(jnp.isnan(targets).any(-1), -1, jnp.argmax(targets, axis=-1))
    if targets.shape == (*leading, 1):
        targets = targets[..., 0]
    if targets.shape != leading:
        raise ShapeError(
            f"{metric}: targets has shape {targets.shape}, but outputs of shape {outputs.shape} "
            f"take class labels {leading} or one-hot rows {outputs.shape}"
        )
    if is_float(targets):
        raise ShapeError(f"{metric}: targets has dtype {targets.dtype}, class labels are integers")
    return targets.astype(jnp.int32)


def best_class(scores: jax.Array) -> jax.Array:
    """The class [...] of the highest of the scores [..., C], the lower one of equals.

    It is C, which is no class, where a score is NaN: argmax takes the first NaN for the highest.
    """
    answers = jnp.argmax(scores, axis=-1)
    return jnp.where(jnp.isnan(scores).any(-1), scores.shape[-1], answers)


def pick(scores: jax.Array, labels: jax.Array) -> jax.Array:
    """The scores [..., 1] of labels [..., 1]; NaN for labels out of range."""
    classes = scores.shape[-1]
    picked = jnp.take_along_axis(scores, jnp.clip(labels, 0, classes - 1), axis=-1)
    return jnp.where((labels >= 0) & (labels < classes), as_float(picked), jnp.nan)


def binary_scores(
    outputs: Any,
    targets: Any,
    weights: Any,
    *,
    from_logits: bool,
    metric: str,
    several: str = "scores of several classes need another metric",
    log_odds: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores, truths and weights of a yes-or-no question, each flat and of one length.

    Args:
      outputs: scores of targets' shape (a trailing axis of 1 is ignored), or [..., 2] for labels
        [...], where the second class is "yes". Integers and booleans are decisions already, and
        stay 0 and 1.
      targets: labels; above 0.5 (so 1 or True) means yes.
      weights: an array of targets' shape or its leading axes, or None.
      from_logits: whether scores are logits, as opposed to probabilities.
      metric: name for messages.
      several: what to do about scores of three or more classes, for the message.
      log_odds: returns log-odds in place of probabilities, for metrics of the order alone: a
        sigmoid would round large logits to 1, and log-odds keep apart the probabilities near 1.

    Returns:
      (probabilities or log-odds float [N], truths bool [N], weights float [N]); the first are 0
      where the weight is.

    Raises:
      ShapeError: the shapes don't fit.
    """
    scores, truths, weights, decided = _yes_or_no(
        outputs, targets, weights, from_logits, metric, several
    )
    if from_logits and not log_odds and not decided:
        scores = jax.nn.sigmoid(scores)
    elif log_odds and not (from_logits or decided):
        scores = jax.scipy.special.logit(jnp.clip(scores, 0, 1))
    return masked(scores, weights), truths, weights


def _yes_or_no(
    outputs: Any, targets: Any, weights: Any, from_logits: bool, metric: str, several: str
) -> tuple[jax.Array, jax.Array, jax.Array, bool]:
    """Flat scores, truths and weights, and whether the scores are decisions."""
    outputs, targets = as_array(outputs, "outputs", metric), as_array(targets, "targets", metric)
    decided = not is_float(outputs)
    pair = outputs.ndim >= 2 and outputs.shape[-1] == 2 and not decided
    if pair and targets.shape in (outputs.shape[:-1], (*outputs.shape[:-1], 1)):
        no, yes = as_float(outputs[..., 0]), as_float(outputs[..., 1])
        # The softmax of two logits is the sigmoid of their difference.
        scores, targets = (yes - no if from_logits else yes), targets.reshape(yes.shape)
    else:
        labels = outputs.ndim > targets.ndim or targets.shape == (*outputs.shape[:-1], 1)
        if outputs.ndim >= 2 and outputs.shape[-1] > 2 and labels:
            raise ShapeError(
                f"{metric}: {several}; as scores of yes, outputs of shape {outputs.shape} don't "
                f"fit targets of shape {targets.shape}"
            )
        scores, targets = align(outputs, targets, metric)
        scores = as_float(scores)
    weights = expand_weights(weights, targets.shape, metric)
    return scores.ravel(), targets.ravel() > 0.5, weights.ravel(), decided
