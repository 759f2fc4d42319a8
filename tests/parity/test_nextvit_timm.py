"""Next-ViT against timm: images of any size, the authors' files."""

import re

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
pytest.importorskip("timm.models.nextvit")

pytestmark = pytest.mark.family("nextvit")

(KIND,) = FAMILIES["nextvit"].kinds


def pair():
    """Ours and timm's of two stages."""
    model = fz.models.get(KIND.name, num_classes=50, input_shape=KIND.input_shape, **KIND.fields)
    return model, KIND.create(KIND.name, num_classes=50).eval()


@pytest.mark.parametrize("size", [(32, 48), (61, 33)])
def test_images_of_any_size(size):
    model, reference = pair()
    tensors = fill_reference(reference, gain=0.5)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == reference.state_dict().keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)


def test_the_authors_files():
    model, reference = pair()
    tensors = fill_reference(reference)
    numbers = {"stages.0.blocks.0": 0, **{f"stages.1.blocks.{i}": 1 + i for i in range(3)}}

    def name(key):
        for place, number in numbers.items():
            key = key.replace(f"{place}.", f"features.{number}.")
        return re.sub(r"mlp\.fc(\d)", r"mlp.conv\1", key).replace("head.fc", "proj_head.0")

    theirs = with_reference(model, {name(key): tensors[key] for key in tensors}, source="a file")
    exported = theirs.to_torch_state_dict(as_numpy=True)
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)
