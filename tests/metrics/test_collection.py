from __future__ import annotations

import flax
import jax
import jax.numpy as jnp
import metrax
import numpy as np
import pytest
from _cases import N, class_data
from clu import metrics as clu_metrics

from flaxzoo import metrics
from flaxzoo.errors import ShapeError, UnknownArgumentError, UnknownNameError


def _sample(weights=None):
    outputs, targets = class_data(np.random.default_rng(0))
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
    outputs, targets = class_data(np.random.default_rng(0))
    one = metrics.collect("accuracy", outputs, targets)
    two = metrics.collect(["accuracy", "top2_accuracy"], outputs, targets)
    with pytest.raises(UnknownNameError, match="accuracy and accuracy, top2_accuracy"):
        one.merge(two)
    reordered = metrics.collect(["top2_accuracy", "accuracy"], outputs, targets)
    assert two.merge(reordered).compute() == two.compute()


def test_two_metrics_of_one_name():
    outputs, targets = class_data(np.random.default_rng(0))
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
