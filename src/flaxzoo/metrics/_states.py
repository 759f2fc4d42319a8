"""What metrics accumulate: mergeable sums, as clu.metrics.Metric classes.

One class serves all that are means; precision, recall and F are counts of decisions, R2 is
centred moments, and the areas under curves are in ``_curves``.
"""

from __future__ import annotations

import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics

from flaxzoo.metrics import _arrays, _curves


@flax.struct.dataclass
class Mean(clu_metrics.Metric):
    """A weighted mean, and what a metric makes of it at the end.

    Attributes:
      total: sum of the values times their weights.
      count: sum of the weights.
      then: ``"sqrt"`` or ``"exp"``, what is done to the mean of all batches; None for nothing.
    """

    total: jax.Array
    count: jax.Array
    then: str | None = flax.struct.field(pytree_node=False, default=None)

    @classmethod
    def of(cls, values: jax.Array, weights: jax.Array, then: str | None = None) -> Mean:
        """Of values and weights of one shape; a value of weight 0 may be anything, NaN too."""
        return cls((_arrays.masked(values, weights) * weights).sum(), weights.sum(), then)

    def merge(self, other: Mean) -> Mean:
        """Sum of both."""
        return self.replace(total=self.total + other.total, count=self.count + other.count)

    def compute(self) -> jax.Array:
        """The value; that of the mean 0 where there is no weight."""
        mean = _arrays.divide_no_nan(self.total, self.count)
        return mean if self.then is None else {"sqrt": jnp.sqrt, "exp": jnp.exp}[self.then](mean)


def average(values: Any, weights: Any, *, examples: int, metric: str) -> Mean:
    """Weighted average of per-example, per-element or whole-batch values.

    Args:
      values: [B], [B, ...], or a scalar, which then stands for each of the batch's examples.
      weights: [B] or more of the leading axes of the data, or None. Axes that values lack (token
        weights for values by sequence) are summed: a sequence counts as much as its tokens do.
      examples: what a scalar without weights counts for.
      metric: name for messages.

    Returns:
      A mergeable average in float32 or better.
    """
    values = _arrays.as_float(_arrays.as_array(values, "values", metric))
    if weights is None and values.ndim == 0:
        weights = jnp.float32(examples)
    if weights is not None:
        weights = jnp.asarray(weights)
        extra = range(values.ndim, weights.ndim)
        weights = _arrays.as_float(weights).sum(tuple(extra)) if extra else weights
    expanded = _arrays.expand_weights(weights, values.shape, metric)
    return Mean.of(values, expanded)


@flax.struct.dataclass
class ConfusionCounts(clu_metrics.Metric):
    """True positives, false positives and false negatives, and the F-score they give.

    Precision is the F-score with beta 0, recall the one with infinite beta, so one class serves
    all.

    Attributes:
      true_positives: weight of the right yes decisions, a scalar or by class [C].
      false_positives: weight of the wrong yes decisions.
      false_negatives: weight of the wrong no decisions.
      beta: how many times more recall counts than precision.
      average: ``"binary"``, ``"micro"``, ``"macro"`` or ``"weighted"``.
    """

    true_positives: jax.Array
    false_positives: jax.Array
    false_negatives: jax.Array
    beta: float = flax.struct.field(pytree_node=False, default=1.0)
    average: str = flax.struct.field(pytree_node=False, default="binary")

    def merge(self, other: ConfusionCounts) -> ConfusionCounts:
        """Sum of both."""
        return self.replace(
            true_positives=self.true_positives + other.true_positives,
            false_positives=self.false_positives + other.false_positives,
            false_negatives=self.false_negatives + other.false_negatives,
        )

    def compute(self) -> jax.Array:
        """The score; 0 where it is not defined, as in scikit-learn."""
        hits, extra, missed = self.true_positives, self.false_positives, self.false_negatives
        if self.average == "micro":
            hits, extra, missed = hits.sum(), extra.sum(), missed.sum()
        if math.isinf(self.beta):
            scores = _arrays.divide_no_nan(hits, hits + missed)
        else:
            squared = self.beta**2
            scores = _arrays.divide_no_nan(
                (1 + squared) * hits, (1 + squared) * hits + squared * missed + extra
            )
        if self.average == "macro":
            # Classes that neither occur nor are predicted have no score.
            present = (hits + extra + missed) > 0
            return _arrays.divide_no_nan((scores * present).sum(), present.sum())
        if self.average == "weighted":
            return _arrays.divide_no_nan((scores * (hits + missed)).sum(), (hits + missed).sum())
        return scores


@flax.struct.dataclass
class RSquared(clu_metrics.Metric):
    """Coefficient of determination by column, merged by centred moments.

    The sum of squares less the squared sum leaves nothing but rounding where targets have a mean
    far from zero (years, prices). Means and centred sums are merged here
    instead: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm", 1979.

    The mean is kept as one of the targets and an offset from it, because a large mean alone is
    rounded by more than what batches differ by; and constant targets then have a spread of 0.

    Attributes:
      count: weight of the examples, by column [...].
      anchor: the first target.
      offset: weighted mean of the targets, less the anchor.
      spread: weighted sum of squared deviations from the mean.
      error: weighted sum of squared errors.
    """

    count: jax.Array
    anchor: jax.Array
    offset: jax.Array
    spread: jax.Array
    error: jax.Array

    @classmethod
    def from_model_output(
        cls, outputs: jax.Array, targets: jax.Array, weights: jax.Array
    ) -> RSquared:
        """From outputs, targets and weights, all float [B, ...]."""
        count = weights.sum(0)
        first = jnp.argmax(weights != 0, axis=0, keepdims=True)
        anchor = jnp.take_along_axis(targets, first, axis=0)[0]
        relative = targets - anchor[None]
        offset = _arrays.divide_no_nan((weights * relative).sum(0), count)
        return cls(
            count=count,
            anchor=anchor,
            offset=offset,
            spread=(weights * (relative - offset[None]) ** 2).sum(0),
            error=(weights * (targets - outputs) ** 2).sum(0),
        )

    def merge(self, other: RSquared) -> RSquared:
        """Moments of both together."""
        count = self.count + other.count
        # A side without examples has no mean: the other's stands.
        anchor = jnp.where(self.count > 0, self.anchor, other.anchor)
        offset = jnp.where(self.count > 0, self.offset, other.offset)
        shift = (other.anchor - anchor) + (other.offset - offset)
        share = _arrays.divide_no_nan(other.count, count)
        return RSquared(
            count=count,
            anchor=anchor,
            offset=offset + shift * share,
            spread=self.spread + other.spread + shift * (shift * share) * self.count,
            error=self.error + other.error,
        )

    def compute(self) -> jax.Array:
        """Mean over columns; a column of constant targets scores 1 if exact, else 0."""
        constant = jnp.where(self.error == 0, 1.0, 0.0)
        varying = 1 - _arrays.divide_no_nan(self.error, self.spread)
        return jnp.where(self.spread > 0, varying, constant).mean()


# Classes whose compute() can be jitted.
JITTABLE = frozenset({Mean, ConfusionCounts, RSquared, _curves.PrAuc, _curves.RocAuc})
