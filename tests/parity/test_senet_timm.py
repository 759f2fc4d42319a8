"""SENet's first form against timm: images of any size, blocks of groups, no classes."""

import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same, outputs_of

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("senet")

KINDS = {kind.name: kind for kind in FAMILIES["senet"].kinds}


def close(model, reference, size):
    model = with_reference(model, fill_reference(reference.eval()), source="random weights")
    assert_same(model, reference, (*size, 3))
    return model


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("size", [(45, 70), (33, 64)])
def test_images_of_any_size(name, size):
    """The stem's map is odd or even where it is pooled."""
    kind = KINDS[name]
    model = fz.models.get(name, num_classes=5, **kind.fields)
    close(model, kind.create(name, num_classes=5, **kind.timm), size)


def test_groups():
    """The one kind of block that is no kind of the table: its groups want their width."""
    layers = (1, 1, 1, 1)
    model = fz.models.get("legacy_seresnext26_32x4d", num_classes=0, layers=layers)
    reference = timm.create_model("legacy_seresnext26_32x4d", num_classes=0, layers=layers)
    model = with_reference(model, fill_reference(reference.eval()), source="random weights")
    images = synthetic_images((1, 32, 40, 3), 0)
    expected = outputs_of(reference, images)
    assert abs(model(images) - expected).max() < 1e-5 * abs(expected).max()
