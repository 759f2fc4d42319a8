"""SHViT against timm: images of any size, names in both directions."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytest.importorskip("timm.models.shvit")

pytestmark = pytest.mark.family("shvit")

(KIND,) = FAMILIES["shvit"].kinds


def pair():
    """Ours and timm's of two stages."""
    model = fz.models.get(KIND.name, num_classes=50, input_shape=KIND.input_shape, **KIND.fields)
    return model, timm.create_model(KIND.name, num_classes=50, **KIND.timm).eval()


@pytest.mark.parametrize("size", [(64, 96), (97, 33)])
def test_images_of_any_size(size):
    model, reference = pair()
    tensors = fill_reference(reference)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == reference.state_dict().keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)
