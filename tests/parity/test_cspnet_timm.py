"""CSPNet against timm: images of any size, and dilated stages."""

import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("cspnet")

KINDS = {kind.name: kind for kind in FAMILIES["cspnet"].kinds}


def close(name, size, num_classes=5, **changes):
    """Compares maps, features and logits of images ``[H, W]``."""
    kind = KINDS[changes.pop("kind", name)]
    reference = kind.create(name, num_classes=num_classes, **changes).eval()
    model = fz.models.get(name, num_classes=num_classes, **kind.fields, **changes)
    model = with_reference(model, fill_reference(reference), source="random weights")
    assert_same(model, reference, (*size, 3))
    return reference


@pytest.mark.parametrize("name", list(KINDS))
def test_images_of_any_size(name):
    close(name, (77, 94))


@pytest.mark.parametrize(
    ("name", "stride"), [("cs3se_edgenet_x", 8), ("cspdarknet53", 16), ("cspresnet50", 8)]
)
def test_dilated_stages(name, stride):
    close(name, (64, 70), output_stride=stride)
