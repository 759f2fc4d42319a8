"""DLA against timm: images that are not square, and those that timm refuses, too."""

import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("dla")

KINDS = {kind.name: kind for kind in FAMILIES["dla"].kinds}


def close(name, size, num_classes=5, **changes):
    """Compares maps, features and logits of images ``[H, W]``."""
    kind = KINDS[changes.pop("kind", name)]
    reference = timm.create_model(name, num_classes=num_classes, **kind.timm).eval()
    model = fz.models.get(name, num_classes=num_classes, **kind.fields)
    model = with_reference(model, fill_reference(reference), source="random weights")
    assert_same(model, reference, (*size, 3))
    return reference


@pytest.mark.parametrize("name", ["dla46x_c", "dla60_res2next"])
def test_images_that_are_not_square(name):
    close(name, (96, 64))


def test_images_that_timm_refuses_too():
    kind = KINDS["dla34"]
    reference = timm.create_model("dla34", num_classes=3, **kind.timm).eval()
    for size in ((48, 64), (64, 80)):
        with pytest.raises(RuntimeError, match="[Ss]izes? of tensor"), torch.no_grad():
            reference(torch.zeros(1, 3, *size))
        with pytest.raises(ShapeError, match="multiples of 32"):
            fz.models.get("dla34", **kind.fields, input_shape=(*size, 3)).shapes()
