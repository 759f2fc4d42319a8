"""Values and gradients of every loss: published references and closed forms."""

from __future__ import annotations

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.nn import logsumexp

from flaxzoo import losses
from flaxzoo.losses import optax_losses, registry

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
    # Other tests and the documentation register losses of their own.
    ours = [name for name in losses.list() if losses.REGISTRY.entry(name) in registry._TRAITS]
    assert sorted(CASES) == ours


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
        return loss(p, t), mean, loss.values(p, t), grad

    raw, mean, values, grad = compute(p, t)
    assert raw.dtype == mean.dtype == jnp.float32
    np.testing.assert_allclose(raw, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(mean, np.mean(expected), rtol=2e-5)
    # One value for the batch where there is none per example.
    kept = (len(expected), -1) if loss.per_example else (-1,)
    per_example = np.reshape(expected, kept).mean(-1)
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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "cosine_similarity is 1")
        rebuilt = losses.from_config(config)
    assert rebuilt == loss
    assert hash(rebuilt) == hash(loss)


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
    got = jax.jit(losses.get(name, **options))(predictions, targets)
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
    loss = jax.jit(losses.get("ranking_softmax_loss"))
    got = loss(LOGITS, (BITS, mask))
    np.testing.assert_allclose(got[0], loss(LOGITS[0, :2], BITS[0, :2]), rtol=1e-5)
    assert float(got[3]) == 0.0
    assert np.isfinite(jax.jit(jax.grad(lambda p: loss(p, (BITS, mask)).sum()))(LOGITS)).all()


def test_triplet_of_odd_degree_sums_absolute_differences():
    got = losses.get("triplet", norm_degree=1)((A, B, NEGATIVES), None)
    expected = np.abs(A - B).sum(-1) - np.abs(A - NEGATIVES).sum(-1) + 1
    np.testing.assert_allclose(got, np.maximum(expected, 0), rtol=1e-4)
    stacked = losses.get("triplet", norm_degree=1)(jnp.stack([A, B, NEGATIVES]), None)
    np.testing.assert_allclose(stacked, got)


def test_cosine_similarity_warns_that_it_grows():
    with pytest.warns(UserWarning, match="negative_cosine_similarity"):
        losses.get("cosine_similarity")


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
