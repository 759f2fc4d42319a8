"""SelecSLS against timm: images of any size, features alone, the norms' epsilon and momentum."""

import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

pytestmark = pytest.mark.family("selecsls")

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")


@pytest.mark.parametrize("num_classes", [0, 4])
def test_images_of_an_odd_size_with_and_without_classes(num_classes):
    (kind,) = FAMILIES["selecsls"].kinds
    reference = kind.create(kind.name, num_classes=num_classes).eval()
    norm = reference.stem[1]
    assert (norm.eps, norm.momentum) == (1e-5, 0.1)
    model = fz.models.get(kind.name, num_classes=num_classes, **kind.fields)
    model = with_reference(model, fill_reference(reference), source="the same")
    assert_same(model, reference, (45, 70, 3))
