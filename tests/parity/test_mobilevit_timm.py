"""MobileViT against timm: images of any size, names in both directions."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
pytest.importorskip("timm.models.mobilevit")

pytestmark = pytest.mark.family("mobilevit")

KINDS = {kind.name: kind for kind in FAMILIES["mobilevit"].kinds}


def pair(name, **options):
    """Ours and timm's of three stages."""
    kind = KINDS[name]
    model = fz.models.get(name, num_classes=50, input_shape=(32, 48, 3), **kind.fields)
    return model, kind.create(name, num_classes=50, **options).eval()


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("size", [(32, 48), (36, 57), (8, 9)])
def test_images_of_any_size(name, size):
    """The last ones' maps are of one row."""
    model, reference = pair(name)
    tensors = fill_reference(reference)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == reference.state_dict().keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)
