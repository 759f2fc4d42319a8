from __future__ import annotations

import jax
import jax.numpy as jnp
import metrax
import numpy as np
import pytest
import sklearn.metrics as sk
from _cases import N, sigmoid, value_of
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxzoo import metrics
from flaxzoo.metrics import _curves


def _imbalanced(rng, n=20_000):
    """Logits of a weak model: a quarter yes, AUC about 0.83."""
    targets = (rng.uniform(size=n) < 0.25).astype(np.int32)
    return (rng.normal(size=n) + 1.35 * targets).astype(np.float32), targets


def _interpolated(targets, scores, weights):
    """Davis and Goadrich's area in float64, with a point of the curve at every score."""
    _, which = np.unique(-scores, return_inverse=True)
    yes, called = np.bincount(which, weights * targets), np.bincount(which, weights)
    yes_before, called_before = np.cumsum(yes) - yes, np.cumsum(called) - called
    slope = yes / called
    growth = np.log1p(called[1:] / called_before[1:])
    area = slope[0] * yes[0] + np.sum(
        slope[1:] * (yes[1:] + (yes_before[1:] - slope[1:] * called_before[1:]) * growth)
    )
    return area / yes.sum()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0), (0.01, 0), (1, 0), (50, 0), (1, 40)])
def test_areas_do_not_depend_on_the_scale_of_scores(scale, shift, weighted):
    rng = np.random.default_rng(11)
    scores, targets = _imbalanced(rng)
    scores = scores * np.float32(scale) + np.float32(shift)
    weights = rng.uniform(0, 2, len(scores)).astype(np.float32) if weighted else None
    specs = (metrics.get("auc"), metrics.get("auc_pr"))
    collect = jax.jit(metrics.collect, static_argnums=0)
    merged = metrics.MetricCollection.empty()
    for part in np.split(np.arange(len(scores)), 4):
        w = None if weights is None else weights[part]
        merged = merged.merge(collect(specs, scores[part], targets[part], weights=w))
    values = merged.compute()
    area = sk.roc_auc_score(targets, scores, sample_weight=weights)
    assert values["auc"] == pytest.approx(area, abs=1e-3)
    precision = sk.average_precision_score(targets, scores, sample_weight=weights)
    assert values["auc_pr"] == pytest.approx(precision, abs=1e-3)
    assert sum(leaf.size for leaf in jax.tree.leaves(merged["auc"])) <= 2**16


@pytest.mark.parametrize("bias", [0.0, 6.0, -6.0])
def test_areas_of_probabilities_are_those_of_their_logits(bias):
    """Also where all of them are close to 1 or to 0."""
    scores, targets = _imbalanced(np.random.default_rng(12), 4000)
    probabilities = sigmoid(scores + bias).astype(np.float32)
    for name, reference in (("auc", sk.roc_auc_score), ("auc_pr", sk.average_precision_score)):
        value = value_of(metrics.get(name, from_logits=False), probabilities, targets)
        assert value == pytest.approx(reference(targets, probabilities), abs=2e-3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20), levels=st.integers(1, 12))
def test_areas_with_ties_are_exact(seed, levels):
    rng = np.random.default_rng(seed)
    # Powers of two and their negatives each have a bin.
    scores = rng.choice(np.array([0.0, -0.0, 1, -1, 2, -2, 4, -4, 0.5, -0.5, 64, -64])[:levels], N)
    scores, targets = scores.astype(np.float32), rng.integers(0, 2, N)
    targets[:2] = 0, 1
    weights = rng.uniform(0.1, 2, N).astype(np.float32)
    auc = value_of(metrics.get("auc"), scores, targets, weights)
    expected = sk.roc_auc_score(targets, scores, sample_weight=weights)
    np.testing.assert_allclose(auc, expected, rtol=1e-5, atol=1e-6)
    area = value_of(metrics.get("auc_pr"), scores, targets, weights)
    np.testing.assert_allclose(area, _interpolated(targets, scores, weights), rtol=1e-5)


def test_auc_pr_is_the_interpolation_of_keras_and_metrax():
    rng = np.random.default_rng(2)
    # metrax takes probabilities and has a threshold between any two of these.
    probabilities = (rng.integers(0, 20, 200) / 20 + 0.025).astype(np.float32)
    targets, weights = rng.integers(0, 2, 200), rng.uniform(size=200).astype(np.float32)
    expected = metrax.AUCPR.from_model_output(probabilities, targets, weights, 41).compute()
    value = value_of(metrics.get("auc_pr", from_logits=False), probabilities, targets, weights)
    assert value == pytest.approx(float(expected), rel=1e-5)


def test_bins_follow_the_order_of_scores():
    tiny, huge = np.float32(1e-38), np.finfo(np.float32).max
    scores = np.array([-np.inf, -huge, -3, -1, -1e-6, -tiny, -0.0, 0, tiny, 1e-6, 1, 3, np.inf])
    bins = np.asarray(_curves.score_bins(jnp.asarray(scores, jnp.float32)))
    assert (np.diff(bins) >= 0).all()
    assert bins[6] == bins[7]
    assert (bins[0], bins[-1]) == (0, _curves.BINS - 1)
    assert len({*bins[[2, 3, 4, 7, 9, 10, 11]]}) == 7
    assert _curves.score_bins(jnp.array([jnp.nan]))[0] == 0
    # Neighbours as close as 1 in 256 are told apart wherever they lie.
    near = jnp.geomspace(1e-6, 1e6, 50, dtype=jnp.float32)
    assert (_curves.score_bins(near * (1 + 1 / 255)) > _curves.score_bins(near)).all()


def test_auc_of_decisions():
    assert value_of(metrics.get("auc"), np.array([True, False, True]), np.array([1, 0, 0])) == 0.75
