"""Areas under curves, from histograms of scores whose bins suit scores of any scale.

metrax counts decisions at evenly spaced probabilities, which lumps together logits that are all
small (probabilities near 0.5) or all large (near 0 and 1). The bins here are as fine for one scale
as for another, because they follow the floating-point format.
"""

from __future__ import annotations

from typing import TypeVar

import flax
import jax
import jax.numpy as jnp
from clu import metrics as clu_metrics

from flaxzoo.metrics._arrays import divide_no_nan

# Bins per power of two, and the powers told apart: |score| from 2**-32 to 2**32, about 2e-10 to
# 4e9. Beyond, scores are ties.
_MANTISSA_BITS = 8
_LEAST_EXPONENT, _EXPONENTS = -32, 64
_HALF = _EXPONENTS << _MANTISSA_BITS
BINS = 2 * _HALF

_Histogram = TypeVar("_Histogram", bound="ScoreHistogram")


def score_bins(scores: jax.Array) -> jax.Array:
    """Bin of each score, rising with the score.

    The bits of a positive float32, read as an integer, rise with its value; the leading ones are
    a bin of constant relative width. Negative scores mirror this.

    Args:
      scores: float [N]; NaN counts as the lowest.

    Returns:
      int32 [N], from 0 to ``BINS - 1``. -0.0 and 0.0 are the same.
    """
    scores = scores.astype(jnp.float32)
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    bits = jax.lax.bitcast_convert_type(jnp.abs(scores), jnp.int32) >> (23 - _MANTISSA_BITS)
    # 127 is the bias of float32's exponent.
    magnitude = jnp.clip(bits - ((127 + _LEAST_EXPONENT) << _MANTISSA_BITS), 0, _HALF - 1)
    return jnp.where(scores < 0, _HALF - 1 - magnitude, _HALF + magnitude)


@flax.struct.dataclass
class ScoreHistogram(clu_metrics.Metric):
    """Weight of the examples by bin of their score.

    Attributes:
      positives: weight of the examples whose truth is yes, float [BINS].
      negatives: weight of the examples whose truth is no, float [BINS].
    """

    positives: jax.Array
    negatives: jax.Array

    @classmethod
    def from_scores(
        cls: type[_Histogram], scores: jax.Array, truths: jax.Array, weights: jax.Array
    ) -> _Histogram:
        """From scores float [N], truths bool [N] and weights float [N]."""
        # A score that is NaN must not rank as a no: for a no it would be right.
        worst = jnp.where(truths, -jnp.inf, jnp.inf)
        bins = score_bins(jnp.where(jnp.isnan(scores), worst, scores))
        positives, negatives = (
            jax.ops.segment_sum(weights * truth, bins, num_segments=BINS)
            for truth in (truths, ~truths)
        )
        return cls(positives=positives, negatives=negatives)

    def merge(self: _Histogram, other: _Histogram) -> _Histogram:
        """Sum of both."""
        return jax.tree.map(jnp.add, self, other)


@flax.struct.dataclass
class RocAuc(ScoreHistogram):
    """Area under the ROC curve, by the trapezoidal rule between bins."""

    def compute(self) -> jax.Array:
        """The share of pairs of a yes and a no that are in order; ties count half."""
        positives, negatives = self.positives[::-1], self.negatives[::-1]
        above = jnp.cumsum(positives)
        share_above = divide_no_nan(above - positives / 2, above[-1])
        return divide_no_nan((negatives * share_above).sum(), negatives.sum())


@flax.struct.dataclass
class PrAuc(ScoreHistogram):
    """Area under the precision-recall curve."""

    def compute(self) -> jax.Array:
        """The area, with true and false positives growing linearly together within a bin.

        Between counts A and B of examples called yes, of which TP_A and TP_B truly are, precision
        is (TP_A + s (x - A)) / x with s = (TP_B - TP_A) / (B - A); its integral over recall is
        s (TP_B - TP_A + (TP_A - s A) log(B / A)), over all true yes.
        """
        positives, negatives = self.positives[::-1], self.negatives[::-1]
        called = positives + negatives
        true_before, called_before = (
            jnp.pad(jnp.cumsum(x)[:-1], (1, 0)) for x in (positives, called)
        )
        slope = divide_no_nan(positives, called)
        # Where nothing was called yes before, precision is constant.
        growth = jnp.log1p(divide_no_nan(called, called_before))
        area = slope * (positives + (true_before - slope * called_before) * growth)
        return divide_no_nan(area.sum(), positives.sum())
