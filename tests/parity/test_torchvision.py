"""torchvision's own ResNets: their state dicts fit as they are, and give the same logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

import flaxzoo as fz
from flaxzoo.weights.synthetic import synthetic_images, synthetic_tensors

IMAGES = synthetic_images((2, 75, 50, 3))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("resnet18", "safetensors"), ("resnet50", "pth"), ("resnext50_32x4d", "safetensors")],
)
def test_logits(tmp_path, name, suffix):
    reference = torchvision.models.get_model(name, num_classes=11).eval()
    shapes = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    tensors = synthetic_tensors(shapes, seed=1)
    reference.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in tensors.items()})
    path = tmp_path / f"weights.{suffix}"
    save = torch.save if suffix == "pth" else save_file
    save(reference.state_dict(), path)

    ours = fz.models.get(name, pretrained=path)(IMAGES)
    with torch.no_grad():
        theirs = reference(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())).numpy()
    assert ours.shape == (2, 11)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
