import functools
import inspect

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._calls import TargetsFirst, predictions_first


def keras(y_true, y_pred, scale=1.0):
    return scale * (y_pred - 2 * y_true) ** 2


def elegy(target, preds):
    return (preds - 2 * target) ** 2


def ours(predictions, targets):
    return (predictions - 2 * targets) ** 2


@pytest.mark.parametrize("function", [keras, elegy, lambda labels, logits: elegy(labels, logits)])
def test_functions_of_targets_and_predictions_are_turned(function):
    turned = predictions_first(function)
    assert turned(3.0, 1.0) == function(1.0, 3.0) == 1.0
    assert turned == predictions_first(function)
    assert hash(turned) == hash(TargetsFirst(function))
    assert turned.__name__ == function.__name__


def test_others_are_left_alone():
    partial = functools.partial(ours)
    for function in (ours, partial, np.add, max, lambda x, y: x, lambda y, x: x, lambda logits: 1):
        assert predictions_first(function) is function
    assert str(inspect.signature(predictions_first(keras))) == "(y_true, y_pred, scale=1.0)"


def test_losses_and_metrics_are_called_in_their_order():
    predictions, targets = np.float32([3.0, 5.0]), np.float32([1.0, 2.0])
    expected = [1.0, 1.0]
    loss = fz.losses.as_loss(keras)
    np.testing.assert_array_equal(loss(predictions, targets), expected)
    assert loss == fz.losses.as_loss(keras) != fz.losses.as_loss(keras, scale=2.0)
    np.testing.assert_array_equal(fz.losses.as_loss(keras, scale=2.0)(predictions, targets), 2.0)
    values = fz.metrics.collect([elegy], predictions, targets).compute()
    assert values == {"elegy": 1.0}
