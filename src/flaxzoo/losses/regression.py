"""Losses over real numbers that optax lacks, or that need a safer default."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from flaxzoo.losses import shapes, values
from flaxzoo.losses.registry import define
from flaxzoo.losses.traits import Traits

ELEMENTWISE = Traits(check=shapes.elementwise, check_values=values.finite)
NON_NEGATIVE = Traits(check=shapes.elementwise, check_values=values.non_negative)
VECTOR = Traits(check=shapes.vector, check_values=values.finite)


@define("mean_absolute_error", ELEMENTWISE, aliases=["mae", "absolute_error", "l1_loss", "l1"])
def mean_absolute_error(predictions: jax.Array, targets: jax.Array) -> jax.Array:
    """``|predictions - targets|``, elementwise.

    Args:
      predictions: any shape.
      targets: the same shape.

    Returns:
      The shape of the predictions.
    """
    return jnp.abs(predictions - targets)


@define("mean_absolute_percentage_error", ELEMENTWISE, aliases=["mape"])
def mean_absolute_percentage_error(
    predictions: jax.Array, targets: jax.Array, *, epsilon: float = 1e-7
) -> jax.Array:
    """``100 * |predictions - targets| / |targets|``, elementwise, in percent.

    Args:
      predictions: any shape.
      targets: the same shape; 0 counts as ``epsilon``.
      epsilon: the smallest divisor (Keras's default).

    Returns:
      The shape of the predictions.
    """
    return 100 * jnp.abs(predictions - targets) / jnp.maximum(jnp.abs(targets), epsilon)


@define("mean_squared_logarithmic_error", NON_NEGATIVE, aliases=["msle"])
def mean_squared_logarithmic_error(
    predictions: jax.Array, targets: jax.Array, *, epsilon: float = 1e-7
) -> jax.Array:
    """``(log(1 + predictions) - log(1 + targets)) ** 2``, elementwise.

    Args:
      predictions: any shape; below ``epsilon`` they count as ``epsilon`` and get no gradient.
      targets: the same shape, not negative.
      epsilon: the smallest number that a logarithm is taken of (Keras's default).

    Returns:
      The shape of the predictions.
    """
    log_predictions = jnp.log1p(jnp.maximum(predictions, epsilon))
    return jnp.square(log_predictions - jnp.log1p(jnp.maximum(targets, epsilon)))


@define("cosine_similarity", VECTOR)
def cosine_similarity(
    predictions: jax.Array, targets: jax.Array, *, epsilon: float = 1e-12
) -> jax.Array:
    """Cosine of the angle between vectors, as in optax: 1 for equal directions.

    Minimising it drives vectors apart: to train, use ``cosine_distance`` or
    ``negative_cosine_similarity``.

    Args:
      predictions: vectors, ``[..., dim]``.
      targets: the same shape.
      epsilon: the smallest squared norm that is divided by. optax's default of 0 makes the value
        and the gradient of a zero vector NaN; this is Keras's, and changes no other value.

    Returns:
      ``[...]``, in [-1, 1].
    """
    targets = targets.astype(predictions.dtype)
    return optax.losses.cosine_similarity(predictions, targets, epsilon=epsilon)


@define("negative_cosine_similarity", VECTOR)
def negative_cosine_similarity(
    predictions: jax.Array, targets: jax.Array, *, epsilon: float = 1e-12
) -> jax.Array:
    """Minus the cosine of the angle: what Keras calls the loss ``CosineSimilarity``.

    Args:
      predictions: vectors, ``[..., dim]``.
      targets: the same shape.
      epsilon: the smallest squared norm that is divided by.

    Returns:
      ``[...]``, in [-1, 1]; -1 for equal directions.
    """
    return -cosine_similarity(predictions, targets, epsilon=epsilon)


@define("cosine_distance", VECTOR)
def cosine_distance(
    predictions: jax.Array, targets: jax.Array, *, epsilon: float = 1e-12
) -> jax.Array:
    """One minus the cosine of the angle between vectors.

    Args:
      predictions: vectors, ``[..., dim]``.
      targets: the same shape.
      epsilon: the smallest squared norm that is divided by.

    Returns:
      ``[...]``, in [0, 2]; 0 for equal directions, 1 where one vector is zero.
    """
    return 1 - cosine_similarity(predictions, targets, epsilon=epsilon)
