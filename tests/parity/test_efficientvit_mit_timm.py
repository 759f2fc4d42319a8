"""EfficientViT of MIT against timm: images of any size, names, pooled features."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytest.importorskip("timm.models.efficientvit_mit")

pytestmark = pytest.mark.family("efficientvit_mit")

KINDS = {kind.name: kind for kind in FAMILIES["efficientvit_mit"].kinds}


def pair(name, classes=50):
    """Ours and timm's of a few stages."""
    kind = KINDS[name]
    fields = {"num_classes": classes, "input_shape": kind.input_shape, **kind.fields}
    return fz.models.get(name, **fields), timm.create_model(name, num_classes=classes, **kind.timm)


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize(("size", "classes"), [((64, 96), 0), ((67, 33), 50)])
def test_images_of_any_size(name, size, classes):
    """With no classes the classifier's hidden layers stay."""
    model, reference = pair(name, classes)
    tensors = fill_reference(reference.eval())
    model = with_reference(model, tensors, source="random weights")
    images = synthetic_images((2, *size, 3), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == reference.state_dict().keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)
