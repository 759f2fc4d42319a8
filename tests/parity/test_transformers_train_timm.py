"""One training step of each kind of transformer block against torch autograd, in float64."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import load_reference, with_reference
from flaxzoo.weights.names import to_reference
from flaxzoo.weights.synthetic import synthetic_images, synthetic_tensors

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("vision_transformer", "deit", "beit")

OURS = {"width": 24, "depth": 2, "heads": 3, "input_shape": (32, 48, 3)}
THEIRS = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": (32, 48)}
LABELS = np.array([0, 1, 2])
IMAGES = synthetic_images((3, 32, 48, 3), 0)


@pytest.mark.parametrize(
    "name",
    [
        "test_vit",
        "beit3_base_patch16_224",
        "vit_base_patch16_rpn_224",
        "vit_small_patch16_18x2_224",
        "vit_base_patch16_xp_224",
        "deit_tiny_distilled_patch16_224",
        "deit3_small_patch16_224",
        "beit_base_patch16_224",
    ],
)
def test_one_step(name):
    reference = timm.create_model(name, num_classes=4, **THEIRS)
    shapes = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    tensors = synthetic_tensors(shapes, 0)
    load_reference(reference, tensors, source="random weights")
    model = with_reference(fz.models.get(name, num_classes=4, **OURS), tensors, source="the same")

    def loss_of(params, images):
        logits = model.module.apply({"params": params}, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), model.variables["params"])
        step = jax.jit(jax.value_and_grad(loss_of))
        loss, gradients = step(params, IMAGES.astype(np.float64))
    gradients = to_reference(flatten({"params": gradients}), MODELS.architecture(name).reference)

    x = torch.from_numpy(IMAGES.astype(np.float64).transpose(0, 3, 1, 2).copy())
    outputs = reference.double().train()(x)
    expected = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(LABELS))
    expected.backward()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-9)
    theirs = {key: p.grad.numpy() for key, p in reference.named_parameters()}
    assert gradients.keys() == theirs.keys()
    # A key's bias has no gradient but rounding: such are measured against the largest.
    floor = 1e-4 * max(np.abs(value).max() for value in theirs.values())
    for key, value in theirs.items():
        limit = 1e-6 * max(np.abs(value).max(), floor)
        np.testing.assert_allclose(gradients[key], value, rtol=0, atol=limit, err_msg=key)
