"""Bad input to losses: every mistake has an error that names what was wrong."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo import losses
from flaxzoo.errors import DataError, ShapeError, UnknownArgumentError, UnknownNameError

F32, I32 = jnp.float32, jnp.int32
INTEGER = "softmax_cross_entropy_with_integer_labels"


def spec(*shape, dtype=F32):
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize(
    ("name", "predictions", "targets", "message"),
    [
        # Shapes that NumPy would broadcast.
        ("mse", spec(8), spec(8, 1), r"targets .*\(8, 1\) float32; it takes shape \(8,\).*broadc"),
        ("mse", spec(8, 1), spec(8), r"targets .*\(8,\) float32; it takes shape \(8, 1\).*broadc"),
        ("huber", spec(8, 3), spec(3), r"it takes shape \(8, 3\)"),
        ("bce", spec(8, 1), spec(8, dtype=I32), "broadcast"),
        ("hinge", spec(8, 3), spec(8, 1), "it takes shape"),
        ("mse", spec(8), spec(7), "batch sizes differ"),
        ("mse", spec(8), spec(), r"shape \(\) float32"),
        # One-hot and integer labels mixed up.
        (INTEGER, spec(8, 10), spec(8, 10), "'softmax_cross_entropy'"),
        ("softmax_cross_entropy", spec(8, 10), spec(8, dtype=I32), f"'{INTEGER}'"),
        (INTEGER, spec(8, 10), spec(8), r"float32; it takes integer.*astype\('int32'\)"),
        (INTEGER, spec(8, 10), spec(8, dtype=jnp.bool_), "astype"),
        (INTEGER, spec(8, 10), spec(8, 1, dtype=I32), r"Reshape the targets to \(8,\)"),
        (INTEGER, spec(8, 10), spec(7, dtype=I32), "batch sizes differ"),
        (INTEGER, spec(8, 1), spec(8, dtype=I32), "sigmoid_binary_cross_entropy"),
        (INTEGER, spec(), spec(dtype=I32), r"scores of shape \[..., num_classes\]"),
        ("crossentropy", spec(8, 10), spec(8, 9), "integer class indices"),
        ("crossentropy", spec(8, 10), spec(8), "astype"),
        ("crossentropy", spec(8, 1), spec(8, 1), "sigmoid_binary_cross_entropy"),
        ("multiclass_hinge_loss", spec(8, 10), spec(8, 10), "integer class indices"),
        # Structures.
        ("mse", (spec(8), spec(8)), spec(8), "predictions .* a tuple of 2 arrays; it takes one"),
        ("mse", spec(8), None, "targets of loss 'squared_error' is None"),
        ("kl_divergence", spec(), spec(), "vectors"),
        ("ntxent", spec(8), spec(8, dtype=I32), r"embeddings of shape \[batch, dim\]"),
        ("ntxent", spec(8, 2), spec(8), "integer group labels"),
        ("triplet", (spec(8, 2), spec(8, 2)), None, r"\(anchors, positives, negatives\)"),
        ("triplet", spec(8, 2), None, r"\(anchors, positives, negatives\)"),
        ("triplet", (spec(8, 2), spec(8, 2), spec(8, 1)), None, "negatives .*the one of the anch"),
        ("triplet", (spec(), spec(), spec()), None, "anchors .*vectors"),
        ("ctc", spec(8, 2), spec(8, 2, dtype=I32), r"\[batch, time, classes\]"),
        ("ctc", spec(8, 5, 3), spec(7, 2, dtype=I32), r"integer labels of shape \(8, max_length\)"),
        ("ctc", spec(8, 5, 3), spec(8, 2), "integer labels"),
        ("ctc", (spec(8, 5, 3), spec(8, 4)), spec(8, 2, dtype=I32), "logit_paddings"),
        ("ctc", spec(8, 5, 3), (spec(8, 2, dtype=I32), spec(8, 3)), "label_paddings"),
        ("ctc", (spec(8, 5, 3),) * 3, spec(8, 2, dtype=I32), r"the pair \(predictions, logit_pad"),
        ("ranking_softmax_loss", spec(8, 5), (spec(8, 5), spec(8, 4)), "mask"),
        ("ranking_softmax_loss", spec(8, 5), spec(8), r"it takes shape \(8, 5\)"),
        ("dice_loss", spec(8), spec(8), r"\[batch, ..., num_classes\]"),
        ("dice_loss", spec(2, 6, 3), spec(2, 6), "one-hot targets"),
        ("dice_loss", spec(2, 6, 3), spec(2, 5, 3), r"shape \(2, 6, 3\) \(one-hot\)"),
        ("binary_dice_loss", spec(2, 6), spec(2, 6, 1), r"a mask of shape \(2, 6\)"),
        ("binary_dice_loss", spec(), spec(), r"\[batch, ...\]"),
        # Nothing to average.
        ("mse", spec(0, 3), spec(0, 3), "hold no examples"),
        # Not arrays of numbers.
        ("mse", [[1.0, 2.0], [1.0]], spec(2, 2), "ragged"),
        ("mse", [np.ones(2), np.ones(3)], spec(2, 2), "unequal shapes"),
        ("mse", spec(1), ["cat"], "arrays of numbers"),
    ],
)
def test_shapes_that_do_not_fit(name, predictions, targets, message):
    with pytest.raises(ShapeError, match=message) as error:
        losses.get(name).check(predictions, targets)
    assert "\n" not in str(error.value)


def test_checks_run_under_jit_and_on_values():
    loss = losses.get("mse")
    with pytest.raises(ShapeError, match="broadcast"):
        jax.jit(loss.mean)(jnp.zeros(8), jnp.zeros((8, 1)))
    with pytest.raises(ShapeError, match="broadcast"):
        loss(np.zeros(8), np.zeros((8, 1)))
    with pytest.raises(ShapeError, match="broadcast"):
        loss.check_targets(np.zeros((8, 1)), spec(8))


def test_blank_and_class_weights_must_match_the_classes():
    with pytest.raises(ShapeError, match=r"a class in \[0, 3\)"):
        losses.get("ctc", blank_id=3).check(spec(8, 5, 3), spec(8, 2, dtype=I32))
    for name, targets in [(INTEGER, spec(8, dtype=I32)), ("softmax_cross_entropy", spec(8, 3))]:
        with pytest.raises(ShapeError, match=r"class_weights .* has 2 values; it takes 3"):
            losses.get(name, class_weights=[1, 2]).check(spec(8, 3), targets)
    with pytest.raises(ShapeError, match="it takes 2, the weights of the targets 0 and 1"):
        losses.get("bce", class_weights=[1, 2, 3]).check(spec(8, 3), spec(8, 3))


LOGITS = spec(4, 3)


@pytest.mark.parametrize(
    ("name", "predictions", "targets", "message"),
    [
        (INTEGER, LOGITS, [0, 1, 3, 9], r"hold 3, 9, first at index 2 \(2 of 4.*at least 10"),
        (INTEGER, LOGITS, [1, 2, 3, 1], "seem to start at 1"),
        (INTEGER, LOGITS, [0, 1, -1, 2], r"hold -1, first at index 2 .*\[0, 3\)"),
        (INTEGER, spec(2, 2, 3), [[0, 1], [5, 0]], r"first at index \(1, 0\)"),
        ("crossentropy", LOGITS, [0, 1, 2, 3], "class indices"),
        ("crossentropy", spec(1, 3), [[-1.0, 1.0, 1.0]], "numbers >= 0"),
        ("mse", spec(3), [0.0, np.nan, 1.0], "hold nan, first at index 1 .*finite"),
        ("mse", spec(2), np.array([np.inf, 0], np.float16), "hold inf"),
        ("mse", spec(2), jnp.array([0, jnp.nan], jnp.bfloat16), "hold nan"),
        ("msle", spec(2), [1.0, -2.0], "numbers >= 0"),
        ("softmax_cross_entropy", spec(1, 2), [[1.5, -0.5]], "hold -0.5"),
        ("bce", spec(2), [-1, 1], "hold -1.*hinge_loss"),
        ("bce", spec(2), [0, 2], r"probabilities in \[0, 1\]\.$"),
        ("hinge", spec(2), [0, 1], r"it takes -1 and 1\. Make them signs"),
        ("hinge", spec(2), [1, 5], "hold 5"),
        ("sparsemax_loss", spec(2), [0.5, 1], "it takes 0 and 1"),
        ("ntxent", spec(3, 2), [0, 1, 2], "at least one pair of equal labels"),
        ("dice_loss", spec(1, 2, 3), [[0, 3]], "class indices"),
        ("dice_loss", spec(1, 2, 1), [[0, 3]], r"\[0, 1\]"),
        ("ranking_softmax_loss", spec(1, 2), [[-1.0, 0.0]], "numbers >= 0"),
        ("ctc", spec(1, 5, 3), [[-1, 1]], "padding on the right"),
        ("ctc", spec(1, 5, 3), [[0, 1]], "other than the blank 0"),
        ("ctc", spec(1, 5, 3), [[1, 3]], r"labels in \[0, 3\)"),
        ("ctc", spec(1, 2, 3), [[1, 1]], "need 3 frames in row 0 .* have 2"),
        ("ctc", spec(1, 5, 3), ([[1, 2]], [[0, 0.5]]), "other values than 0 and 1"),
        ("mse", spec(0), [], "are empty"),
    ],
)
def test_values_that_cannot_be_trained_on(name, predictions, targets, message):
    with pytest.raises(DataError, match=message) as error:
        losses.get(name).check_targets(targets, predictions)
    assert "\n" not in str(error.value)


def test_values_that_only_look_wrong():
    losses.get("ranking_softmax_loss").check_targets(([[-1.0, 1.0]], [[0, 1]]), spec(1, 2))
    losses.get("ctc").check_targets([[1, -1, -1]], (spec(1, 2, 3), spec(1, 2)))
    losses.get("triplet").check_targets(None, (spec(2, 3),) * 3)
    losses.get("bce").check_targets([True, False], spec(2))
    losses.get(INTEGER).check_targets(np.array([0, 255], np.uint8), spec(2, 256))


def test_unknown_names_and_options():
    with pytest.raises(UnknownNameError, match="'huber'"):
        losses.get("hubber")
    with pytest.raises(UnknownArgumentError, match="does not take 'label_smoothing'"):
        losses.get("huber", label_smoothing=0.1)
    with pytest.raises(UnknownArgumentError, match="does not take 'class_weights'"):
        losses.get("mse", class_weights=[1.0])
    with pytest.raises(UnknownArgumentError, match=r"'gamma'.* It takes: delta"):
        losses.get("huber", gamma=1.0)
    with pytest.raises(UnknownArgumentError, match="needs 'max_fun'"):
        losses.get("fenchel_young")
    # The neutral value of an option asks for nothing.
    assert losses.get("mse", label_smoothing=0.0, class_weights=None) == losses.get("mse")


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: losses.get("crossentropy", label_smoothing=1.5), ValueError, r"in \[0, 1\]"),
        (lambda: losses.get("crossentropy", label_smoothing="0.1"), ValueError, "got '0.1'"),
        (
            lambda: losses.get("huber", delta=0),
            ValueError,
            "delta .* finite number above 0",
        ),
        (lambda: losses.get("ntxent", temperature=-1.0), ValueError, "temperature"),
        (
            lambda: losses.get("mse", reduction="avg"),
            ValueError,
            "'mean', 'sum', got 'avg'",
        ),
        (
            lambda: losses.get("bce", class_weights=[1, -2]),
            ValueError,
            "finite number of at least 0",
        ),
        (lambda: losses.get("bce", class_weights=2.0), ShapeError, "one number per class"),
        (lambda: losses.get("bce", class_weights=[[1, 2]]), ShapeError, "one number per class"),
        (lambda: losses.get("bce", class_weights={1: 2.0}), ShapeError, "every class from 0"),
        (lambda: losses.get("huber", delta={1, 2}), UnknownArgumentError, "must be hashable"),
        (lambda: losses.l2(-1e-4), ValueError, "l2 must be a finite number of at least 0"),
        (lambda: losses.l1(float("nan")), ValueError, "l1 must be"),
        (lambda: losses.get("mse") + 1, TypeError, "unsupported operand"),
        (lambda: losses.l1(1.0) + losses.l2(1.0), TypeError, "unsupported operand"),
        (lambda: losses.as_loss(3), UnknownArgumentError, "a name, a function"),
        (lambda: losses.as_loss(losses.get("mse"), reduction="sum"), UnknownArgumentError, "built"),
    ],
)
def test_options_that_make_no_sense(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_weights_that_do_not_fit():
    p, t = np.zeros((4, 3)), np.zeros((4, 3))
    loss = losses.get("mse")
    for weights in (np.ones((4, 1)), np.ones(3), 1.0, np.ones((4, 3, 1))):
        for call in (loss.mean, functools.partial(lambda f, p, t, w: f(p, t, weights=w), loss)):
            with pytest.raises(ShapeError, match=r"takes shape \(4,\) or \(4, 3\)"):
                call(p, t, weights)
    batch_loss = losses.get("ntxent")
    embeddings, groups = np.eye(4), np.array([0, 0, 1, 1])
    for call in (batch_loss.mean, functools.partial(batch_loss)):
        with pytest.raises(UnknownArgumentError, match="'ntxent' does not take weights"):
            call(embeddings, groups, weights=np.ones(4))


def test_users_functions_that_cannot_work():
    p, t = jnp.zeros(4), jnp.zeros((4, 1))
    with pytest.raises(ShapeError, match=r"broadcast .*\(4,\).*\(4, 1\) to \(4, 4\)"):
        losses.as_loss(lambda p, t: (p - t) ** 2).mean(p, t)
    with pytest.raises(ShapeError, match=r"returned shape \(2,\) for predictions of shape \(4,\)"):
        losses.as_loss(lambda p, t: p[:2])(p, p)
    with pytest.raises(ShapeError, match="returned a tuple"):
        losses.as_loss(lambda p, t: (p, t))(p, p)
    with pytest.raises(
        UnknownArgumentError, match=r"cannot be called as f\(predictions, targets\)"
    ):
        losses.as_loss(lambda p: p)
    with pytest.raises(UnknownArgumentError, match="Options it takes: scale"):
        losses.as_loss(lambda p, t, *, scale=1.0: p, gamma=2.0)
    scalar = losses.as_loss(lambda p, t: jnp.sum(p - t))
    with pytest.raises(UnknownArgumentError, match="does not take weights"):
        scalar.mean(p, p, np.ones(4))
    with pytest.raises(DataError, match="hold nan"):
        scalar.check_targets({"a": [0.0, np.nan]}, p)

    class Unhashable:
        __hash__ = None

        def __call__(self, predictions, targets):
            return predictions - targets

    with pytest.raises(UnknownArgumentError, match="not hashable"):
        losses.as_loss(Unhashable())


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="override=True"):
        losses.register("huber")(lambda predictions, targets: predictions)
