"""Inceptions against timm: images of any size, no classifier, norms of the rows."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of

import flaxzoo as fz
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

FAMILY = ("inception_resnet_v2", "inception_v4")
pytestmark = pytest.mark.family(*FAMILY)

every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.name) for name in FAMILY for kind in FAMILIES[name].kinds]
)


@every_kind
@pytest.mark.parametrize("classes", [0, 5])
def test_images_of_any_size(kind, classes):
    reference = kind.create(kind.name, num_classes=classes, **kind.timm).eval()
    tensors = fill_reference(reference)
    model = fz.models.get(kind.name, num_classes=classes, **kind.fields)
    model = with_reference(model, tensors, source="random weights")
    images = synthetic_images((2, 80, 107, 3), 0)
    if classes:
        differences = compare(model, reference, images)
        assert max(difference.relative for difference in differences.values()) < 1e-5
        return
    expected = outputs_of(reference, images)
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@every_kind
def test_norms_are_those_of_the_row(kind):
    with torch.device("meta"):
        reference = timm.create_model(kind.name)
    norms = [m for m in reference.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {m.eps for m in norms} == {fz.models.get(kind.name).module.backbone.norm_epsilon}
    assert {m.momentum for m in norms} == {0.1}
