"""Options, reductions, weights, regularisers, equality, and users' own functions."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxzoo import losses

F32 = jnp.float32
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 2])
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]
A = RNG.normal(size=(4, 3)).astype(np.float32)
B = RNG.normal(size=(4, 3)).astype(np.float32)
BITS = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 1]])
PAIRS = np.array([0, 0, 1, 1])
P = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
D = A - B
CE = -np.log(P)[range(4), LABELS]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def bce(logits, targets):
    p = sigmoid(logits)
    return -targets * np.log(p) - (1 - targets) * np.log(1 - p)


def call(loss, predictions, targets, **keywords):
    """The loss, compiled: faster here than dozens of operations one by one."""
    return jax.jit(loss)(predictions, targets, **keywords)


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
        np.testing.assert_allclose(call(losses.get("crossentropy"), LOGITS, targets), CE, rtol=1e-5)
        from_probabilities = losses.get("crossentropy", from_logits=False)
        # Keras scales probabilities to a sum of one, so that twice the numbers change nothing.
        np.testing.assert_allclose(call(from_probabilities, 2 * P, targets), CE, rtol=1e-5)
    got = call(losses.get("binary_crossentropy", from_logits=False), sigmoid(LOGITS), BITS)
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
        call(losses.get(name, label_smoothing=0.1), LOGITS, ONE_HOT), expected, rtol=1e-5
    )
    by_index = losses.get("softmax_cross_entropy_with_integer_labels", label_smoothing=0.1)
    np.testing.assert_allclose(call(by_index, LOGITS, LABELS), expected, rtol=1e-5)


def test_label_smoothing_of_binary_targets():
    got = call(losses.get("bce_with_logits", label_smoothing=0.2), LOGITS, BITS)
    np.testing.assert_allclose(got, bce(LOGITS, 0.8 * BITS + 0.1), rtol=1e-5)
    got = call(losses.get("focal", gamma=0.0, label_smoothing=0.2), LOGITS, BITS)
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
        np.testing.assert_allclose(call(loss, LOGITS, targets), expected, rtol=1e-5)
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


# Weighted means.

finite = st.floats(-5, 5, width=32)
example = st.tuples(finite, finite, st.integers(0, 3))
# A few numbers of rows: each is compiled.
examples = st.sampled_from([1, 3, 6]).flatmap(lambda n: st.lists(example, min_size=n, max_size=n))


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
            value, grad = jax.jit(jax.value_and_grad(loss.mean))(half, targets)
            assert (value.dtype, grad.dtype) == (F32, dtype)
            wide = jax.jit(loss.mean)(half.astype(F32), targets)
            np.testing.assert_allclose(value, wide, rtol=1e-6)


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
    assert float(loss.values(A, B)) == pytest.approx(np.abs(D).max())
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
        assert losses.from_config(loss.config) == loss
        assert losses.info("test_only_loss").summary == "Scaled difference."
    finally:
        del losses.REGISTRY._entries["test_only_loss"], losses.REGISTRY._aliases["test_alias"]


def test_repr_says_how_to_build_it():
    loss = losses.get("crossentropy", label_smoothing=0.1) + losses.l2(0.01)
    assert repr(loss) == (
        "Loss('crossentropy', label_smoothing=0.1)"
        " + Regularizer(l1=0.0, l2=0.01, all_parameters=False)"
    )


def test_a_list_is_one_loss_and_regularizers():
    both = losses.as_loss(["crossentropy", losses.L2(1e-4), losses.L1(1e-5)])
    assert both == losses.get("crossentropy") + losses.l2(1e-4) + losses.l1(1e-5)
    assert losses.as_loss((losses.get("mse"),)) == losses.get("mse")
    assert losses.L1L2(l1=1.0, l2=2.0) == losses.l1_l2(1.0, 2.0)
    with pytest.raises(TypeError, match="holds one loss and regularizers, got 2 losses"):
        losses.as_loss(["mse", "mae"])
    with pytest.raises(TypeError, match=r"which adds to one: loss=\['crossentropy', "):
        losses.as_loss(losses.l2(1e-4))
