"""Xceptions against timm: images of any size, dilated blocks, no classifier, norms of the rows."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same, outputs_of

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("xception", "xception_aligned")

KINDS = {
    kind.name: kind for name in ("xception", "xception_aligned") for kind in FAMILIES[name].kinds
}


def close(name, size, timms=None, **options):
    kind = KINDS[name]
    reference = (kind.create or timm.create_model)(
        name, num_classes=5, **kind.timm, **(timms or options)
    ).eval()
    tensors = fill_reference(reference)
    model = fz.models.get(name, num_classes=5, **kind.fields, **options)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))


@pytest.mark.parametrize("name", list(KINDS))
def test_images_of_any_size(name):
    close(name, (45, 70))


@pytest.mark.parametrize(("name", "stride"), [("xception41", 8), ("xception41p", 16)])
def test_dilated_blocks(name, stride):
    close(name, (33, 64), output_stride=stride)


@pytest.mark.parametrize(
    "name", ["legacy_xception", "xception41", "xception71", "xception41p", "xception65p"]
)
def test_norms_are_those_of_the_row(name):
    with torch.device("meta"):
        reference = timm.create_model(name)
    theirs = {m.eps for m in reference.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert theirs == {getattr(fz.models.get(name).module.backbone, "norm_epsilon", 1e-5)}
    assert {m.momentum for m in reference.modules() if hasattr(m, "momentum")} == {0.1}


def test_features_without_a_classifier():
    kind = KINDS["xception41p"]
    reference = timm.create_model("xception41p", num_classes=0, **kind.timm).eval()
    tensors = fill_reference(reference)
    model = fz.models.get("xception41p", num_classes=0, **kind.fields)
    model = with_reference(model, tensors, source="random weights")
    images = synthetic_images((2, 40, 40, 3), 0)
    expected = outputs_of(reference, images)
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
