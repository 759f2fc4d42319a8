"""ResNet V2 against timm: images of any size, dilated stages, other norms."""

import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("resnetv2")

KINDS = {kind.name: kind for kind in FAMILIES["resnetv2"].kinds}
SMALL = {"layers": (1, 2), "widths": (128, 128)}
SMALL_TIMM = {"layers": (1, 2), "channels": (128, 128)}


def close(model, reference, size):
    tensors = fill_reference(reference.eval())
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))


@pytest.mark.parametrize("name", list(KINDS))
def test_images_of_any_size(name):
    kind = KINDS[name]
    create = kind.create or timm.create_model
    model = fz.models.get(name, num_classes=5, **kind.fields)
    close(model, create(name, num_classes=5, **kind.timm), (45, 70))


@pytest.mark.parametrize("name", ["resnetv2_50d_gn", "resnetv2_50d_evos", "resnetv2_50d_frn"])
def test_other_norms(name):
    """timm's filter responses and EvoNorm are float32 at most: no kinds of the table."""
    model = fz.models.get(name, num_classes=5, **SMALL)
    close(model, timm.create_model(name, num_classes=5, **SMALL_TIMM), (33, 48))


@pytest.mark.parametrize(("name", "stride"), [("resnetv2_50d", 8), ("resnetv2_34", 16)])
def test_dilated_stages(name, stride):
    fields = {"layers": (1, 1, 1, 2), "widths": (16, 16, 32, 32), "stem_width": 16}
    model = fz.models.get(name, num_classes=5, output_stride=stride, **fields)
    sizes = {"layers": (1, 1, 1, 2), "channels": (16, 16, 32, 32), "stem_chs": 16}
    close(model, timm.create_model(name, num_classes=5, output_stride=stride, **sizes), (50, 64))
