"""VoVNet against timm: images of any size, and features alone."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("vovnet")

KINDS = {kind.name: kind for kind in FAMILIES["vovnet"].kinds}


def close(name, size, num_classes=5, **changes):
    """Compares maps, features and logits of images ``[H, W]``."""
    kind = KINDS[changes.pop("kind", name)]
    reference = timm.create_model(name, num_classes=num_classes, **kind.timm).eval()
    model = fz.models.get(name, num_classes=num_classes, **kind.fields)
    model = with_reference(model, fill_reference(reference), source="random weights")
    assert_same(model, reference, (*size, 3))
    return reference


@pytest.mark.parametrize(
    ("name", "size"), [("ese_vovnet39b", (45, 70)), ("ese_vovnet19b_dw", (33, 64))]
)
def test_images_of_any_size(name, size):
    close(name, size)


def test_features_without_classes():
    name, kind = "ese_vovnet39b", KINDS["ese_vovnet39b"]
    reference = timm.create_model(name, num_classes=0, **kind.timm).eval()
    model = fz.models.get(name, num_classes=0, **kind.fields)
    model = with_reference(model, fill_reference(reference), source="random weights")
    images = synthetic_images((2, 32, 32, 3), 0)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(model(images), expected.numpy(), atol=1e-5 * float(expected.max()))
