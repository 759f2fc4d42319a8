"""HRNet against timm: the branches, and images that timm refuses, too."""

import numpy as np
import pytest
from conformance.families import FAMILIES

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("hrnet")

KINDS = {kind.name: kind for kind in FAMILIES["hrnet"].kinds}


def test_the_branches_are_timm_s():
    kind = KINDS["hrnet_w18"]
    reference = kind.create("hrnet_w18", num_classes=3).eval()
    tensors = fill_reference(reference)
    model = with_reference(
        fz.models.get("hrnet_w18", num_classes=3, **kind.fields), tensors, source="random weights"
    )
    images = synthetic_images((2, 64, 96, 3), 0)
    branches = fz.transfer.slice_model(model, stop="incre_modules")(images)
    with torch.no_grad():
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        for layer in ("conv1", "bn1", "act1", "conv2", "bn2", "act2"):
            x = getattr(reference, layer)(x)
        expected = reference.stages(x)
    for ours, theirs in zip(branches, expected, strict=True):
        theirs = theirs.permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_images_that_timm_refuses_too():
    kind = KINDS["hrnet_w18"]
    reference = kind.create("hrnet_w18", num_classes=3).eval()
    with pytest.raises(RuntimeError, match="size of tensor"), torch.no_grad():
        reference(torch.zeros(1, 3, 80, 64))
    with pytest.raises(ShapeError, match="multiples of 32"):
        fz.models.get("hrnet_w18", **kind.fields, input_shape=(80, 64, 3)).shapes()
