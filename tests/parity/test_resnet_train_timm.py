"""One training step against torch autograd: loss, all gradients, updated running statistics.

In float64 the two agree to nearly all of its digits. In float32 they can't, with ReLU: where its
input is within rounding of zero, one passes the gradient on and the other does not, and either of
them is as far from the float64 result as from the other (up to percents of a tensor). With a smooth
activation float32 agrees as well.
"""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
import torch

from flaxzoo._trees import flatten
from flaxzoo.models.resnet import REFERENCE
from flaxzoo.weights.names import to_reference
from flaxzoo.weights.synthetic import synthetic_images

pytestmark = pytest.mark.family("resnet", "resnest")

# Narrow, and two blocks in one stage: what is left of a network's depth and width changes nothing.
SMALL = {"layers": (1, 2, 1, 1), "widths": (32, 32, 64, 96)}
NETWORKS = {
    "ecaresnet26t": SMALL,
    "resnest14d": {},
    "resnest50d_1s4x24d": SMALL,
    "resnest50d_4s2x40d": SMALL,
    "resnet18": {},
    "resnet50": {},
    "resnet50_gn": {"layers": (1, 1, 1, 1)},
    "resnetaa50d": SMALL,
    "resnetblur18": SMALL,
    "resnetrs50": SMALL,
    "senet154": SMALL,
}
LABELS = np.array([0, 1, 2, 3, 4, 5])
IMAGES = synthetic_images((len(LABELS), 64, 64, 3))


def our_step(module, variables, images):
    """The loss, and gradients and updated statistics under the reference's names."""

    @jax.jit
    def step(variables, images):
        params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}

        def loss_fn(params):
            logits, updates = module.apply(
                {"params": params, **rest}, images, train=True, mutable=["batch_stats"]
            )
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()
            return loss, updates

        (loss, updates), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return loss, gradients, updates

    loss, gradients, updates = step(variables, images)
    gradients = to_reference(flatten({"params": gradients}), REFERENCE)
    statistics = to_reference(flatten(updates), REFERENCE)
    statistics = {k: v for k, v in statistics.items() if not k.endswith("num_batches_tracked")}
    return float(loss), gradients, statistics


def their_step(reference, images):
    reference.train()
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    loss = torch.nn.functional.cross_entropy(reference(x), torch.from_numpy(LABELS))
    loss.backward()
    gradients = {k: p.grad.numpy() for k, p in reference.named_parameters()}
    statistics = {k: b.numpy() for k, b in reference.named_buffers() if "running_" in k}
    return float(loss.detach()), gradients, statistics


def check(ours, theirs, tolerance):
    """Compares loss, gradients and statistics, each tensor relative to its largest value.

    A bias before a norm has no gradient but rounding: tensors whose gradients are below a
    ten-thousandth of the largest ones are measured against that.
    """
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance)
    largest = max(np.abs(v).max() for v in theirs[1].values())
    for found, expected, floor in zip(ours[1:], theirs[1:], (1e-4 * largest, 0), strict=True):
        assert set(found) == set(expected)
        far = {
            key: np.abs(found[key] - value).max() / max(np.abs(value).max(), floor)
            for key, value in expected.items()
        }
        assert {k: v for k, v in far.items() if not v <= tolerance} == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_one_step(pair, name):
    model, reference = pair(name, num_classes=len(LABELS), **NETWORKS[name])
    images = IMAGES.astype(np.float64)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), model.variables)
        ours = our_step(model.module, variables, images)
    check(ours, their_step(reference.double(), images), 1e-7)


@pytest.mark.parametrize("name", ["resnet18", "resnet26d"])
def test_one_step_in_single_precision(pair, name):
    config = {"num_classes": len(LABELS), "layers": (1, 2, 1, 1), "activation": "silu"}
    model, reference = pair(name, **config)
    ours = our_step(model.module, model.variables, IMAGES)
    check(ours, their_step(reference, IMAGES), 1e-4)
