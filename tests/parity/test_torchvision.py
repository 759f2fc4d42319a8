"""torchvision's own ResNets and VGGs: their state dicts fit, and give the same logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from parity.pairs import outputs_of
from safetensors.torch import save_file

import flaxzoo as fz
from flaxzoo.weights.synthetic import synthetic_images, synthetic_tensors

IMAGES = synthetic_images((2, 75, 50, 3))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("resnet18", "safetensors"), ("resnet50", "pth"), ("resnext50_32x4d", "safetensors")],
)
def test_logits(tmp_path, name, suffix):
    reference = reference_of(name)
    path = tmp_path / f"weights.{suffix}"
    save = torch.save if suffix == "pth" else save_file
    save(reference.state_dict(), path)
    check(fz.models.get(name, pretrained=path), reference)


def test_linear_layers_of_a_vgg_become_convolutions(tmp_path):
    reference = reference_of("vgg11_bn")
    path = tmp_path / "weights.safetensors"
    save_file(reference.state_dict(), path)
    # The classifier has another name there, so that its width is not read from the file.
    check(fz.models.get("vgg11_bn", pretrained=path, num_classes=11), reference)


def reference_of(name):
    """torchvision's network of 11 classes with random weights."""
    reference = torchvision.models.get_model(name, num_classes=11).eval()
    shapes = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    tensors = synthetic_tensors(shapes, seed=1)
    reference.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()})
    return reference


def check(model, reference):
    """Compares the two networks' logits."""
    ours = model(IMAGES)
    theirs = outputs_of(reference, IMAGES)
    assert ours.shape == (2, 11)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
