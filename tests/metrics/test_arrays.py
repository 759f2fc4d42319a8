from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _cases import N, cross_entropy, token_data, update

from flaxzoo import metrics
from flaxzoo.errors import ShapeError, UnknownArgumentError


@pytest.mark.parametrize("weight_shape", [(N,), (N, 5)])
@pytest.mark.parametrize("name", ["accuracy", "perplexity", "loss"])
def test_sequences(name, weight_shape):
    rng = np.random.default_rng(1)
    outputs, targets = token_data(rng)
    weights = rng.integers(0, 3, weight_shape).astype(np.float32)
    token_weights = np.broadcast_to(weights.reshape(N, -1), (N, 5))
    outputs[token_weights == 0] = np.nan
    entropy = np.where(token_weights, cross_entropy(outputs, targets), 0)
    expected = {
        "accuracy": np.average(np.nan_to_num(outputs).argmax(-1) == targets, weights=token_weights),
        "perplexity": np.exp(np.average(entropy, weights=token_weights)),
        "loss": np.average(entropy, weights=token_weights),
    }[name]
    loss = np.where(token_weights, entropy, np.nan) if name == "loss" else None
    spec = metrics.get(name)
    value = update(spec, outputs, targets, weights, loss).compute()[name]
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
            functools.partial(update, spec),
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
