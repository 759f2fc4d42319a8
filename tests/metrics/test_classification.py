from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as sk
from _cases import N, class_data, collect, sigmoid, value_of

from flaxzoo import metrics
from flaxzoo.errors import UnknownArgumentError


def test_bfloat16_counts_do_not_saturate():
    outputs, targets = jnp.zeros((1000, 2), jnp.bfloat16), jnp.zeros(1000, jnp.int32)
    state = metrics.get("accuracy").update(outputs, targets, weights=jnp.ones(1000, jnp.bfloat16))
    assert state.count == 1000


def test_accuracy_by_shape():
    def value(outputs, targets, **kwargs):
        spec = metrics.get("accuracy", **kwargs)
        return value_of(spec, np.asarray(outputs), np.asarray(targets))

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
    actual = collect(tuple(probabilities), sigmoid(one).astype(np.float32), targets).compute()
    assert actual == pytest.approx(expected)


def test_binary_metrics_take_several_labels_by_example():
    outputs, targets = np.array([[3.0, -1.0, 2.0], [1.0, 1.0, -1.0]]), np.eye(2, 3)
    assert value_of(metrics.get("binary_accuracy"), outputs, targets) == pytest.approx(4 / 6)
    assert value_of(metrics.get("precision"), outputs, targets) == 0.5
    assert value_of(metrics.get("recall"), outputs, targets) == 1.0


def test_class_ids_as_outputs():
    spec = metrics.get("f1", average="macro", num_classes=4)
    outputs, targets = np.array([0, 1, 1, 2]), np.array([0, 1, 2, 2])
    assert value_of(spec, outputs, targets) == pytest.approx(
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
    assert value_of(metrics.get("top2_accuracy"), outputs, np.array([0, -1, 3])) == pytest.approx(
        1 / 3
    )
    assert np.isnan(value_of(metrics.get("perplexity"), outputs, np.array([0, -1, 3])))


def test_top_k_ties_and_nan():
    def value(outputs, targets, k):
        spec = metrics.get("top_k_accuracy", k=k)
        return value_of(spec, np.asarray(outputs), np.asarray(targets))

    # A model that gives all classes one score knows nothing: the first k ids win.
    same = np.zeros((4, 4))
    assert [value(same, np.arange(4), k) for k in (1, 2, 4)] == [0.25, 0.5, 1.0]
    assert value(np.full((2, 3), np.nan), [0, 2], 2) == 0.0
    outputs, targets = class_data(np.random.default_rng(0))
    assert value(outputs, targets, 1) == value_of(metrics.get("accuracy"), outputs, targets)
    assert value(outputs, targets, 9) == 1.0
    assert value(outputs, np.eye(6)[targets], 3) == value(outputs, targets, 3)


def test_perplexity_of_probabilities_and_of_a_uniform_guess():
    logits, targets = np.zeros((2, 3, 11), np.float32), np.zeros((2, 3), int)
    assert value_of(metrics.get("perplexity"), logits, targets) == pytest.approx(11)
    uniform = metrics.get("perplexity", from_logits=False)
    assert value_of(uniform, np.full((2, 3, 11), 1 / 11), targets) == pytest.approx(11)


NAN = np.float32("nan")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("accuracy", {}),
        ("top1_accuracy", {}),
        ("top2_accuracy", {}),
        ("f1", {"average": "micro"}),
        ("f1", {"average": "macro"}),
        ("recall", {"average": "weighted"}),
    ],
)
@pytest.mark.parametrize("row", [[NAN] * 3, [NAN, 0.0, 1.0], [3.0, NAN, 1.0]])
def test_scores_that_are_nan_are_the_right_class_of_none(name, options, row):
    outputs = np.array([row] * 4, np.float32)
    spec = metrics.get(name, **options)
    for labels in (np.array([0, 1, 2, 0]), np.eye(3)[[0, 1, 2, 0]], np.full(4, 3)):
        assert value_of(spec, outputs, labels) == 0.0
    # Of the others nothing changes, and padding may still hold anything.
    mixed = np.concatenate([outputs[:1], np.eye(3, dtype=np.float32)])
    assert value_of(metrics.get("accuracy"), mixed, np.array([0, 0, 1, 2])) == 0.75
    weights = np.array([0.0, 1, 1, 1])
    assert collect(spec, mixed, np.array([0, 0, 1, 2]), weights=weights).compute()[spec.name] == 1.0


@pytest.mark.parametrize("name", ["accuracy", "binary_accuracy", "f1", "recall", "precision"])
@pytest.mark.parametrize("from_logits", [True, False])
def test_a_score_that_is_nan_answers_neither_yes_nor_no(name, from_logits):
    spec = metrics.get(name, from_logits=from_logits)
    for outputs in (np.full(4, NAN), np.full((4, 2), NAN)):
        assert value_of(spec, outputs, np.array([0, 1, 0, 1])) == 0.0
        assert value_of(spec, outputs, np.zeros(4, int)) == 0.0


@pytest.mark.parametrize("from_logits", [True, False])
def test_a_score_that_is_nan_ranks_on_the_wrong_side(from_logits):
    spec = metrics.get("auc", from_logits=from_logits)
    assert value_of(spec, np.full(4, NAN), np.array([0, 1, 0, 1])) == 0.0
    scores, truths = np.array([0.1, NAN, 0.8, 0.9]), np.array([0, 0, 1, 1])
    assert value_of(spec, scores, truths) == 0.5
    assert value_of(metrics.get("auc_pr", from_logits=from_logits), scores, truths) < 0.6


def test_one_hot_rows_that_are_nan_are_no_label():
    assert value_of(metrics.get("accuracy"), np.eye(3), np.full((3, 3), NAN)) == 0.0
