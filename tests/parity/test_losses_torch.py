"""Losses against torch.nn.functional, values and gradients."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flaxzoo import losses

torch = pytest.importorskip("torch")
F = torch.nn.functional

RNG = np.random.default_rng(1)
LOGITS = RNG.normal(size=(6, 4)).astype(np.float32) * 3
LABELS = np.array([0, 3, 1, 2, 3, 0])
SOFT = RNG.dirichlet(np.ones(4), size=6).astype(np.float32)
BITS = RNG.integers(0, 2, size=(6, 4)).astype(np.float32)
A, B, C = (RNG.normal(size=(6, 4)).astype(np.float32) for _ in range(3))
WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0], np.float32)


def compare(loss, predictions, targets, reference, *, rtol=1e-5):
    """Unreduced values equal, and so are the gradients of their sum."""
    tensors = jax.tree.map(lambda x: torch.tensor(x, requires_grad=True), predictions)
    expected = reference(tensors)
    expected.sum().backward()

    @jax.jit
    def value_and_grad(p):
        return jax.value_and_grad(
            lambda p: (loss(p, targets).sum(), loss(p, targets)), has_aux=True
        )(p)

    (_, values), grads = value_and_grad(predictions)
    np.testing.assert_allclose(values, expected.detach().numpy(), rtol=rtol, atol=1e-6)
    for grad, tensor in zip(jax.tree.leaves(grads), jax.tree.leaves(tensors), strict=True):
        np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=10 * rtol, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(smoothing):
    options = {"label_smoothing": smoothing}
    for name in ("crossentropy", "softmax_cross_entropy_with_integer_labels"):
        compare(
            losses.get(name, **options),
            LOGITS,
            LABELS,
            lambda x: F.cross_entropy(x, torch.tensor(LABELS), reduction="none", **options),
        )
    for name in ("crossentropy", "softmax_cross_entropy"):
        compare(
            losses.get(name, **options),
            LOGITS,
            SOFT,
            lambda x: F.cross_entropy(x, torch.tensor(SOFT), reduction="none", **options),
        )


def test_cross_entropy_with_class_weights():
    loss = losses.get("crossentropy", class_weights=WEIGHTS)
    labels, weight = torch.tensor(LABELS), torch.tensor(WEIGHTS)
    compare(loss, LOGITS, LABELS, lambda x: F.cross_entropy(x, labels, weight, reduction="none"))
    # torch's mean divides by the sum of the weights: the same as weighting the examples.
    plain = losses.get("crossentropy").mean(LOGITS, LABELS, WEIGHTS[LABELS])
    expected = F.cross_entropy(torch.tensor(LOGITS), labels, weight)
    np.testing.assert_allclose(plain, expected.numpy(), rtol=1e-5)
    # Keras's mean, which is ours, divides by the number of examples.
    ratio = WEIGHTS[LABELS].mean()
    np.testing.assert_allclose(loss.mean(LOGITS, LABELS), ratio * expected.numpy(), rtol=1e-5)


def test_binary_cross_entropy_with_logits():
    target = torch.tensor(BITS)
    compare(
        losses.get("bce_with_logits"),
        LOGITS,
        BITS,
        lambda x: F.binary_cross_entropy_with_logits(x, target, reduction="none"),
    )
    compare(
        losses.get("bce_with_logits", class_weights=[1.0, 3.0]),
        LOGITS,
        BITS,
        lambda x: F.binary_cross_entropy_with_logits(
            x, target, reduction="none", pos_weight=torch.tensor(3.0)
        ),
    )
    compare(
        losses.get("binary_crossentropy", from_logits=False),
        SOFT,
        BITS,
        lambda x: F.binary_cross_entropy(x, target, reduction="none"),
        rtol=1e-4,
    )


@pytest.mark.parametrize("delta", [0.5, 1.0, 2.0])
def test_huber(delta):
    compare(
        losses.get("huber", delta=delta),
        A,
        B,
        lambda x: F.huber_loss(x, torch.tensor(B), reduction="none", delta=delta),
    )


def test_squared_and_absolute_error():
    target = torch.tensor(B)
    compare(losses.get("mse"), A, B, lambda x: F.mse_loss(x, target, reduction="none"))
    compare(losses.get("mae"), A, B, lambda x: F.l1_loss(x, target, reduction="none"))


def test_cosine_similarity():
    compare(
        losses.get("cosine_distance"), A, B, lambda x: 1 - F.cosine_similarity(x, torch.tensor(B))
    )


def test_kl_divergence():
    log_p = np.log(RNG.dirichlet(np.ones(4), size=6)).astype(np.float32)
    target = torch.tensor(SOFT)
    compare(
        losses.get("kl_divergence"),
        log_p,
        SOFT,
        lambda x: F.kl_div(x, target, reduction="none").sum(-1),
        rtol=1e-4,
    )
    compare(
        losses.get("kl_divergence_with_log_targets"),
        log_p,
        np.log(SOFT),
        lambda x: F.kl_div(x, target.log(), reduction="none", log_target=True).sum(-1),
        rtol=1e-4,
    )


def test_hinge():
    # torch's multi-class hinge sums over the wrong classes; with two there is only one.
    labels = (LABELS > 1).astype(int)
    compare(
        losses.get("multiclass_hinge_loss"),
        A[:, :2],
        labels,
        lambda x: 2 * F.multi_margin_loss(x, torch.tensor(labels), reduction="none"),
    )
    signs = 2 * BITS - 1
    compare(
        losses.get("hinge"), A, signs, lambda x: torch.clamp(1 - x * torch.tensor(signs), min=0)
    )


@pytest.mark.parametrize("degree", [1, 2])
def test_triplet_margin(degree):
    # torch adds its eps to the differences, we under the root: small either way.
    compare(
        losses.get("triplet", norm_degree=degree, margin=0.7),
        (A, B, C),
        None,
        lambda x: F.triplet_margin_loss(*x, p=degree, margin=0.7, reduction="none"),
        rtol=1e-4,
    )


def test_ctc():
    batch, frames, classes = 3, 9, 5
    logits = RNG.normal(size=(batch, frames, classes)).astype(np.float32)
    labels = np.array([[1, 2, 2, 4], [3, 3, -1, -1], [4, -1, -1, -1]])
    frame_lengths, label_lengths = np.array([9, 7, 5]), np.array([4, 2, 1])
    paddings = (np.arange(frames) >= frame_lengths[:, None]).astype(np.float32)
    loss = losses.get("ctc")

    def padded(logits, targets):
        return loss((logits, paddings), targets)

    def reference(x):
        return F.ctc_loss(
            x.log_softmax(-1).transpose(0, 1),
            torch.tensor(np.maximum(labels, 0)),
            torch.tensor(frame_lengths),
            torch.tensor(label_lengths),
            reduction="none",
        )

    compare(padded, logits, labels, reference, rtol=1e-4)
