"""Metrics of numbers: errors, R2, cosines, and the loss itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics

from flaxzoo.errors import ShapeError, UnknownArgumentError
from flaxzoo.metrics import _arrays, _states
from flaxzoo.metrics._spec import REGISTRY, batch_size


@REGISTRY.register("loss")
def average_loss(
    outputs: Any, targets: Any, *, weights: Any = None, loss: Any = None
) -> clu_metrics.Metric:
    """Mean loss by example.

    A loss that is one number for the batch counts as often as the batch has examples (their
    weight, if there are weights).

    Args:
      outputs: used for its batch size only.
      targets: used for its batch size only.
      weights: [B] or [B, T], or None.
      loss: [B], [B, T], or a scalar.

    Returns:
      A mergeable mean.

    Raises:
      UnknownArgumentError: there is no loss.
    """
    if loss is None:
        raise UnknownArgumentError("metric 'loss' needs update(..., loss=...)")
    return _states.average(loss, weights, examples=batch_size(outputs, targets), metric="loss")


def _elements(
    outputs: Any, targets: Any, weights: Any, metric: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Outputs, targets and weights as floats of one shape, padding cleared."""
    outputs, targets = _arrays.align(outputs, targets, metric)
    weights = _arrays.expand_weights(weights, targets.shape, metric)
    outputs, targets = (_arrays.masked(_arrays.as_float(x), weights) for x in (outputs, targets))
    return outputs, targets, weights


def _of_error(
    name: str,
    alias: str,
    summary: str,
    error: Callable[[jax.Array], jax.Array],
    then: str | None = None,
) -> Callable[..., clu_metrics.Metric]:
    """Registers the mean of a function of the error by element."""

    def metric(outputs: Any, targets: Any, *, weights: Any = None) -> clu_metrics.Metric:
        """The mean of a batch.

        Args:
          outputs: predictions of targets' shape; [B] and [B, 1] go together.
          targets: values to predict.
          weights: leading axes of the targets, or None.

        Returns:
          A mergeable mean.

        Raises:
          ShapeError: targets don't fit outputs.
        """
        outputs, targets, weights = _elements(outputs, targets, weights, name)
        return _states.Mean.of(error(outputs - targets), weights, then=then)

    metric.__name__ = metric.__qualname__ = name
    details = (inspect.getdoc(metric) or "").partition("\n\n")[2]
    metric.__doc__ = f"{summary}\n\n{details}"
    return REGISTRY.register(name, aliases=(alias,))(metric)


mse = _of_error("mse", "mean_squared_error", "Mean squared error by element.", jnp.square)
rmse = _of_error(
    "rmse",
    "root_mean_squared_error",
    "Root of the mean squared error, in the targets' units.",
    jnp.square,
    then="sqrt",
)
mae = _of_error(
    "mae",
    "mean_absolute_error",
    "Mean absolute error by element, in the targets' units.",
    jnp.abs,
)


@REGISTRY.register(aliases=["r2_score", "r_squared"])
def r2(outputs: Any, targets: Any, *, weights: Any = None) -> clu_metrics.Metric:
    """Share of the targets' variance that is predicted; 1 is exact, 0 no better than the mean.

    With several target columns it is the mean of theirs, as in scikit-learn.

    Args:
      outputs: predictions of targets' shape; [B] and [B, 1] go together.
      targets: values to predict, [B] or [B, ...].
      weights: leading axes of the targets, or None.

    Returns:
      Mergeable moments.

    Raises:
      ShapeError: targets don't fit outputs, or are a scalar.
    """
    outputs, targets, weights = _elements(outputs, targets, weights, "r2")
    if targets.ndim == 0:
        raise ShapeError("r2: targets is a scalar, takes [batch, ...]")
    return _states.RSquared.from_model_output(outputs, targets, weights)


@REGISTRY.register
def cosine_similarity(outputs: Any, targets: Any, *, weights: Any = None) -> clu_metrics.Metric:
    """Mean cosine between output and target vectors; 0 where one of them is zero.

    Args:
      outputs: vectors [..., D].
      targets: vectors [..., D].
      weights: leading axes of [...], or None.

    Returns:
      A mergeable mean.

    Raises:
      ShapeError: targets don't have the shape of outputs, or are scalars.
    """
    outputs, targets = (
        _arrays.as_float(_arrays.as_array(x, name, "cosine_similarity"))
        for x, name in ((outputs, "outputs"), (targets, "targets"))
    )
    if outputs.shape != targets.shape or outputs.ndim == 0:
        raise ShapeError(
            f"cosine_similarity: targets has shape {targets.shape} and outputs {outputs.shape}; "
            "both take [..., D]"
        )
    lengths = jnp.linalg.norm(outputs, axis=-1) * jnp.linalg.norm(targets, axis=-1)
    cosines = jnp.where(lengths > 0, (outputs * targets).sum(-1) / lengths, 0.0)
    return _states.average(
        cosines, weights, examples=batch_size(outputs), metric="cosine_similarity"
    )
