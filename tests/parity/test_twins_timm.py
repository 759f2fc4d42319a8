"""Twins against timm: images of odd sizes, names."""

import pytest
from parity.pairs import assert_exports, assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("twins")

SVT = "twins_svt_small"
SMALL = {
    "layers": (1, 2, 2),
    "widths": (8, 12, 16),
    "heads": (1, 2, 2),
    "windows": (7, 4, 2),
    "key_strides": (4, 2, 1),
    "mlp_ratios": (2, 2, 2),
}
SMALL_TIMM = {
    "depths": (1, 2, 2),
    "embed_dims": (8, 12, 16),
    "num_heads": (1, 2, 2),
    "wss": (7, 4, 2),
    "sr_ratios": (4, 2, 1),
    "mlp_ratios": (2, 2, 2),
}


def reference_of(**options):
    """timm's with random weights, and these."""
    reference = timm.create_model(SVT, num_classes=5, **{**SMALL_TIMM, **options}).eval()
    tensors = fill_reference(reference)
    return reference, tensors


@pytest.mark.parametrize("size", [(37, 62), (50, 33), (128, 20)])
def test_images_of_any_size(size):
    reference, tensors = reference_of()
    model = fz.models.get(SVT, num_classes=5, **SMALL)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))


def test_names_are_timms_in_both_directions():
    _, tensors = reference_of()
    bare = fz.models.get(SVT, num_classes=5, **SMALL)
    assert_exports(with_reference(bare, tensors, source="random"), tensors)
