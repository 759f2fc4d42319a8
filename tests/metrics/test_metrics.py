from __future__ import annotations

import functools
import json

import flax
import jax
import jax.numpy as jnp
import metrax
import numpy as np
import pytest
import sklearn.metrics as sk
from clu import metrics as clu_metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxzoo import metrics
from flaxzoo.errors import ShapeError, UnknownArgumentError, UnknownNameError
from flaxzoo.metrics import _curves

N = 24


def _binary(rng):
    targets = rng.integers(0, 2, N)
    targets[:2] = 0, 1
    return rng.normal(size=N).astype(np.float32) + targets, targets


def _classes(rng):
    return rng.normal(size=(N, 6)).astype(np.float32), rng.integers(0, 6, N)


def _numbers(rng):
    targets = rng.normal(size=N).astype(np.float32)
    return targets + 0.3 * rng.normal(size=N).astype(np.float32), targets


def _vectors(rng):
    return tuple(rng.normal(size=(N, 3)).astype(np.float32) for _ in range(2))


def _tokens(rng):
    return rng.normal(size=(N, 5, 7)).astype(np.float32), rng.integers(0, 7, (N, 5))


def _p(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def _cross_entropy(x, y):
    x = x.astype(np.float64)
    logp = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return -np.take_along_axis(logp, y[..., None], -1)[..., 0]


def _cosine(x, y):
    return (x * y).sum(-1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(y, axis=-1)


def _f(function, **kwargs):
    return lambda o, t, w: function(
        t, o.argmax(-1) if o.ndim > 1 else o > 0, sample_weight=w, zero_division=0, **kwargs
    )


# name, keywords, data, what it should be (in float64), tolerance.
CASES = [
    ("accuracy", {}, _classes, lambda o, t, w: sk.accuracy_score(t, o.argmax(-1), sample_weight=w)),
    ("accuracy", {}, _binary, lambda o, t, w: sk.accuracy_score(t, o > 0, sample_weight=w)),
    (
        "accuracy",
        {},
        _tokens,
        lambda o, t, w: np.average((o.argmax(-1) == t).mean(1), weights=w),
    ),
    (
        "binary_accuracy",
        {"threshold": 0.7},
        _binary,
        lambda o, t, w: sk.accuracy_score(t, _p(o) > 0.7, sample_weight=w),
    ),
    (
        "top_k_accuracy",
        {"k": 3},
        _classes,
        lambda o, t, w: sk.top_k_accuracy_score(t, o, k=3, sample_weight=w, labels=range(6)),
    ),
    ("precision", {}, _binary, _f(sk.precision_score)),
    ("recall", {}, _binary, _f(sk.recall_score)),
    ("f1", {}, _binary, _f(sk.f1_score)),
    ("fbeta", {"beta": 2.0}, _binary, _f(sk.fbeta_score, beta=2)),
    *(
        (name, {"average": average}, _classes, _f(function, average=average))
        for name, function in [
            ("precision", sk.precision_score),
            ("recall", sk.recall_score),
            ("f1", sk.f1_score),
        ]
        for average in ("macro", "micro", "weighted")
    ),
    ("fbeta", {"beta": 0.5, "average": "macro"}, _classes, _f(sk.fbeta_score, beta=0.5,
                                                             average="macro")),
    ("auc", {}, _binary, lambda o, t, w: sk.roc_auc_score(t, o, sample_weight=w)),
    ("mse", {}, _numbers, lambda o, t, w: sk.mean_squared_error(t, o, sample_weight=w)),
    ("mse", {}, _vectors, lambda o, t, w: sk.mean_squared_error(t, o, sample_weight=w)),
    ("rmse", {}, _numbers, lambda o, t, w: sk.root_mean_squared_error(t, o, sample_weight=w)),
    ("mae", {}, _numbers, lambda o, t, w: sk.mean_absolute_error(t, o, sample_weight=w)),
    ("r2", {}, _numbers, lambda o, t, w: sk.r2_score(t, o, sample_weight=w)),
    ("r2", {}, _vectors, lambda o, t, w: sk.r2_score(t, o, sample_weight=w)),
    (
        "perplexity",
        {},
        _tokens,
        lambda o, t, w: np.exp(np.average(_cross_entropy(o, t).mean(1), weights=w)),
    ),
    ("cosine_similarity", {}, _vectors, lambda o, t, w: np.average(_cosine(o, t), weights=w)),
]  # fmt: skip
# The reference of auc_pr is below.
NO_REFERENCE = [("auc_pr", {}, _binary), ("loss", {}, _numbers)]
ALL = [(name, kwargs, data) for name, kwargs, data, _ in CASES] + NO_REFERENCE
IDS = [f"{n}-{'-'.join(map(str, k.values()))}-{d.__name__}" for n, k, d in ALL]


def test_every_metric_has_a_case():
    assert {name for name, *_ in ALL} == {
        "accuracy", "auc", "auc_pr", "binary_accuracy", "cosine_similarity", "f1", "fbeta",
        "loss", "mae", "mse", "perplexity", "precision", "r2", "recall", "rmse",
        "top_k_accuracy",
    }  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def _update(spec, outputs, targets, weights=None, loss=None):
    return metrics.collect([spec], outputs, targets, weights=weights, loss=loss)


def _collect(spec, outputs, targets, weights=None):
    loss = (outputs - targets) ** 2 if spec.name == "loss" else None
    return _update(spec, outputs, targets, weights, loss)


def _value(spec, *args):
    return _collect(spec, *args).compute()[spec.name]


@pytest.mark.parametrize(("name", "kwargs", "data", "reference"), CASES, ids=IDS[: len(CASES)])
@pytest.mark.parametrize("weighted", [False, True])
def test_reference(name, kwargs, data, reference, weighted):
    rng = np.random.default_rng(3)
    outputs, targets = data(rng)
    weights = rng.uniform(0.1, 2, N) if weighted else np.ones(N)
    value = _value(metrics.get(name, **kwargs), outputs, targets, weights if weighted else None)
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
        merged = merged.merge(_collect(spec, o, t, weights * mine))
    whole = _collect(spec, outputs, targets, weights)
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
    first, second = (_collect(spec, outputs[a:b], targets[a:b]) for a, b in ((0, 5), (5, N)))
    whole = _collect(spec, outputs, targets)
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
    collection = _collect(spec, *data(np.random.default_rng(6)))
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
    collection = jax.eval_shape(functools.partial(_collect, spec), outputs, targets, weights)
    assert {leaf.dtype for leaf in jax.tree.leaves(collection)} == {np.dtype("float32")}


def test_bfloat16_counts_do_not_saturate():
    outputs, targets = jnp.zeros((1000, 2), jnp.bfloat16), jnp.zeros(1000, jnp.int32)
    state = metrics.get("accuracy").update(outputs, targets, weights=jnp.ones(1000, jnp.bfloat16))
    assert state.count == 1000


# Shapes


def test_accuracy_by_shape():
    def value(outputs, targets, **kwargs):
        spec = metrics.get("accuracy", **kwargs)
        return _value(spec, np.asarray(outputs), np.asarray(targets))

    logits = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert value(logits, [0, 1]) == 0.5
    assert value(logits, [[0], [1]]) == 0.5
    assert value(logits, [[1, 0, 0], [0, 1.0, 0]]) == 0.5
    assert value([[1.0], [-1.0]], [1, 1]) == 0.5
    assert value([1.0, -1.0], [[1.0], [0.0]]) == 1.0
    assert value([0.6, 0.4], [1, 0], from_logits=False) == 1.0
    assert value([0.6, 0.4], [1, 0]) == 0.5
    assert value([2, 1, 0, 3], [2, 1, 1, 1]) == 0.5
    assert value([True, False], [True, True]) == 0.5


def test_two_class_outputs_are_the_binary_question():
    rng = np.random.default_rng(0)
    two = rng.normal(size=(N, 2)).astype(np.float32)
    one, targets = two[:, 1] - two[:, 0], rng.integers(0, 2, N)
    names = ("binary_accuracy", "precision", "recall", "f1", "auc", "auc_pr")
    probabilities = [metrics.get(name, from_logits=False) for name in names]
    collect = jax.jit(metrics.collect, static_argnums=0)
    expected = collect(names, one, targets).compute()
    assert collect(names, two, targets).compute() == pytest.approx(expected)
    actual = collect(tuple(probabilities), _p(one).astype(np.float32), targets).compute()
    assert actual == pytest.approx(expected)


def test_binary_metrics_take_several_labels_by_example():
    outputs, targets = np.array([[3.0, -1.0, 2.0], [1.0, 1.0, -1.0]]), np.eye(2, 3)
    assert _value(metrics.get("binary_accuracy"), outputs, targets) == pytest.approx(4 / 6)
    assert _value(metrics.get("precision"), outputs, targets) == 0.5
    assert _value(metrics.get("recall"), outputs, targets) == 1.0


def test_class_ids_as_outputs():
    spec = metrics.get("f1", average="macro", num_classes=4)
    outputs, targets = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    assert _value(spec, outputs, targets) == pytest.approx(
        sk.f1_score(targets, outputs, average="macro")
    )
    with pytest.raises(UnknownArgumentError, match="need num_classes"):
        metrics.get("f1", average="macro").update(outputs, targets)


def test_labels_out_of_range_count_for_no_class():
    outputs = np.eye(3, dtype=np.float32)
    state = metrics.get("recall", average="macro").update(outputs, np.array([0, -1, 3]))
    np.testing.assert_array_equal(state.true_positives, [1, 0, 0])
    np.testing.assert_array_equal(state.false_negatives, [0, 0, 0])
    np.testing.assert_array_equal(state.false_positives, [0, 1, 1])
    assert _value(metrics.get("top2_accuracy"), outputs, np.array([0, -1, 3])) == pytest.approx(
        1 / 3
    )
    assert np.isnan(_value(metrics.get("perplexity"), outputs, np.array([0, -1, 3])))


@pytest.mark.parametrize("weight_shape", [(N,), (N, 5)])
@pytest.mark.parametrize("name", ["accuracy", "perplexity", "loss"])
def test_sequences(name, weight_shape):
    rng = np.random.default_rng(1)
    outputs, targets = _tokens(rng)
    weights = rng.integers(0, 3, weight_shape).astype(np.float32)
    token_weights = np.broadcast_to(weights.reshape(N, -1), (N, 5))
    outputs[token_weights == 0] = np.nan
    entropy = np.where(token_weights, _cross_entropy(outputs, targets), 0)
    expected = {
        "accuracy": np.average(np.nan_to_num(outputs).argmax(-1) == targets, weights=token_weights),
        "perplexity": np.exp(np.average(entropy, weights=token_weights)),
        "loss": np.average(entropy, weights=token_weights),
    }[name]
    loss = np.where(token_weights, entropy, np.nan) if name == "loss" else None
    spec = metrics.get(name)
    value = _update(spec, outputs, targets, weights, loss).compute()[name]
    np.testing.assert_allclose(value, expected, rtol=2e-6)


def test_token_weights_weigh_a_loss_by_sequence():
    outputs, weights = np.zeros((2, 3)), np.array([[1, 1, 1], [1, 0, 0]])
    collection = metrics.collect((), outputs, outputs, weights=weights, loss=np.array([1.0, 3.0]))
    assert collection.compute() == {"loss": 1.5}


@pytest.mark.parametrize(
    ("name", "kwargs", "outputs", "targets", "message"),
    [
        ("accuracy", {}, (4, 10), (3,), r"targets has shape \(3,\).*class labels \(4,\)"),
        ("accuracy", {}, (4, 10), (4, 9), r"one-hot rows \(4, 10\)"),
        ("accuracy", {}, (4,), (3,), r"takes the shape of outputs, \(4,\)"),
        ("top_k_accuracy", {}, (4,), (4,), r"outputs has shape \(4,\), takes \[batch"),
        ("precision", {}, (4, 3), (4,), r"^precision: average='macro', 'micro' or 'weighted' is n"),
        ("f1", {}, (4, 3), (4, 1), r"^f1: average='macro'.*outputs of shape \(4, 3\)"),
        ("recall", {}, (4, 3), (3,), r"^recall: average='macro'.*targets of shape \(3,\)"),
        ("auc", {}, (4, 3), (4,), "^auc: scores of several classes need another metric"),
        ("precision", {"average": "macro"}, (4,), (4,), r"takes \[batch, \.\.\., classes\]"),
        ("f1", {"average": "macro", "num_classes": 5}, (4, 3), (4,), r"takes \[\.\.\., 5\]"),
        ("mse", {}, (4, 3), (4,), r"targets has shape \(4,\)"),
        ("r2", {}, (), (), r"scalar"),
        ("cosine_similarity", {}, (4, 3), (4, 1), r"both take \[\.\.\., D\]"),
        ("perplexity", {}, (4, 5, 7), (4,), r"class labels \(4, 5\)"),
    ],
)
def test_shapes_that_do_not_fit(name, kwargs, outputs, targets, message):
    spec = metrics.get(name, **kwargs)
    with pytest.raises(ShapeError, match=message) as error:
        jax.eval_shape(
            functools.partial(_update, spec),
            jax.ShapeDtypeStruct(outputs, jnp.float32),
            jax.ShapeDtypeStruct(targets, jnp.int32),
        )
    assert str(error.value).startswith(name)


def test_other_bad_inputs():
    outputs, labels = np.zeros((4, 3)), np.zeros(4, int)
    accuracy = metrics.get("accuracy")
    with pytest.raises(ShapeError, match=r"weights has shape \(3,\), takes \(4,\)"):
        accuracy.update(outputs, labels, weights=np.ones(3))
    with pytest.raises(ShapeError, match="class labels are integers"):
        accuracy.update(outputs, labels.astype(float))
    with pytest.raises(ShapeError, match="outputs is a dict, takes one array"):
        accuracy.update({"logits": outputs}, labels)
    with pytest.raises(UnknownArgumentError, match="loss"):
        metrics.get("loss").update(outputs, labels)


# Numbers


def test_mse_does_not_broadcast_columns():
    outputs, targets = np.array([[1.0], [2.0]]), np.array([1.0, 2.0])
    assert _value(metrics.get("mse"), outputs, targets) == 0
    assert _value(metrics.get("r2"), targets, outputs) == 1


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
        merged = merged.merge(_collect(spec, outputs[i : i + 8], targets[i : i + 8]))
    expected = sk.r2_score(targets.astype(np.float64), outputs.astype(np.float64))
    np.testing.assert_allclose(merged.compute()["r2"], expected, rtol=1e-5, atol=1e-5)


def test_metrax_r2_would_not_do():
    """Why there is a class of our own; if this fails, metrax's may serve."""
    targets = (2e3 + np.linspace(-1, 1, N)).astype(np.float32)
    outputs = targets + np.float32(0.1)
    expected = sk.r2_score(targets.astype(np.float64), outputs.astype(np.float64))
    theirs = float(metrax.RSQUARED.from_model_output(outputs, jnp.asarray(targets)).compute())
    ours = _value(metrics.get("r2"), outputs, targets)
    assert abs(ours - expected) < 1e-4 < abs(theirs - expected)


def test_r2_of_constant_targets():
    spec, targets = metrics.get("r2"), np.full(5, 0.1, np.float32)
    assert _value(spec, targets, targets) == 1.0
    assert _value(spec, targets + 1, targets) == 0.0
    merged = _collect(spec, targets + 1, targets).merge(_collect(spec, targets[:3], targets[:3]))
    assert merged.compute()["r2"] == 0.0


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
    probabilities = _p(scores + bias).astype(np.float32)
    for name, reference in (("auc", sk.roc_auc_score), ("auc_pr", sk.average_precision_score)):
        value = _value(metrics.get(name, from_logits=False), probabilities, targets)
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
    auc = _value(metrics.get("auc"), scores, targets, weights)
    expected = sk.roc_auc_score(targets, scores, sample_weight=weights)
    np.testing.assert_allclose(auc, expected, rtol=1e-5, atol=1e-6)
    area = _value(metrics.get("auc_pr"), scores, targets, weights)
    np.testing.assert_allclose(area, _interpolated(targets, scores, weights), rtol=1e-5)


def test_auc_pr_is_the_interpolation_of_keras_and_metrax():
    rng = np.random.default_rng(2)
    # metrax takes probabilities and has a threshold between any two of these.
    probabilities = (rng.integers(0, 20, 200) / 20 + 0.025).astype(np.float32)
    targets, weights = rng.integers(0, 2, 200), rng.uniform(size=200).astype(np.float32)
    expected = metrax.AUCPR.from_model_output(probabilities, targets, weights, 41).compute()
    value = _value(metrics.get("auc_pr", from_logits=False), probabilities, targets, weights)
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
    assert _value(metrics.get("auc"), np.array([True, False, True]), np.array([1, 0, 0])) == 0.75


def test_top_k_ties_and_nan():
    def value(outputs, targets, k):
        spec = metrics.get("top_k_accuracy", k=k)
        return _value(spec, np.asarray(outputs), np.asarray(targets))

    # A model that gives all classes one score knows nothing: the first k ids win.
    same = np.zeros((4, 4))
    assert [value(same, np.arange(4), k) for k in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert value(np.full((2, 3), np.nan), [0, 2], 2) == 0.0
    outputs, targets = _classes(np.random.default_rng(0))
    assert value(outputs, targets, 1) == _value(metrics.get("accuracy"), outputs, targets)
    assert value(outputs, targets, 9) == 1.0
    assert value(outputs, np.eye(6)[targets], 3) == value(outputs, targets, 3)


def test_scores_that_are_not_defined_are_zero():
    outputs, targets = np.full(3, -1.0), np.zeros(3, int)
    names = ("precision", "recall", "f1", "auc", "auc_pr")
    values = jax.jit(metrics.collect, static_argnums=0)(names, outputs, targets).compute()
    assert values == dict.fromkeys(names, 0.0)
    assert _value(metrics.get("accuracy"), outputs, targets, np.zeros(3)) == 0.0
    assert _value(metrics.get("cosine_similarity"), np.zeros((2, 3)), np.ones((2, 3))) == 0.0


def test_perplexity_of_probabilities_and_of_a_uniform_guess():
    logits, targets = np.zeros((2, 3, 11), np.float32), np.zeros((2, 3), int)
    assert _value(metrics.get("perplexity"), logits, targets) == pytest.approx(11)
    uniform = metrics.get("perplexity", from_logits=False)
    assert _value(uniform, np.full((2, 3, 11), 1 / 11), targets) == pytest.approx(11)


# Choosing metrics


def test_specs_are_hashable_equal_and_named():
    get = metrics.get
    assert get("accuracy") == get("accuracy")
    assert hash(get("f1", average="macro")) == hash(get("f1", average="macro"))
    assert get("f1", average="macro") != get("f1")
    assert get("top3_accuracy") == get("top_k_accuracy", k=3)
    assert get("fbeta", beta=2) == get("fbeta", beta=2) != get("fbeta", beta=3)
    names = {
        "top5_accuracy": get("top5_accuracy"),
        "top3_accuracy": get("top_k_accuracy", k=3),
        "top10_accuracy": get("top10_accuracy"),
        "precision_macro": get("precision", average="macro", num_classes=7),
        "precision_threshold0.3": get("precision", threshold=0.3, from_logits=False),
        "fbeta_beta2": get("fbeta", beta=2.0),
        "auroc": get("auroc"),
        "mine": get("f1", name="mine"),
    }
    assert {name: spec.name for name, spec in names.items()} == {name: name for name in names}
    assert get("top_k_accuracy").name == "top5_accuracy"
    assert repr(get("fbeta", beta=2)) == "MetricSpec(fbeta_beta2, beta=2)"


def test_equal_specs_compile_once():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def step(specs, outputs, targets):
        traces.append(1)
        return metrics.collect(specs, outputs, targets)

    for _ in range(3):
        specs = (metrics.get("accuracy"), metrics.get("f1", average="macro"))
        step(specs, np.eye(3), np.arange(3))
    assert len(traces) == 1


@pytest.mark.parametrize(
    "spec",
    [
        metrics.get("accuracy"),
        metrics.get("top7_accuracy"),
        metrics.get("auroc", from_logits=False),
        metrics.get("fbeta", beta=0.5, average="weighted"),
        metrics.get("f1", name="mine"),
    ],
)
def test_config_survives_json(spec):
    config = json.loads(json.dumps(spec.config))
    assert metrics.from_config(config) == metrics.as_metric(config) == spec


def test_plain_config_is_plain():
    assert metrics.get("accuracy").config == {"name": "accuracy", "kwargs": {}}
    assert metrics.get("top3_accuracy").config == {"name": "top_k_accuracy", "kwargs": {"k": 3}}


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "message"),
    [
        ("acuracy", {}, UnknownNameError, "'accuracy'"),
        ("accuracy", {"treshold": 1}, UnknownArgumentError, "It takes: from_logits"),
        ("accuracy", {"weights": 1}, UnknownArgumentError, "does not take 'weights'"),
        ("fbeta", {}, UnknownArgumentError, "needs 'beta'"),
        ("fbeta", {"beta": 0}, ValueError, "beta takes a positive number, got 0"),
        ("f1", {"average": "mean"}, ValueError, "'binary' or 'micro' or 'macro' or 'weighted'"),
        ("top0_accuracy", {}, ValueError, "k takes an integer of at least 1"),
        ("top_k_accuracy", {"k": 2.5}, ValueError, "got 2.5"),
        ("auc", {"num_thresholds": 200}, UnknownArgumentError, "It takes: from_logits"),
        ("precision", {"threshold": 3}, ValueError, "between 0 and 1"),
    ],
)
def test_bad_choices(name, kwargs, error, message):
    with pytest.raises(error, match=message):
        metrics.get(name, **kwargs)


def test_info_and_list():
    assert metrics.list("top*") == ["top_k_accuracy"]
    info = metrics.info("top3_accuracy")
    assert [*info.signature.parameters] == ["k"]
    for name in metrics.list():
        info = metrics.info(name)
        assert len(info.summary) > 15
        assert not {"outputs", "targets", "weights", "loss"} & {*info.signature.parameters}


# A user's own


@pytest.mark.parametrize("weighted", [False, True])
def test_own_function_by_example_element_and_batch(weighted):
    outputs, targets = _vectors(np.random.default_rng(0))
    weights = np.random.default_rng(1).integers(0, 3, N) if weighted else None
    error = np.abs(outputs - targets)

    def by_example(outputs, targets):
        return jnp.abs(outputs - targets).mean(-1)

    def by_element(outputs, targets):
        return jnp.abs(outputs - targets)

    expected = np.average(error.mean(1), weights=weights)
    for function in (by_example, by_element):
        spec = metrics.as_metric(function)
        assert spec.name == function.__name__
        assert spec.config is None
        np.testing.assert_allclose(_value(spec, outputs, targets, weights), expected, rtol=1e-6)

    def largest(outputs, targets):
        return jnp.abs(outputs - targets).max()

    # A batch's number counts as often as the batch has examples.
    spec = metrics.as_metric(largest)
    halves = [
        _collect(spec, outputs[a:b], targets[a:b], None if weights is None else weights[a:b])
        for a, b in ((0, 8), (8, N))
    ]
    share = [8, N - 8] if weights is None else [weights[:8].sum(), weights[8:].sum()]
    expected = np.average([error[:8].max(), error[8:].max()], weights=share)
    value = halves[0].merge(halves[1]).compute()["largest"]
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_own_function_names():
    def scaled(outputs, targets, scale=1.0):
        return scale * outputs

    class Callable:
        def __call__(self, outputs, targets):
            return outputs

    assert metrics.as_metric(functools.partial(scaled, scale=2.0)).name == "scaled"
    assert metrics.as_metric(Callable()).name == "Callable"
    assert metrics.as_metric(scaled, name="other").name == "other"
    assert metrics.as_metric("accuracy", name="acc").name == "acc"
    spec = metrics.get("accuracy")
    assert metrics.as_metric(spec) is spec
    with pytest.raises(UnknownArgumentError, match="got int: 3"):
        metrics.as_metric(3)
    with pytest.raises(UnknownArgumentError, match="'kwargs'"):
        metrics.as_metric({"name": "accuracy", "k": 1})


def test_own_function_ignores_padding_and_masks_nan():
    def first(outputs, targets):
        return outputs[:, 0]

    outputs = np.array([[1.0], [np.nan]])
    value = _value(metrics.as_metric(first), outputs, outputs, np.array([1.0, 0.0]))
    assert value == 1.0


def test_own_function_with_weights():
    def weighted(outputs, targets, weights):
        return metrax.Average.from_model_output(outputs, weights)

    def values(outputs, targets, weights):
        return outputs * weights

    outputs, weights = np.array([1.0, 4.0]), np.array([2.0, 1.0])
    assert _value(metrics.as_metric(weighted), outputs, outputs, weights) == 2.0
    with pytest.raises(UnknownArgumentError, match=r"clu\.metrics\.Metric or one number"):
        metrics.as_metric(values).update(outputs, outputs, weights=weights)


def test_loss_object_is_a_metric():
    losses = pytest.importorskip("flaxzoo.losses")
    outputs, targets = _numbers(np.random.default_rng(0))
    weights = np.arange(N).astype(np.float32)
    spec = metrics.as_metric(losses.get("huber", delta=2.0))
    assert spec == metrics.as_metric(losses.get("huber", delta=2.0))
    error = np.abs(outputs - targets)
    expected = np.average(np.where(error < 2, error**2 / 2, 2 * (error - 1)), weights=weights)
    assert spec.name.startswith("huber")
    np.testing.assert_allclose(_value(spec, outputs, targets, weights), expected, rtol=1e-6)


def test_registered_function():
    @metrics.register("test_within", aliases=["test_near"])
    def within(predicted, wanted, tolerance=1.0):
        """Share of predictions within a tolerance."""
        return jnp.abs(predicted - wanted) <= tolerance

    try:
        spec = metrics.get("test_near", tolerance=0.5)
        assert spec.name == "test_near_tolerance0.5"
        assert metrics.as_metric(spec.config) == spec
        assert _value(spec, np.array([0.4, 3.0]), np.zeros(2)) == 0.5
        assert [*metrics.info("test_within").signature.parameters] == ["tolerance"]
        # Checks of our own keywords are not theirs.
        metrics.register("test_k")(lambda outputs, targets, k=1: outputs)
        assert metrics.get("test_k", k=0.5).kwargs == (("k", 0.5),)
        metrics.register("test_largest")(Largest)
        assert _value(metrics.get("test_largest"), np.array([1.0, 3.0]), np.zeros(2)) == 3.0
        with pytest.raises(UnknownArgumentError, match="takes no keywords"):
            metrics.get("test_largest", value=1)
    finally:
        for name in ("test_within", "test_k", "test_largest"):
            metrics.REGISTRY._entries.pop(name, None)
        metrics.REGISTRY._aliases.pop("test_near", None)


@flax.struct.dataclass
class Largest(clu_metrics.Metric):
    value: jax.Array

    @classmethod
    def from_model_output(cls, predictions, labels, mask=None):
        error = jnp.abs(predictions - labels)
        return cls(value=jnp.where(True if mask is None else mask, error, 0).max())

    def merge(self, other):
        return Largest(value=jnp.maximum(self.value, other.value))

    def compute(self):
        return self.value


def test_metric_classes():
    outputs, targets = np.array([1.0, np.nan, 3.0]), np.zeros(3)
    weights = np.array([1.0, 0.0, 1.0])
    assert _value(metrics.as_metric(Largest), outputs, targets, weights) == 3.0
    # Multiplies by weights, so that padding must be cleared first.
    assert _value(metrics.as_metric(metrax.MSE), outputs, targets, weights) == 5.0
    assert _value(metrics.as_metric(clu_metrics.Accuracy), np.eye(3), np.arange(3)) == 1.0
    assert metrics.as_metric(Largest) == metrics.as_metric(Largest)
    # metrax's looks at its values when it computes, and so can't be jitted.
    area = metrics.as_metric(metrax.AUCPR)
    scores, truths = np.array([0.2, 0.7, 0.9]), np.array([0, 0, 1])
    assert _value(area, scores, truths) == pytest.approx(
        float(metrax.AUCPR.from_model_output(scores, truths).compute())
    )
    loss = clu_metrics.Average.from_output("loss")
    state = metrics.as_metric(loss).update(outputs, targets, weights=weights, loss=outputs)
    assert state.compute() == 2.0


def test_metric_classes_that_do_not_fit():
    outputs = np.zeros(3)
    with pytest.raises(UnknownArgumentError, match="takes no weights"):
        metrics.as_metric(metrax.Precision).update(outputs, outputs, weights=np.ones(3))
    with pytest.raises(UnknownArgumentError, match="needs values"):
        metrics.as_metric(clu_metrics.Average).update(outputs, outputs)
    with pytest.raises(ShapeError, match="weights has shape"):
        metrics.as_metric(metrax.MSE).update(outputs, outputs, weights=np.ones(2))


# Collections


def _sample(weights=None):
    outputs, targets = _classes(np.random.default_rng(0))
    return metrics.collect(
        ("top2_accuracy", "accuracy"), outputs, targets, weights=weights, loss=np.arange(N)
    )


def test_collection_order_items_and_repr():
    collection = jax.jit(_sample)()
    assert [*collection.compute()] == ["loss", "top2_accuracy", "accuracy"]
    assert [*collection] == [*collection.metrics] == ["loss", "top2_accuracy", "accuracy"]
    assert len(collection) == 3
    assert "loss" in collection
    assert collection["loss"].compute() == (N - 1) / 2
    assert repr(collection).startswith("MetricCollection(loss=11.5, top2_accuracy=0.")
    with pytest.raises(UnknownNameError, match="'accuracy'"):
        collection["acuracy"]
    assert repr(metrics.MetricCollection.empty()) == "MetricCollection()"
    assert metrics.MetricCollection.empty().compute() == {}
    shown = []
    jax.jit(lambda c: shown.append(repr(c)))(collection)
    assert shown == ["MetricCollection(loss, top2_accuracy, accuracy)"]


def test_empty_is_neutral():
    collection, empty = _sample(), metrics.MetricCollection.empty()
    assert empty.merge(collection) is collection
    assert collection.merge(empty) is collection
    assert len(empty.merge(empty)) == 0


def test_merge_is_jitted_once_and_works_inside_jit_and_scan():
    from flaxzoo.metrics import _collection

    a, b = _sample(), _sample(np.arange(N))
    a.merge(b)
    before = _collection._merge._cache_size()
    for _ in range(3):
        merged = a.merge(b)
    assert _collection._merge._cache_size() == before
    inside = jax.jit(lambda a, b: a.merge(b))(a, b)
    assert inside.compute() == merged.compute()
    stacked = jax.tree.map(lambda *x: jnp.stack(x), a, b)
    zeros = jax.tree.map(jnp.zeros_like, a)
    scanned, _ = jax.lax.scan(lambda total, x: (total.merge(x), None), zeros, stacked)
    for name, value in merged.compute().items():
        assert scanned.compute()[name] == pytest.approx(value, rel=1e-6)


def test_merge_of_different_metrics():
    outputs, targets = _classes(np.random.default_rng(0))
    one = metrics.collect("accuracy", outputs, targets)
    two = metrics.collect(["accuracy", "top2_accuracy"], outputs, targets)
    with pytest.raises(UnknownNameError, match="accuracy and accuracy, top2_accuracy"):
        one.merge(two)
    reordered = metrics.collect(["top2_accuracy", "accuracy"], outputs, targets)
    assert two.merge(reordered).compute() == two.compute()


def test_two_metrics_of_one_name():
    outputs, targets = _classes(np.random.default_rng(0))
    metrics.collect(["accuracy", "accuracy"], outputs, targets)
    with pytest.raises(UnknownArgumentError, match="two different metrics are called 'accuracy'"):
        metrics.collect(
            ["accuracy", metrics.get("top2_accuracy", name="accuracy")], outputs, targets
        )


def test_loss_is_always_there_when_given():
    outputs = np.zeros((4, 3))
    for loss, expected in ((np.array([1.0, 2, 3, 4]), 2.5), (np.float32(7), 7.0)):
        assert metrics.collect((), outputs, outputs, loss=loss).compute() == {"loss": expected}
    weights = np.array([1.0, 1, 0, 0])
    collection = metrics.collect(
        (), outputs, outputs, weights=weights, loss=np.array([1, 2, np.nan, np.inf])
    )
    assert collection.compute() == {"loss": 1.5}
    # A scalar loss weighs as much as its batch does.
    merged = metrics.collect((), outputs, outputs, weights=weights, loss=1.0).merge(
        metrics.collect((), outputs, outputs, loss=4.0)
    )
    assert merged.compute() == {"loss": 3.0}


def test_metric_that_is_no_number():
    def vector(outputs, targets, weights):
        return PerClass(values=outputs.sum(0))

    collection = metrics.collect([vector], np.ones((2, 3)), np.ones(2))
    with pytest.raises(ShapeError, match=r"'vector' has shape \(3,\)"):
        collection.compute()


@flax.struct.dataclass
class PerClass(clu_metrics.Metric):
    values: jax.Array

    def compute(self):
        return self.values


def test_collections_of_different_classes_are_different_to_jit():
    # JAX alone finds these two equal, and now and then computes one by the other's program.
    sums = {"total": jnp.ones(()), "count": jnp.full((), 4.0)}
    mse, rmse = metrax.MSE(**sums), metrax.RMSE(**sums)
    if jax.__version_info__ >= (0, 10):
        assert jax.tree.structure(mse) == jax.tree.structure(rmse)
    trees = [jax.tree.structure(metrics.MetricCollection.create({"error": m})) for m in (mse, rmse)]
    assert trees[0] != trees[1]
    merged = jax.jit(lambda m: m.merge(m))(metrics.MetricCollection.create({"error": rmse}))
    assert jax.tree.structure(merged) == trees[1]
    assert merged.compute() == {"error": 0.5}
