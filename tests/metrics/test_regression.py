from __future__ import annotations

import jax.numpy as jnp
import metrax
import numpy as np
import sklearn.metrics as sk
from _cases import N, collect, value_of
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxzoo import metrics


def test_mse_does_not_broadcast_columns():
    outputs, targets = np.array([[1.0], [2.0]]), np.array([1.0, 2.0])
    assert value_of(metrics.get("mse"), outputs, targets) == 0
    assert value_of(metrics.get("r2"), targets, outputs) == 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), mean=st.sampled_from([0.0, 2e3, -1e6, 3e7]))
def test_r2_of_targets_far_from_zero(seed, mean):
    rng = np.random.default_rng(seed)
    # Whatever float32 makes of them, those are the targets.
    targets = (mean + 5 * rng.normal(size=N)).astype(np.float32)
    outputs = (targets + rng.normal(size=N)).astype(np.float32)
    spec = metrics.get("r2")
    merged = metrics.MetricCollection.empty()
    for i in range(0, N, 8):
        merged = merged.merge(collect(spec, outputs[i : i + 8], targets[i : i + 8]))
    expected = sk.r2_score(targets.astype(np.float64), outputs.astype(np.float64))
    np.testing.assert_allclose(merged.compute()["r2"], expected, rtol=1e-5, atol=1e-5)


def test_metrax_r2_would_not_do():
    """Why there is a class of our own; if this fails, metrax's may serve."""
    targets = (2e3 + np.linspace(-1, 1, N)).astype(np.float32)
    outputs = targets + np.float32(0.1)
    expected = sk.r2_score(targets.astype(np.float64), outputs.astype(np.float64))
    theirs = float(metrax.RSQUARED.from_model_output(outputs, jnp.asarray(targets)).compute())
    ours = value_of(metrics.get("r2"), outputs, targets)
    assert abs(ours - expected) < 1e-4 < abs(theirs - expected)


def test_r2_of_constant_targets():
    spec, targets = metrics.get("r2"), np.full(5, 0.1, np.float32)
    assert value_of(spec, targets, targets) == 1.0
    assert value_of(spec, targets + 1, targets) == 0.0
    merged = collect(spec, targets + 1, targets).merge(collect(spec, targets[:3], targets[:3]))
    assert merged.compute()["r2"] == 0.0
