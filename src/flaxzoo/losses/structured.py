"""Losses that take more than one array of predictions or targets, or look at a whole batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxzoo.losses import shapes, values
from flaxzoo.losses.registry import define
from flaxzoo.losses.traits import Traits

SEGMENTATION = Traits(check=shapes.segmentation, check_values=values.segmentation)


@define(
    "ctc_loss",
    Traits(check=shapes.ctc, check_values=values.ctc),
    aliases=["ctc", "ctc_loss_with_forward_probs"],
)
def ctc_loss(
    predictions: Any, targets: Any, *, blank_id: int = 0, log_epsilon: float = -1e5
) -> jax.Array:
    """Connectionist temporal classification: minus the log-likelihood of a label sequence.

    Graves et al., "Connectionist temporal classification", 2006. optax's
    ``ctc_loss_with_forward_probs`` is the same loss with by-products that training has no use
    for, so that its name is an alias.

    Args:
      predictions: logits ``[B, T, K]``, or ``(logits, logit_paddings)`` with paddings ``[B, T]``
        that are 1 where a frame is padding.
      targets: labels ``[B, N]``, where negative entries on the right are padding, or
        ``(labels, label_paddings)`` with paddings ``[B, N]``.
      blank_id: the class that stands for "no label".
      log_epsilon: stands for the logarithm of 0.

    Returns:
      ``[B]``.
    """
    logits, logit_paddings = predictions if isinstance(predictions, tuple) else (predictions, None)
    labels, label_paddings = targets if isinstance(targets, tuple) else (targets, targets < 0)
    if logit_paddings is None:
        logit_paddings = jnp.zeros(logits.shape[:2], logits.dtype)
    return optax.losses.ctc_loss(
        logits,
        logit_paddings,
        jnp.maximum(labels, 0),
        label_paddings.astype(logits.dtype),
        blank_id=blank_id,
        log_epsilon=log_epsilon,
    )


@define(
    "triplet_margin_loss",
    Traits(check=shapes.triplets, check_values=values.nothing),
    aliases=["triplet", "triplet_loss"],
)
def triplet_margin_loss(
    predictions: Any,
    targets: Any,
    *,
    norm_degree: float = 2,
    margin: float = 1.0,
    eps: float = 1e-6,
) -> jax.Array:
    """``max(d(anchor, positive) - d(anchor, negative) + margin, 0)``.

    Balntas et al., "Learning shallow convolutional feature descriptors with triplet losses",
    2016. Equal to optax's for ``norm_degree=2``; for odd degrees optax sums signed differences,
    this sums absolute ones.

    Args:
      predictions: ``(anchors, positives, negatives)``, each ``[B, dim]``, or the three stacked.
      targets: not used; anything, or None.
      norm_degree: the degree of the norm, 2 for Euclidean distance.
      margin: how much farther the negative should be.
      eps: added under the root, so that the gradient is finite where two vectors are equal.

    Returns:
      ``[B]``.
    """
    anchors, positives, negatives = predictions

    def distance(other: jax.Array) -> jax.Array:
        powers = jnp.power(jnp.abs(anchors - other), norm_degree)
        return jnp.power(jnp.sum(powers, axis=-1) + eps, 1 / norm_degree)

    return jnp.maximum(distance(positives) - distance(negatives) + margin, 0)


@define(
    "ntxent",
    Traits(
        check=shapes.embeddings,
        check_values=values.groups,
        per_example=False,
        integer_labels=True,
    ),
    aliases=["nt_xent"],
)
def ntxent(predictions: jax.Array, targets: jax.Array, *, temperature: float = 0.07) -> jax.Array:
    """Normalised temperature-scaled cross-entropy over the positive pairs of a batch (SimCLR).

    Chen et al., "A simple framework for contrastive learning of visual representations", 2020.

    Args:
      predictions: embeddings, ``[B, dim]``; they are normalised here.
      targets: integer group labels ``[B]``, equal within a positive pair. A batch without a
        positive pair has no loss: the result is NaN.
      temperature: divides the similarities.

    Returns:
      A scalar: the mean over positive pairs.
    """
    return optax.losses.ntxent(predictions, targets, temperature)


@define(
    "ranking_softmax_loss",
    Traits(check=shapes.ranking, check_values=values.ranking),
    aliases=["ranking_softmax"],
)
def ranking_softmax_loss(predictions: jax.Array, targets: Any) -> jax.Array:
    """Softmax cross-entropy of the relevances within each list; not averaged over lists.

    Args:
      predictions: a score for each item, ``[..., list_size]``.
      targets: relevances of the same shape, or ``(relevances, mask)`` with a mask of that shape
        that is 0 where there is no item.

    Returns:
      ``[...]``, one value per list (optax's ``reduce_fn=None``).
    """
    relevances, mask = targets if isinstance(targets, tuple) else (targets, None)
    where = None if mask is None else mask.astype(bool)
    return optax.losses.ranking_softmax_loss(predictions, relevances, where=where, reduce_fn=None)


@define(
    "make_fenchel_young_loss",
    Traits(check=shapes.vector, check_values=values.finite),
    aliases=["fenchel_young_loss", "fenchel_young"],
)
def make_fenchel_young_loss(
    predictions: jax.Array, targets: jax.Array, *, max_fun: Callable[[jax.Array], jax.Array]
) -> jax.Array:
    """``max_fun(predictions) - <targets, predictions>`` over the last axis.

    Blondel et al., "Learning with Fenchel-Young losses", 2020.

    Args:
      predictions: scores, ``[..., dim]``.
      targets: the same shape.
      max_fun: maps a vector of scores to a number, such as ``jax.nn.logsumexp`` (which gives the
        softmax cross-entropy). Define it once: the loss is equal to another only if it holds
        the same function.

    Returns:
      ``[...]``.
    """
    return optax.losses.make_fenchel_young_loss(max_fun)(
        predictions, targets.astype(predictions.dtype)
    )


def _dice_by_class(
    probabilities: jax.Array, targets: jax.Array, smooth: float, alpha: float, beta: float
) -> jax.Array:
    """``1 - dice`` for arrays ``[B, ..., C]``: ``[B, C]``."""
    space = tuple(range(1, probabilities.ndim - 1))
    overlap = jnp.sum(probabilities * targets, axis=space)
    false_positive = jnp.sum(probabilities, axis=space) - overlap
    false_negative = jnp.sum(targets, axis=space) - overlap
    union = overlap + alpha * false_positive + beta * false_negative
    return 1 - (overlap + smooth) / (union + smooth)


def _probabilities(predictions: jax.Array, apply: bool) -> jax.Array:
    if not apply:
        return predictions
    if predictions.shape[-1] == 1:
        return jax.nn.sigmoid(predictions)
    return jax.nn.softmax(predictions, axis=-1)


def _masks(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Targets ``[B, ..., C]`` from that, from class indices or from a binary mask."""
    if targets.shape == predictions.shape:
        return targets.astype(predictions.dtype)
    if predictions.shape[-1] == 1:
        return targets[..., None].astype(predictions.dtype)
    return jax.nn.one_hot(targets, predictions.shape[-1], dtype=predictions.dtype)


@define("dice_loss", SEGMENTATION, aliases=["dice"])
def dice_loss(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    class_weights: Sequence[float] | None = None,
    smooth: float = 1.0,
    alpha: float = 0.5,
    beta: float = 0.5,
    apply_softmax: bool = True,
    ignore_background: bool = False,
) -> jax.Array:
    """One minus the soft Dice overlap of each example, averaged over classes.

    Milletari et al., "V-Net", 2016; with ``alpha`` and ``beta`` other than 0.5 the Tversky loss.
    Agrees with optax's, and works under ``jit`` with ``apply_softmax=False`` too.

    Args:
      predictions: logits, ``[B, ..., num_classes]``, or ``[B, ..., 1]`` for one foreground.
      targets: one-hot of the same shape, or class indices (for one foreground: a mask)
        ``[B, ...]``.
      class_weights: ``[num_classes]``; multiply each class's term of the average.
      smooth: added to both sides of the fraction, so that an absent class counts as perfect.
      alpha: weight of false positives.
      beta: weight of false negatives.
      apply_softmax: False where predictions are probabilities already.
      ignore_background: leaves class 0 out.

    Returns:
      ``[B]``.
    """
    masks = _masks(predictions, targets)
    losses = _dice_by_class(_probabilities(predictions, apply_softmax), masks, smooth, alpha, beta)
    if class_weights is not None:
        losses = losses * jnp.asarray(class_weights, losses.dtype)[None]
    if ignore_background and losses.shape[-1] > 1:
        losses = losses[..., 1:]
    return jnp.mean(losses, axis=-1)


@define(
    "multiclass_generalized_dice_loss",
    Traits(check=shapes.segmentation, check_values=values.segmentation, per_example=False),
    aliases=["generalized_dice"],
)
def multiclass_generalized_dice_loss(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    smooth: float = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
) -> jax.Array:
    """Dice loss whose class weights are the inverse squared class frequencies of the batch.

    Sudre et al., "Generalised Dice overlap as a deep learning loss function for highly unbalanced
    segmentations", 2017. The frequencies are the batch's, so there is one value per batch.

    Args:
      predictions: logits, ``[B, ..., num_classes]``.
      targets: one-hot of the same shape, or class indices ``[B, ...]``.
      smooth: added to both sides of the fraction.
      apply_softmax: False where predictions are probabilities already.
      ignore_background: leaves class 0 out.

    Returns:
      A scalar.
    """
    masks = _masks(predictions, targets)
    frequencies = jnp.sum(masks, axis=tuple(range(masks.ndim - 1)))
    weights = 1 / (jnp.square(frequencies) + 1e-7)
    weights = weights / jnp.mean(weights)
    probabilities = _probabilities(predictions, apply_softmax)
    losses = weights[None] * _dice_by_class(probabilities, masks, smooth, 0.5, 0.5)
    if ignore_background and losses.shape[-1] > 1:
        losses = losses[..., 1:]
    return jnp.mean(losses)


@define(
    "binary_dice_loss",
    Traits(check=shapes.binary_segmentation, check_values=values.unit_interval),
    aliases=["binary_dice"],
)
def binary_dice_loss(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    smooth: float = 1.0,
    apply_sigmoid: bool = True,
) -> jax.Array:
    """One minus the soft Dice overlap of one foreground, for each example.

    Args:
      predictions: logits, ``[B, ...]`` or ``[B, ..., 1]``.
      targets: a mask of 0 and 1 of the same shape, with or without the last axis of 1.
      smooth: added to both sides of the fraction, so that two empty masks agree perfectly.
      apply_sigmoid: False where predictions are probabilities already.

    Returns:
      ``[B]``.
    """
    if predictions.shape[-1] != 1 or predictions.ndim == 1:
        predictions, targets = predictions[..., None], targets[..., None]
    return dice_loss(predictions, targets, smooth=smooth, apply_softmax=apply_sigmoid)
