"""Losses over classes: cross-entropies and focal losses, with label smoothing and class weights.

``label_smoothing=a`` replaces targets ``y`` by ``(1 - a) * y + a / num_classes`` (for a yes-or-no
target, ``(1 - a) * y + a / 2``), as in Szegedy et al., "Rethinking the Inception architecture for
computer vision", 2016. ``class_weights`` multiplies the loss of each example by the weight of its
class, ``sum(class_weights * y)`` for one-hot or soft targets before smoothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxzoo._explain import explained
from flaxzoo.losses import shapes, values
from flaxzoo.losses.registry import define
from flaxzoo.losses.traits import Traits, as_number_array

Weights = Sequence[float] | None

DISTRIBUTION = Traits(check=shapes.distribution, check_values=values.non_negative)
INTEGER = Traits(check=shapes.integer, check_values=values.labels, integer_labels=True)
EITHER = Traits(check=shapes.labels_or_distribution, check_values=values.labels_or_distribution)
BINARY = Traits(check=shapes.binary, check_values=values.unit_interval)


@explained
def smooth_labels(labels: Any, alpha: float, *, axis: int = -1) -> jax.Array:
    """Moves one-hot labels towards the uniform distribution.

    Not a loss but a transform of targets, so it is a function of this module and not an entry of
    the registry; most uses are covered by the option ``label_smoothing``.

    Args:
      labels: one-hot or soft labels, ``[..., num_classes]``.
      alpha: 0 returns the labels, 1 the uniform distribution.
      axis: the axis of the classes.

    Returns:
      ``(1 - alpha) * labels + alpha / num_classes``, float32 or wider.
    """
    return optax.losses.smooth_labels(as_number_array(labels, floating=True), alpha, axis=axis)


def _smoothed(targets: jax.Array, like: jax.Array, label_smoothing: float) -> jax.Array:
    targets = targets.astype(like.dtype)
    return smooth_labels(targets, label_smoothing) if label_smoothing else targets


def _smoothed_binary(targets: jax.Array, like: jax.Array, label_smoothing: float) -> jax.Array:
    return targets.astype(like.dtype) * (1 - label_smoothing) + label_smoothing / 2


def _weighted(losses: jax.Array, targets: jax.Array, class_weights: Weights) -> jax.Array:
    if class_weights is None:
        return losses
    weights = jnp.asarray(class_weights, losses.dtype)
    weights = jnp.expand_dims(weights, range(targets.ndim - 1))
    return losses * jnp.sum(weights * targets, axis=-1)


def _weighted_binary(losses: jax.Array, targets: jax.Array, class_weights: Weights) -> jax.Array:
    if class_weights is None:
        return losses
    negative, positive = class_weights
    return losses * (positive * targets + negative * (1 - targets))


def _define(
    name: str, *aliases: str, binary: bool = False
) -> Callable[[Callable[..., jax.Array]], Callable[..., jax.Array]]:
    """Decorator: registers a loss with the options ``label_smoothing`` and ``class_weights``.

    The function below it is given targets that are smoothed already.

    Args:
      name: its registered name.
      *aliases: other names.
      binary: whether targets are yes or no, each for itself, not a distribution over classes.
    """
    smooth, weigh = (_smoothed_binary, _weighted_binary) if binary else (_smoothed, _weighted)
    weights = "two numbers, for the targets 0 and 1" if binary else "a factor per class"

    def add(core: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        @functools.wraps(core)
        def loss(
            predictions: jax.Array,
            targets: jax.Array,
            *,
            label_smoothing: float = 0.0,
            class_weights: Weights = None,
            **options: Any,
        ) -> jax.Array:
            smoothed = smooth(targets, predictions, label_smoothing)
            return weigh(core(predictions, smoothed, **options), targets, class_weights)

        own, added = inspect.signature(core), inspect.signature(loss, follow_wrapped=False)
        shared = [added.parameters[key] for key in ("label_smoothing", "class_weights")]
        loss.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*own.parameters.values(), *shared]
        )
        # Without indentation, which newer Pythons take out by themselves.
        text = inspect.getdoc(core) or ""
        loss.__doc__ = text.replace("\n\nReturns:", f"{_SHARED}{weights}.\n\nReturns:")
        return define(name, BINARY if binary else DISTRIBUTION, aliases)(loss)

    return add


# What the decorator adds to the arguments in a docstring.
_SHARED = """
  label_smoothing: the share of the uniform distribution, in [0, 1].
  class_weights: """


@_define("softmax_cross_entropy", "soft_target_cross_entropy")
def softmax_cross_entropy(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy between softmax logits and one-hot or soft targets.

    Args:
      predictions: logits, ``[..., num_classes]``.
      targets: probabilities of the same shape.

    Returns:
      ``[...]``.
    """
    return optax.losses.softmax_cross_entropy(predictions, targets)


@_define("safe_softmax_cross_entropy")
def safe_softmax_cross_entropy(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """``softmax_cross_entropy`` that takes logits of minus infinity where the target is 0.

    Args:
      predictions: logits, ``[..., num_classes]``; minus infinity rules a class out.
      targets: probabilities of the same shape.

    Returns:
      ``[...]``.
    """
    return optax.losses.safe_softmax_cross_entropy(predictions, targets)


@_define("poly_loss_cross_entropy", "poly_loss")
def poly_loss_cross_entropy(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    epsilon: float = 2.0,
) -> jax.Array:
    """Cross-entropy plus ``epsilon * (1 - p)`` of the true class (Poly-1).

    Leng et al., "PolyLoss: a polynomial expansion perspective of classification loss functions",
    2022.

    Args:
      predictions: logits, ``[..., num_classes]``.
      targets: probabilities of the same shape.
      epsilon: factor of the first polynomial term.

    Returns:
      ``[...]``.
    """
    return optax.losses.poly_loss_cross_entropy(predictions, targets, epsilon=epsilon)


@define("softmax_cross_entropy_with_integer_labels", INTEGER)
def softmax_cross_entropy_with_integer_labels(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    label_smoothing: float = 0.0,
    class_weights: Weights = None,
) -> jax.Array:
    """Cross-entropy between softmax logits and integer class indices.

    Args:
      predictions: logits, ``[..., num_classes]``.
      targets: class indices, ``[...]``.
      label_smoothing: the share of the uniform distribution, in [0, 1].
      class_weights: a factor per class, ``[num_classes]``.

    Returns:
      ``[...]``.
    """
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(predictions, targets)
    if label_smoothing:
        # The cross-entropy with the uniform distribution, without making one-hot targets.
        uniform = jax.nn.logsumexp(predictions, axis=-1) - jnp.mean(predictions, axis=-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform
    if class_weights is not None:
        losses = losses * jnp.asarray(class_weights, losses.dtype)[targets]
    return losses


@define(
    "crossentropy",
    EITHER,
    aliases=[
        *("cross_entropy", "categorical_crossentropy", "sparse_categorical_crossentropy"),
        # torch's; the logits of log-probabilities are these themselves.
        *("cross_entropy_loss", "nll_loss", "ce"),
    ],
)
def crossentropy(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    from_logits: bool = True,
    label_smoothing: float = 0.0,
    class_weights: Weights = None,
    epsilon: float = 1e-7,
) -> jax.Array:
    """Cross-entropy from class indices or one-hot targets, from logits or probabilities.

    The name of JAX-Metrics, and its default of logits (Keras's is ``from_logits=False``).

    Args:
      predictions: ``[..., num_classes]``.
      targets: integer class indices ``[...]``, or probabilities ``[..., num_classes]``.
      from_logits: False where predictions are probabilities already; they are scaled to a sum
        of 1.
      label_smoothing: the share of the uniform distribution, in [0, 1].
      class_weights: a factor per class, ``[num_classes]``.
      epsilon: the smallest probability that a logarithm is taken of.

    Returns:
      ``[...]``.
    """
    if not from_logits:
        # The softmax of these logits is the probabilities themselves, scaled to sum to 1.
        predictions = jnp.log(jnp.maximum(predictions, epsilon))
    from_indices = targets.ndim < predictions.ndim
    loss = softmax_cross_entropy_with_integer_labels if from_indices else softmax_cross_entropy
    return loss(predictions, targets, label_smoothing=label_smoothing, class_weights=class_weights)


@_define(
    "sigmoid_binary_cross_entropy",
    *("bce_with_logits", "bce_with_logits_loss", "binary_cross_entropy_with_logits"),
    binary=True,
)
def sigmoid_binary_cross_entropy(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy of independent yes-or-no targets, from logits.

    Args:
      predictions: logits of any shape.
      targets: 0 or 1, or probabilities, of the same shape.

    Returns:
      The shape of the predictions.
    """
    return optax.losses.sigmoid_binary_cross_entropy(predictions, targets)


@define("binary_crossentropy", BINARY, aliases=["binary_cross_entropy", "bce"])
def binary_crossentropy(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    from_logits: bool = True,
    label_smoothing: float = 0.0,
    class_weights: Weights = None,
    epsilon: float = 1e-7,
) -> jax.Array:
    """Cross-entropy of independent yes-or-no targets, from logits or probabilities.

    Args:
      predictions: logits (or probabilities) of any shape.
      targets: 0 or 1, or probabilities, of the same shape.
      from_logits: False where predictions are probabilities already (Keras's default).
      label_smoothing: the share of the uniform distribution, in [0, 1].
      class_weights: two numbers, the weights of the targets 0 and 1.
      epsilon: probabilities are kept this far from 0 and 1.

    Returns:
      The shape of the predictions.
    """
    if not from_logits:
        predictions = jnp.clip(predictions, epsilon, 1 - epsilon)
        predictions = jnp.log(predictions) - jnp.log1p(-predictions)
    return sigmoid_binary_cross_entropy(
        predictions, targets, label_smoothing=label_smoothing, class_weights=class_weights
    )


@_define("sigmoid_focal_loss", "focal", "focal_loss", "binary_focal_crossentropy", binary=True)
def sigmoid_focal_loss(
    predictions: jax.Array,
    targets: jax.Array,
    *,
    alpha: float | None = None,
    gamma: float = 2.0,
) -> jax.Array:
    """Binary cross-entropy that counts what is predicted well for little.

    Lin et al., "Focal loss for dense object detection", 2017.

    Args:
      predictions: logits of any shape.
      targets: 0 or 1, or probabilities, of the same shape.
      alpha: weight of the target 1, with 1 - alpha for 0; None weighs them alike.
      gamma: the exponent of ``1 - p``; 0 is the plain cross-entropy.

    Returns:
      The shape of the predictions.
    """
    return optax.losses.sigmoid_focal_loss(predictions, targets, alpha=alpha, gamma=gamma)


@define("multiclass_sparsemax_loss", INTEGER)
def multiclass_sparsemax_loss(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """Sparsemax loss: 0 as soon as the true class leads every other by 1.

    Martins and Astudillo, "From softmax to sparsemax", 2016.

    Args:
      predictions: scores, ``[..., num_classes]``.
      targets: class indices, ``[...]``.

    Returns:
      ``[...]``.
    """
    # optax maps over one batch axis, no more and no less.
    flat = predictions.reshape(-1, predictions.shape[-1])
    losses = optax.losses.multiclass_sparsemax_loss(flat, targets.reshape(-1))
    return losses.reshape(targets.shape)
