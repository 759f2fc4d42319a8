from __future__ import annotations

import functools
import json

import flax
import jax
import jax.numpy as jnp
import metrax
import numpy as np
import pytest
from _cases import N, collect, number_data, value_of, vector_data
from clu import metrics as clu_metrics

from flaxzoo import metrics
from flaxzoo.errors import ShapeError, UnknownArgumentError, UnknownNameError


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


@pytest.mark.parametrize("weighted", [False, True])
def test_own_function_by_example_element_and_batch(weighted):
    outputs, targets = vector_data(np.random.default_rng(0))
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
        np.testing.assert_allclose(value_of(spec, outputs, targets, weights), expected, rtol=1e-6)

    def largest(outputs, targets):
        return jnp.abs(outputs - targets).max()

    # A batch's number counts as often as the batch has examples.
    spec = metrics.as_metric(largest)
    halves = [
        collect(spec, outputs[a:b], targets[a:b], None if weights is None else weights[a:b])
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
    value = value_of(metrics.as_metric(first), outputs, outputs, np.array([1.0, 0.0]))
    assert value == 1.0


def test_own_function_with_weights():
    def weighted(outputs, targets, weights):
        return metrax.Average.from_model_output(outputs, weights)

    def values(outputs, targets, weights):
        return outputs * weights

    outputs, weights = np.array([1.0, 4.0]), np.array([2.0, 1.0])
    assert value_of(metrics.as_metric(weighted), outputs, outputs, weights) == 2.0
    with pytest.raises(UnknownArgumentError, match=r"clu\.metrics\.Metric or one number"):
        metrics.as_metric(values).update(outputs, outputs, weights=weights)


def test_loss_object_is_a_metric():
    losses = pytest.importorskip("flaxzoo.losses")
    outputs, targets = number_data(np.random.default_rng(0))
    weights = np.arange(N).astype(np.float32)
    spec = metrics.as_metric(losses.get("huber", delta=2.0))
    assert spec == metrics.as_metric(losses.get("huber", delta=2.0))
    error = np.abs(outputs - targets)
    expected = np.average(np.where(error < 2, error**2 / 2, 2 * (error - 1)), weights=weights)
    assert spec.name.startswith("huber")
    np.testing.assert_allclose(value_of(spec, outputs, targets, weights), expected, rtol=1e-6)


def test_registered_function():
    @metrics.register("test_within", aliases=["test_near"])
    def within(predicted, wanted, tolerance=1.0):
        """Share of predictions within a tolerance."""
        return jnp.abs(predicted - wanted) <= tolerance

    try:
        spec = metrics.get("test_near", tolerance=0.5)
        assert spec.name == "test_near_tolerance0.5"
        assert metrics.as_metric(spec.config) == spec
        assert value_of(spec, np.array([0.4, 3.0]), np.zeros(2)) == 0.5
        assert [*metrics.info("test_within").signature.parameters] == ["tolerance"]
        # Checks of our own keywords are not theirs.
        metrics.register("test_k")(lambda outputs, targets, k=1: outputs)
        assert metrics.get("test_k", k=0.5).kwargs == (("k", 0.5),)
        metrics.register("test_largest")(Largest)
        assert value_of(metrics.get("test_largest"), np.array([1.0, 3.0]), np.zeros(2)) == 3.0
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
    assert value_of(metrics.as_metric(Largest), outputs, targets, weights) == 3.0
    # Multiplies by weights, so that padding must be cleared first.
    assert value_of(metrics.as_metric(metrax.MSE), outputs, targets, weights) == 5.0
    assert value_of(metrics.as_metric(clu_metrics.Accuracy), np.eye(3), np.arange(3)) == 1.0
    assert metrics.as_metric(Largest) == metrics.as_metric(Largest)
    # metrax's looks at its values when it computes, and so can't be jitted.
    area = metrics.as_metric(metrax.AUCPR)
    scores, truths = np.array([0.2, 0.7, 0.9]), np.array([0, 0, 1])
    assert value_of(area, scores, truths) == pytest.approx(
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


def test_several_metrics_are_one_an_iterable_a_mapping_or_a_collection_of_clu():
    collection = clu_metrics.Collection.create(
        right=clu_metrics.Accuracy, loss=clu_metrics.Average.from_output("loss")
    )
    for several, names in (
        ("acc", ["acc"]),
        (["Accuracy", "Top2Accuracy"], ["accuracy", "top2_accuracy"]),
        ({"name": "precision", "kwargs": {"average": "macro"}}, ["precision_macro"]),
        ({"right": "accuracy", "best": "top_3_acc"}, ["right", "best"]),
        (collection, ["right"]),
        (collection.empty(), ["right"]),
        ([collection, "f1"], ["right", "f1"]),
    ):
        assert [spec.name for spec in metrics.each_metric(several)] == names
    with pytest.raises(UnknownArgumentError, match="is a clu.metrics.Collection of several"):
        metrics.as_metric(collection)


def test_an_output_that_there_is_not_is_named():
    spec = metrics.as_metric(clu_metrics.Average.from_output("features"), name="features")
    with pytest.raises(UnknownArgumentError, match="wants the output 'features'; it can have: out"):
        spec.update(jnp.ones((2, 3)), jnp.zeros(2, int))
