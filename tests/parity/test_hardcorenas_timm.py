"""HardCoRe-NAS against timm, beside what is certified: gates, norms, no classes, any image."""

import pytest
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

pytestmark = pytest.mark.family("hardcorenas")

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")


def test_no_classes_and_images_that_are_not_square():
    reference = timm.create_model("hardcorenas_a", num_classes=0).eval()
    assert (reference.bn1.eps, reference.bn1.momentum) == (1e-5, 0.1)
    model = fz.models.get("hardcorenas_a", num_classes=0)
    model = with_reference(model, fill_reference(reference), source="the same")
    assert_same(model, reference, (65, 94, 3))
