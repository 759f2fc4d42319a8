"""Values of every loss: published references, closed forms, options, and the weighted mean."""

from __future__ import annotations

import functools
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.nn import logsumexp

from flaxzoo import losses
from flaxzoo.losses import optax_losses

# The example that the reference values of the tutorials come from.
PREDICTIONS = [0.5, 0.6, 0.7, 0.3, 0.25]
TARGETS = [0.2, 0.3, 0.1, 0.2, 0.2]

F32 = jnp.float32
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 2])
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
A = RNG.normal(size=(4, 3)).astype(np.float32)
B = RNG.normal(size=(4, 3)).astype(np.float32)
BITS = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 1]])
SIGNS = 2 * BITS - 1
P = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
Q = np.abs(A) / np.abs(A).sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bce(logits, targets):
    p = sigmoid(logits)
    return -targets * np.log(p) - (1 - targets) * np.log(1 - p)


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def dice(probabilities, targets, smooth=1.0, alpha=0.5, beta=0.5):
    overlap = (probabilities * targets).sum(1)
    fp, fn = probabilities.sum(1) - overlap, targets.sum(1) - overlap
    return 1 - (overlap + smooth) / (overlap + alpha * fp + beta * fn + smooth)


def p_true(p):
    return np.where(BITS == 1, p, 1 - p)


SEG = RNG.normal(size=(2, 6, 3)).astype(np.float32)
SEG_P = np.exp(SEG) / np.exp(SEG).sum(-1, keepdims=True)
SEG_LABELS = RNG.integers(0, 3, size=(2, 6))
SEG_ONE_HOT = np.eye(3, dtype=np.float32)[SEG_LABELS]
NEGATIVES = A - B + 0.1
PAIRS = np.array([0, 0, 1, 1])


def by_margin():
    margin = LOGITS + 1 - ONE_HOT
    return margin.max(-1) - LOGITS[range(4), LABELS]


def sparsemax_binary(logits, targets):
    z = np.where(targets, -logits, logits)
    return np.where(z <= -1, 0, np.where(z >= 1, z, (z + 1) ** 2 / 4))


def ntxent_by_hand(x, labels, temperature):
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    s = np.exp(x @ x.T / temperature)
    terms = [
        -np.log(s[i, j] / (s[i, j] + s[i, labels != labels[i]].sum()))
        for i in range(len(x))
        for j in range(len(x))
        if i != j and labels[i] == labels[j]
    ]
    return np.mean(terms)


def triplet_by_hand():
    def distance(other):
        return np.sqrt(((A - other) ** 2).sum(-1) + 1e-6)

    return np.maximum(distance(B) - distance(NEGATIVES) + 1, 0)


def generalized_dice_by_hand():
    weights = 1 / (SEG_ONE_HOT.sum((0, 1)) ** 2 + 1e-7)
    weights = weights / weights.sum() * 3
    return (weights * dice(SEG_P, SEG_ONE_HOT)).mean()


D = A - B
CE = -np.log(P)[range(4), LABELS]
KL = (Q * (np.log(Q) - np.log(P))).sum(-1)
# One line per canonical name: predictions, targets, options, the closed form.
CASES = {
    "squared_error": (A, B, {}, D**2),
    "l2_loss": (A, B, {}, D**2 / 2),
    "huber_loss": (
        A,
        B,
        {"delta": 0.5},
        np.where(np.abs(D) < 0.5, D**2 / 2, 0.5 * (np.abs(D) - 0.25)),
    ),
    "log_cosh": (A, B, {}, np.log(np.cosh(D))),
    "mean_absolute_error": (A, B, {}, np.abs(D)),
    "mean_absolute_percentage_error": (A, B, {}, 100 * np.abs(D / B)),
    "mean_squared_logarithmic_error": (
        np.abs(A),
        np.abs(B),
        {},
        (np.log(1 + np.abs(A)) - np.log(1 + np.abs(B))) ** 2,
    ),
    "cosine_similarity": (A, B, {}, cosine(A, B)),
    "negative_cosine_similarity": (A, B, {}, -cosine(A, B)),
    "cosine_distance": (A, B, {}, 1 - cosine(A, B)),
    "softmax_cross_entropy": (LOGITS, ONE_HOT, {}, CE),
    "safe_softmax_cross_entropy": (LOGITS, ONE_HOT, {}, CE),
    "softmax_cross_entropy_with_integer_labels": (LOGITS, LABELS, {}, CE),
    "crossentropy": (LOGITS, LABELS, {}, CE),
    "poly_loss_cross_entropy": (
        LOGITS,
        ONE_HOT,
        {"epsilon": 1.5},
        CE + 1.5 * (1 - P[range(4), LABELS]),
    ),
    "sigmoid_binary_cross_entropy": (LOGITS, BITS, {}, bce(LOGITS, BITS)),
    "binary_crossentropy": (LOGITS, BITS, {}, bce(LOGITS, BITS)),
    "sigmoid_focal_loss": (
        LOGITS,
        BITS,
        {"alpha": 0.25, "gamma": 1.5},
        np.where(BITS == 1, 0.25, 0.75) * (1 - p_true(sigmoid(LOGITS))) ** 1.5 * bce(LOGITS, BITS),
    ),
    "hinge_loss": (A, SIGNS, {}, np.maximum(0, 1 - A * SIGNS)),
    "perceptron_loss": (A, SIGNS, {}, np.maximum(0, -A * SIGNS)),
    "sparsemax_loss": (A, BITS, {}, sparsemax_binary(A, BITS)),
    "multiclass_hinge_loss": (LOGITS, LABELS, {}, by_margin()),
    "multiclass_perceptron_loss": (
        LOGITS,
        LABELS,
        {},
        LOGITS.max(-1) - LOGITS[range(4), LABELS],
    ),
    # With scores this close together the simplex projection keeps all three classes.
    "multiclass_sparsemax_loss": (
        LOGITS / 10,
        LABELS,
        {},
        ((LOGITS / 10 - LOGITS.mean(-1, keepdims=True) / 10 + 1 / 3) * LOGITS / 10).sum(-1)
        + (1 - ((LOGITS / 10 - LOGITS.mean(-1, keepdims=True) / 10 + 1 / 3) ** 2).sum(-1)) / 2
        - LOGITS[range(4), LABELS] / 10,
    ),
    "kl_divergence": (np.log(P), Q, {}, KL),
    "kl_divergence_with_log_targets": (np.log(P), np.log(Q), {}, KL),
    "generalized_kl_divergence": (
        np.log(2 * P),
        Q,
        {},
        (Q * (np.log(Q) - np.log(2 * P)) + 2 * P - Q).sum(-1),
    ),
    "make_fenchel_young_loss": (LOGITS, ONE_HOT, {"max_fun": logsumexp}, CE),
    "ranking_softmax_loss": (LOGITS, BITS, {}, -(BITS * np.log(P)).sum(-1)),
    "triplet_margin_loss": ((A, B, NEGATIVES), None, {}, triplet_by_hand()),
    "ntxent": (A, PAIRS, {"temperature": 0.5}, ntxent_by_hand(A, PAIRS, 0.5)),
    "dice_loss": (SEG, SEG_ONE_HOT, {}, dice(SEG_P, SEG_ONE_HOT).mean(-1)),
    "multiclass_generalized_dice_loss": (SEG, SEG_ONE_HOT, {}, generalized_dice_by_hand()),
    "binary_dice_loss": (LOGITS, BITS, {}, dice(sigmoid(LOGITS), BITS)),
    # Two frames, the label 1 of classes {0: blank, 1}: the paths 11, 01 and 10.
    "ctc_loss": (
        [[[0.0, 1.0], [0.0, 2.0]]],
        [[1]],
        {},
        [-np.log(1 - (1 - sigmoid(1.0)) * (1 - sigmoid(2.0)))],
    ),
}


def build(name, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "cosine_similarity is 1")
        return losses.get(name, **options)


def test_every_name_has_a_closed_form():
    assert sorted(CASES) == losses.list()


def arrays(tree):
    return jax.tree.map(jnp.asarray, tree, is_leaf=lambda x: isinstance(x, list))


@pytest.mark.parametrize("name", sorted(CASES))
def test_closed_form(name):
    predictions, targets, options, expected = CASES[name]
    loss = build(name, **options)
    p, t = arrays((predictions, targets))
    assert loss.gives_per_example(p, t) == loss.per_example

    @jax.jit
    def compute(p, t):
        mean, grad = jax.value_and_grad(loss.mean)(p, t)
        return loss(p, t), mean, loss.values(p, t) if loss.per_example else 0.0, grad

    raw, mean, values, grad = compute(p, t)
    assert raw.dtype == mean.dtype == jnp.float32
    np.testing.assert_allclose(raw, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(mean, np.mean(expected), rtol=2e-5)
    if loss.per_example:
        per_example = np.asarray(expected).reshape(len(expected), -1).mean(1)
        np.testing.assert_allclose(values, per_example, rtol=2e-5, atol=2e-6)
    # Equal scores, zero vectors, equal distributions: where a gradient could be 0 / 0.
    for gradient in (grad, compute(jax.tree.map(jnp.zeros_like, p), t)[-1]):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    loss.check_targets(targets, predictions)
    assert losses.info(name).summary


@pytest.mark.parametrize("name", sorted(set(CASES) - {"make_fenchel_young_loss"}))
def test_config_rebuilds_an_equal_loss(name):
    loss = build(name, **CASES[name][2], reduction="mean") + losses.l2(1e-4)
    config = json.loads(json.dumps(loss.config))
    assert build(**config) == loss
    assert hash(build(**config)) == hash(loss)


def test_optax_is_covered():
    names = optax_losses.functions()
    # A new optax may bring a loss that this package has not been told about: classify it.
    assert optax_losses.unclassified() == []
    assert set(names) - set(optax_losses.EXCLUDED) <= {n for n in names if n in losses.REGISTRY}
    assert set(optax_losses.EXCLUDED) == {"smooth_labels"}
    assert losses.get("ctc_loss_with_forward_probs").name == "ctc_loss"
    assert losses.get("convex_kl_divergence").name == "generalized_kl_divergence"


def test_a_loss_that_a_newer_optax_brings(monkeypatch):
    def brand_new_loss(outputs, labels, *, power=2.0):
        return jnp.abs(outputs - labels) ** power

    def not_called_like_a_loss(outputs, labels, third):
        return outputs

    monkeypatch.setattr(optax.losses, "brand_new_loss", brand_new_loss, raising=False)
    monkeypatch.setattr(optax.losses, "odd", not_called_like_a_loss, raising=False)
    optax_losses.register_rest()
    try:
        np.testing.assert_allclose(losses.get("brand_new_loss", power=3.0)(A, B), abs(D) ** 3, 1e-5)
        assert optax_losses.unclassified() == ["brand_new_loss", "odd"]
    finally:
        del losses.REGISTRY._entries["brand_new_loss"]


@pytest.mark.parametrize(
    ("name", "predictions", "targets", "options"),
    [
        ("dice_loss", SEG, SEG_ONE_HOT, {"alpha": 0.3, "beta": 0.7, "smooth": 0.1}),
        ("dice_loss", SEG, SEG_ONE_HOT, {"ignore_background": True}),
        ("dice_loss", SEG, SEG_ONE_HOT, {"class_weights": jnp.array([1.0, 2.0, 0.5])}),
        ("multiclass_generalized_dice_loss", SEG, SEG_ONE_HOT, {"ignore_background": True}),
        ("binary_dice_loss", LOGITS, BITS, {"smooth": 0.5}),
    ],
)
def test_dice_equals_optax(name, predictions, targets, options):
    expected = getattr(optax.losses, name)(predictions, targets, **options)
    got = losses.get(name, **options)(predictions, targets)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


# Reference values that the tutorials print.


def test_tutorial_values():
    assert float(losses.get("sigmoid_binary_cross_entropy")(0.5, 0)) == pytest.approx(0.974077)
    assert float(losses.get("softmax_cross_entropy")(PREDICTIONS, TARGETS)) == pytest.approx(
        1.6341426, rel=1e-7
    )
    np.testing.assert_allclose(
        losses.get("huber")(PREDICTIONS, TARGETS), [0.045, 0.045, 0.18, 0.005, 0.00125], rtol=1e-5
    )
    np.testing.assert_allclose(
        losses.get("log_cosh")(PREDICTIONS, TARGETS),
        [0.04434085, 0.04434085, 0.17013526, 0.00499171, 0.00124949],
        rtol=2e-5,
    )
    np.testing.assert_allclose(
        losses.smooth_labels(TARGETS, 0.4), [0.2, 0.26, 0.14, 0.2, 0.2], rtol=1e-6
    )


# Names and options.


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("mse", "squared_error"),
        ("mean_squared_error", "squared_error"),
        ("mae", "mean_absolute_error"),
        ("mape", "mean_absolute_percentage_error"),
        ("msle", "mean_squared_logarithmic_error"),
        ("huber", "huber_loss"),
        ("focal", "sigmoid_focal_loss"),
        ("bce", "binary_crossentropy"),
        ("cross_entropy", "crossentropy"),
        ("triplet", "triplet_margin_loss"),
        ("ctc", "ctc_loss"),
    ],
)
def test_aliases(alias, name):
    assert losses.get(alias) == losses.get(name)
    assert losses.get(alias).name == name


def test_crossentropy_takes_labels_or_one_hot_and_logits_or_probabilities():
    for targets in (LABELS, ONE_HOT):
        np.testing.assert_allclose(losses.get("crossentropy")(LOGITS, targets), CE, rtol=1e-5)
        from_probabilities = losses.get("crossentropy", from_logits=False)
        # Keras scales probabilities to a sum of one, so that twice the numbers change nothing.
        np.testing.assert_allclose(from_probabilities(2 * P, targets), CE, rtol=1e-5)
    got = losses.get("binary_crossentropy", from_logits=False)(sigmoid(LOGITS), BITS)
    np.testing.assert_allclose(got, bce(LOGITS, BITS), rtol=1e-5)
    certain = losses.get("binary_crossentropy", from_logits=False)([0.0, 1.0], [1, 0])
    np.testing.assert_allclose(certain, -np.log(1e-7), rtol=0.02)


@pytest.mark.parametrize(
    "name",
    ["softmax_cross_entropy", "safe_softmax_cross_entropy", "crossentropy"],
)
def test_label_smoothing_of_classes(name):
    smooth = 0.9 * ONE_HOT + 0.1 / 3
    expected = -(smooth * np.log(P)).sum(-1)
    np.testing.assert_allclose(
        losses.get(name, label_smoothing=0.1)(LOGITS, ONE_HOT), expected, rtol=1e-5
    )
    by_index = losses.get("softmax_cross_entropy_with_integer_labels", label_smoothing=0.1)
    np.testing.assert_allclose(by_index(LOGITS, LABELS), expected, rtol=1e-5)


def test_label_smoothing_of_binary_targets():
    got = losses.get("bce_with_logits", label_smoothing=0.2)(LOGITS, BITS)
    np.testing.assert_allclose(got, bce(LOGITS, 0.8 * BITS + 0.1), rtol=1e-5)
    got = losses.get("focal", gamma=0.0, label_smoothing=0.2)(LOGITS, BITS)
    np.testing.assert_allclose(got, bce(LOGITS, 0.8 * BITS + 0.1), rtol=1e-5)


@pytest.mark.parametrize(
    "weights", [[1.0, 2.0, 3.0], np.array([1.0, 2.0, 3.0]), {0: 1.0, 1: 2.0, 2: 3.0}]
)
def test_class_weights_multiply_each_examples_loss(weights):
    expected = CE * np.array([1.0, 2.0, 3.0])[LABELS]
    for name, targets in [
        ("softmax_cross_entropy_with_integer_labels", LABELS),
        ("softmax_cross_entropy", ONE_HOT),
        ("crossentropy", LABELS),
    ]:
        loss = losses.get(name, class_weights=weights)
        np.testing.assert_allclose(loss(LOGITS, targets), expected, rtol=1e-5)
        np.testing.assert_allclose(loss.mean(LOGITS, targets), expected.mean(), rtol=1e-5)
        assert loss == losses.get(name, class_weights=(1.0, 2.0, 3.0))


def test_class_weights_of_binary_targets():
    got = losses.get("sigmoid_binary_cross_entropy", class_weights=[1.0, 4.0])(LOGITS, BITS)
    np.testing.assert_allclose(got, bce(LOGITS, BITS) * np.where(BITS, 4, 1), rtol=1e-5)


def test_reductions():
    weights = np.array([1.0, 0.0, 2.0, 0.5])
    raw = D**2
    weighted = raw * weights[:, None]
    none, mean, total = (losses.get("mse", reduction=r) for r in ("none", "mean", "sum"))
    np.testing.assert_allclose(none(A, B, weights=weights), weighted, rtol=1e-5)
    np.testing.assert_allclose(total(A, B, weights=weights), weighted.sum(), rtol=1e-5)
    np.testing.assert_allclose(mean(A, B, weights=weights), weighted.sum() / 3 / 3.5, rtol=1e-5)
    np.testing.assert_allclose(mean(A, B), raw.mean(), rtol=1e-5)
    assert float(mean(2.0, 1.0, weights=0.5)) == 1.0


def test_python_numbers_and_lists():
    assert float(losses.get("mse")(3, 1)) == 4.0
    assert float(losses.get("mse").mean(3, 1)) == 4.0
    assert float(losses.get("crossentropy")([0, 0], 1)) == pytest.approx(np.log(2))
    rows = [jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])]
    np.testing.assert_allclose(losses.get("mse").values(rows, [[0, 0], [0, 0]]), [2.5, 12.5])
    np.testing.assert_allclose(losses.get("mse").values([1.0, 2.0], [0, 0]), [1.0, 4.0])


# Structured conventions.


def test_segmentation_takes_class_indices_and_masks():
    for name in ("dice_loss", "multiclass_generalized_dice_loss"):
        loss = losses.get(name)
        np.testing.assert_allclose(loss(SEG, SEG_LABELS), loss(SEG, SEG_ONE_HOT))
        probabilities = losses.get(name, apply_softmax=False)
        np.testing.assert_allclose(
            jax.jit(probabilities)(SEG_P, SEG_ONE_HOT), loss(SEG, SEG_LABELS), 1e-5
        )
    mask = BITS[..., None]
    for predictions, targets in [(LOGITS[..., None], mask), (LOGITS[..., None], BITS)]:
        for name in ("dice_loss", "binary_dice_loss"):
            np.testing.assert_allclose(
                losses.get(name)(predictions, targets), dice(sigmoid(LOGITS), BITS), rtol=1e-5
            )


def test_ctc_paddings_and_negative_labels_agree():
    logits = RNG.normal(size=(2, 6, 4)).astype(np.float32)
    labels = np.array([[1, 2, 2], [3, -1, -1]])
    loss = jax.jit(losses.get("ctc"))
    plain = loss(logits, labels)
    paddings = (labels < 0).astype(np.float32)
    np.testing.assert_allclose(loss(logits, (np.abs(labels), paddings)), plain, rtol=1e-6)
    frames = np.zeros((2, 6))
    frames[1, 4:] = 1
    short = loss((logits[1:, :4], np.zeros((1, 4))), labels[1:])
    np.testing.assert_allclose(loss((logits, frames), labels)[1:], short, rtol=1e-5)


def test_ranking_mask_removes_items():
    mask = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1], [0, 0, 0]])
    loss = losses.get("ranking_softmax_loss")
    got = loss(LOGITS, (BITS, mask))
    np.testing.assert_allclose(got[0], loss(LOGITS[0, :2], BITS[0, :2]), rtol=1e-5)
    assert float(got[3]) == 0.0
    assert np.isfinite(jax.grad(lambda p: loss.mean(p, (BITS, mask)))(LOGITS)).all()


def test_triplet_of_odd_degree_sums_absolute_differences():
    got = losses.get("triplet", norm_degree=1)((A, B, NEGATIVES), None)
    expected = np.abs(A - B).sum(-1) - np.abs(A - NEGATIVES).sum(-1) + 1
    np.testing.assert_allclose(got, np.maximum(expected, 0), rtol=1e-4)
    stacked = losses.get("triplet", norm_degree=1)(jnp.stack([A, B, NEGATIVES]), None)
    np.testing.assert_allclose(stacked, got)


def test_cosine_similarity_warns_that_it_grows():
    with pytest.warns(UserWarning, match="negative_cosine_similarity"):
        losses.get("cosine_similarity")


# Weighted means.

finite = st.floats(-5, 5, width=32)
examples = st.lists(st.tuples(finite, finite, st.integers(0, 3)), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(examples)
def test_weighted_mean_is_the_mean_over_repeated_examples(rows):
    p, t, w = (np.array(column, np.float32) for column in zip(*rows, strict=True))
    got = losses.get("mse").mean(p, t, w)
    repeated = np.repeat((p - t) ** 2, w.astype(int))
    expected = repeated.mean() if repeated.size else 0.0
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=4, max_size=4), st.sampled_from([np.nan, np.inf, 1e30]))
def test_weight_zero_removes_an_example(keep, garbage):
    keep = np.array(keep)
    logits = np.where(keep[:, None], LOGITS, garbage)
    loss = losses.get("crossentropy")
    got = loss.mean(logits, LABELS, keep)
    np.testing.assert_allclose(got, CE[keep].mean() if keep.any() else 0.0, rtol=1e-5)


def test_weights_per_element_of_a_sequence():
    logits = RNG.normal(size=(2, 3, 5)).astype(np.float32)
    labels = np.array([[0, 1, 2], [3, 4, 0]])
    mask = np.array([[1, 1, 0], [1, 0, 0]], bool)
    loss = losses.get("softmax_cross_entropy_with_integer_labels")
    raw = np.asarray(loss(logits, labels))
    np.testing.assert_allclose(loss.mean(logits, labels, mask), raw[mask].mean(), rtol=1e-6)
    np.testing.assert_allclose(loss.values(logits, labels), raw.mean(1), rtol=1e-6)


def test_half_precision_is_reduced_in_float32():
    # 1 + 1/256 has no bfloat16: the sum of 1000 such losses would stick.
    predictions = jnp.full((1000,), 1.0, jnp.bfloat16)
    got = losses.get("mae").mean(predictions, jnp.full((1000,), -1 / 256, jnp.float32))
    assert float(got) == pytest.approx(1 + 1 / 256, rel=1e-6)
    for name, targets in [("crossentropy", LABELS), ("squared_error", A), ("ntxent", PAIRS)]:
        loss = losses.get(name)
        for dtype in (jnp.bfloat16, jnp.float16):
            half = jnp.asarray(LOGITS, dtype)
            np.testing.assert_array_equal(loss(half, targets), loss(half.astype(F32), targets))
            assert loss.mean(half, targets).dtype == F32
            assert jax.grad(loss.mean)(half, targets).dtype == dtype


# Gradients where they could fail.


@pytest.mark.parametrize(
    ("name", "predictions", "targets"),
    [
        ("cosine_distance", np.zeros((2, 3)), np.ones((2, 3))),
        ("cosine_distance", np.zeros((2, 3)), np.zeros((2, 3))),
        ("log_cosh", [1e4, -1e30], [0.0, 0.0]),
        ("softmax_cross_entropy", [[1e30, -1e30, 0.0]], [[0.0, 1.0, 0.0]]),
        ("crossentropy", [[1e4, -1e4, 0.0]], [1]),
        ("safe_softmax_cross_entropy", [[-np.inf, 1.0, 0.0]], [[0.0, 1.0, 0.0]]),
        ("sigmoid_binary_cross_entropy", [1e4, -1e4], [0, 1]),
        ("focal", [100.0, -100.0, 0.0], [0, 1, 1]),
        ("focal", [100.0, -100.0, 0.0], [1, 0, 0]),
        ("triplet", np.ones((3, 2, 4)), None),
        ("msle", [-1.0, 0.0], [0.0, 1.0]),
        ("kl_divergence", [[-1.0, -2.0]], [[0.0, 1.0]]),
        ("mape", [1.0], [0.0]),
    ],
)
def test_gradient_is_finite(name, predictions, targets):
    predictions = jnp.asarray(predictions, jnp.float32)
    value, grad = jax.jit(jax.value_and_grad(losses.get(name).mean))(predictions, arrays(targets))
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


# Regularisers.

PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([10.0])},
    "norm": {"scale": jnp.array([[10.0]])},
}


def test_regularizers_add_to_any_loss():
    loss = losses.get("mse") + losses.l2(0.1) + losses.l1(0.01)
    assert float(loss.regularization(PARAMS)) == pytest.approx(0.5 + 0.03)
    assert loss == losses.get("mse", regularizers=[losses.l2(0.1), losses.l1(0.01)])
    assert float(losses.get("mse").regularization(PARAMS)) == 0.0
    both = losses.l1_l2(0.01, 0.1) + losses.get("mse")
    assert float(both.regularization(PARAMS)) == pytest.approx(0.53)
    every = losses.get("mse") + losses.l2(0.1, all_parameters=True)
    assert float(every.regularization(PARAMS)) == pytest.approx(0.1 * 205)
    grad = jax.grad(loss.regularization)(PARAMS)
    np.testing.assert_allclose(grad["dense"]["kernel"], [[0.21, -0.41]], rtol=1e-6)
    assert float(grad["dense"]["bias"][0]) == 0.0
    # The penalty is no part of the loss itself.
    np.testing.assert_allclose(loss(A, B), losses.get("mse")(A, B))


def test_regularizers_sum_in_float32_and_skip_integers():
    params = {"kernel": jnp.full((100, 100), 0.1, jnp.bfloat16), "table": jnp.ones((2, 2), int)}
    value = losses.l1(1.0)(params)
    assert value.dtype == jnp.float32
    assert float(value) == pytest.approx(1e4 * float(jnp.bfloat16(0.1)), rel=1e-5)


# Equality, hashing and users' own functions.


def test_equal_losses_do_not_recompile():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def step(loss, p, t):
        traces.append(loss)
        return loss.mean(p, t)

    for options in ({}, {"delta": 1.0}, {"delta": 1}):
        step(losses.get("huber", **options) + losses.l2(1e-4), A, B)
    assert len(traces) == 1
    step(losses.get("huber", delta=2.0) + losses.l2(1e-4), A, B)
    step(losses.get("huber") + losses.l2(1e-3), A, B)
    assert len(traces) == 3


def own_loss(predictions, targets, *, power=2):
    return jnp.abs(predictions - targets) ** power


def batch_loss(predictions, targets):
    return jnp.max(jnp.abs(predictions - targets))


def test_users_function():
    loss = losses.as_loss(own_loss, power=3)
    np.testing.assert_allclose(loss(A, B), np.abs(D) ** 3, rtol=1e-5)
    np.testing.assert_allclose(loss.values(A, B), (np.abs(D) ** 3).mean(1), rtol=1e-5)
    assert loss == losses.as_loss(functools.partial(own_loss, power=3))
    assert loss.name == "own_loss"
    assert loss.config is None
    assert loss.gives_per_example(A, B)
    assert losses.as_loss(loss) is loss
    assert "power=3" in repr(loss)


def test_users_scalar_function():
    loss = losses.as_loss(batch_loss)
    assert float(jax.jit(loss.mean)(A, B)) == pytest.approx(np.abs(D).max())
    assert not loss.gives_per_example(A, jax.ShapeDtypeStruct(B.shape, B.dtype))
    structured = losses.as_loss(lambda p, t: p["a"] * t["w"])
    np.testing.assert_allclose(structured({"a": [1.0, 2.0]}, {"w": [3, 4]}), [3.0, 8.0])


def test_optax_function_is_the_registered_loss():
    assert losses.as_loss(optax.huber_loss, delta=2.0) == losses.get("huber", delta=2.0)
    assert losses.as_loss("huber") == losses.get("huber")


def test_register_a_loss():
    @losses.register("test_only_loss", aliases=["test_alias"])
    def test_only_loss(outputs, labels, *, scale=1.0):
        """Scaled difference.

        More text.
        """
        return scale * (outputs - labels)

    try:
        loss = losses.get("test_alias", scale=2.0)
        assert float(loss(3, 1)) == 4.0
        assert loss.config == {"name": "test_only_loss", "scale": 2.0}
        assert losses.info("test_only_loss").summary == "Scaled difference."
    finally:
        del losses.REGISTRY._entries["test_only_loss"], losses.REGISTRY._aliases["test_alias"]


def test_repr_says_how_to_build_it():
    loss = losses.get("crossentropy", label_smoothing=0.1) + losses.l2(0.01)
    assert repr(loss) == (
        "Loss('crossentropy', label_smoothing=0.1)"
        " + Regularizer(l1=0.0, l2=0.01, all_parameters=False)"
    )
