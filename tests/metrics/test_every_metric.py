"""What holds for every metric, and its value by scikit-learn."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as sk
from _cases import (
    N,
    class_data,
    collect,
    cross_entropy,
    number_data,
    sigmoid,
    token_data,
    value_of,
    vector_data,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxzoo import metrics


def binary_data(rng):
    targets = rng.integers(0, 2, N)
    targets[:2] = 0, 1
    return rng.normal(size=N).astype(np.float32) + targets, targets


def _cosine(x, y):
    return (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def _f(function, **kwargs):
    return lambda o, t, w: function(
        t, o.argmax(-1) if o.ndim > 1 else o > 0, sample_weight=w, zero_division=0, **kwargs
    )


# name, keywords, data, what it should be (in float64), tolerance.
CASES = [
    (
        "accuracy",
        {},
        class_data,
        lambda o, t, w: sk.accuracy_score(t, o.argmax(-1), sample_weight=w),
    ),
    ("accuracy", {}, binary_data, lambda o, t, w: sk.accuracy_score(t, o > 0, sample_weight=w)),
    (
        "accuracy",
        {},
        token_data,
        lambda o, t, w: np.average((o.argmax(-1) == t).mean(1), weights=w),
    ),
    (
        "binary_accuracy",
        {"threshold": 0.7},
        binary_data,
        lambda o, t, w: sk.accuracy_score(t, sigmoid(o) > 0.7, sample_weight=w),
    ),
    (
        "top_k_accuracy",
        {"k": 3},
        class_data,
        lambda o, t, w: sk.top_k_accuracy_score(t, o, k=3, sample_weight=w, labels=range(6)),
    ),
    ("precision", {}, binary_data, _f(sk.precision_score)),
    ("recall", {}, binary_data, _f(sk.recall_score)),
    ("f1", {}, binary_data, _f(sk.f1_score)),
    ("fbeta", {"beta": 2.0}, binary_data, _f(sk.fbeta_score, beta=2)),
    *(
        (name, {"average": average}, class_data, _f(function, average=average))
        for name, function in [
            ("precision", sk.precision_score),
            ("recall", sk.recall_score),
            ("f1", sk.f1_score),
        ]
        for average in ("macro", "micro", "weighted")
    ),
    ("fbeta", {"beta": 0.5, "average": "macro"}, class_data, _f(sk.fbeta_score, beta=0.5,
                                                             average="macro")),
    ("auc", {}, binary_data, lambda o, t, w: sk.roc_auc_score(t, o, sample_weight=w)),
    ("mse", {}, number_data, lambda o, t, w: sk.mean_squared_error(t, o, sample_weight=w)),
    ("mse", {}, vector_data, lambda o, t, w: sk.mean_squared_error(t, o, sample_weight=w)),
    ("rmse", {}, number_data, lambda o, t, w: sk.root_mean_squared_error(t, o, sample_weight=w)),
    ("mae", {}, number_data, lambda o, t, w: sk.mean_absolute_error(t, o, sample_weight=w)),
    ("r2", {}, number_data, lambda o, t, w: sk.r2_score(t, o, sample_weight=w)),
    ("r2", {}, vector_data, lambda o, t, w: sk.r2_score(t, o, sample_weight=w)),
    (
        "perplexity",
        {},
        token_data,
        lambda o, t, w: np.exp(np.average(cross_entropy(o, t).mean(1), weights=w)),
    ),
    ("cosine_similarity", {}, vector_data, lambda o, t, w: np.average(_cosine(o, t), weights=w)),
]  # fmt: skip


# The reference of auc_pr is below.
NO_REFERENCE = [("auc_pr", {}, binary_data), ("loss", {}, number_data)]


ALL = [(name, kwargs, data) for name, kwargs, data, _ in CASES] + NO_REFERENCE


IDS = [f"{n}-{'-'.join(map(str, k.values()))}-{d.__name__}" for n, k, d in ALL]


def test_every_metric_has_a_case():
    assert {name for name, *_ in ALL} == {
        "accuracy", "auc", "auc_pr", "binary_accuracy", "cosine_similarity", "f1", "fbeta",
        "loss", "mae", "mse", "perplexity", "precision", "r2", "recall", "rmse",
        "top_k_accuracy",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs", "data", "reference"), CASES, ids=IDS[: len(CASES)])
@pytest.mark.parametrize("weighted", [False, True])
def test_reference(name, kwargs, data, reference, weighted):
    rng = np.random.default_rng(3)
    outputs, targets = data(rng)
    weights = rng.uniform(0.1, 2, N) if weighted else np.ones(N)
    value = value_of(metrics.get(name, **kwargs), outputs, targets, weights if weighted else None)
    assert isinstance(value, float)
    expected = reference(outputs, targets, weights)
    # Scores in the same bin are ties to the area under a curve.
    np.testing.assert_allclose(value, expected, rtol=2e-6, atol=1e-3 if name == "auc" else 1e-7)


@pytest.mark.parametrize(("name", "kwargs", "data"), ALL, ids=IDS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_merged_padded_batches_equal_the_whole(name, kwargs, data, seed):
    rng = np.random.default_rng(seed)
    outputs, targets = data(rng)
    weights = rng.choice([0.0, 0.5, 1.0, 3.0], N).astype(np.float32)
    weights[:2] = 1.0
    spec = metrics.get(name, **kwargs)
    part = rng.integers(0, 3, N)
    merged = metrics.MetricCollection.empty()
    for i in range(3):
        # Rows of other parts are padding: garbage of weight 0, all to one compiled shape.
        mine = part == i
        o, t = outputs.copy(), targets.copy()
        o[~mine] = np.nan
        t[~mine] = np.nan if t.dtype == np.float32 else -7
        merged = merged.merge(collect(spec, o, t, weights * mine))
    whole = collect(spec, outputs, targets, weights)
    np.testing.assert_allclose(
        merged.compute()[name if not kwargs else spec.name], whole.compute()[spec.name], rtol=3e-6,
        atol=1e-6,
    )  # fmt: skip
    for leaf in jax.tree.leaves(merged):
        assert leaf.dtype == jnp.float32
        assert not leaf.weak_type


@pytest.mark.parametrize(("name", "kwargs", "data"), ALL, ids=IDS)
def test_merged_batches_of_unequal_size_equal_the_whole(name, kwargs, data):
    outputs, targets = data(np.random.default_rng(5))
    spec = metrics.get(name, **kwargs)
    first, second = (collect(spec, outputs[a:b], targets[a:b]) for a, b in ((0, 5), (5, N)))
    whole = collect(spec, outputs, targets)
    for merged, expected in (
        (first.merge(second), whole),
        (second.merge(first), whole),
        (first.merge(second.merge(whole)), whole.merge(whole)),
    ):
        value = expected.compute()[spec.name]
        np.testing.assert_allclose(merged.compute()[spec.name], value, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("name", "kwargs", "data"), ALL, ids=IDS)
def test_sums_of_zero_are_neutral(name, kwargs, data):
    """A scan over batches starts from zeros of the right shapes."""
    spec = metrics.get(name, **kwargs)
    collection = collect(spec, *data(np.random.default_rng(6)))
    zeros = jax.tree.map(jnp.zeros_like, collection)
    for merged in (zeros.merge(collection), collection.merge(zeros)):
        assert merged.compute() == collection.compute()
    assert np.isfinite(zeros.compute()[spec.name])


@pytest.mark.parametrize(("name", "kwargs", "data"), ALL, ids=IDS)
def test_half_precision_is_summed_in_float32(name, kwargs, data):
    outputs, targets = data(np.random.default_rng(7))
    outputs = jnp.asarray(outputs).astype(jnp.bfloat16)
    targets = jnp.asarray(targets)
    if targets.dtype == jnp.float32:
        targets = targets.astype(jnp.bfloat16)
    spec = metrics.get(name, **kwargs)
    weights = jnp.ones(N, jnp.bfloat16)
    collection = jax.eval_shape(functools.partial(collect, spec), outputs, targets, weights)
    assert {leaf.dtype for leaf in jax.tree.leaves(collection)} == {np.dtype("float32")}
