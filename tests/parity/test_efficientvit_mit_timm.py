"""EfficientViT of MIT against timm: images of any size, names, pooled features, first weights."""

import numpy as np
import pytest
from conformance.families import FAMILIES

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
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
    with torch.no_grad():
        expected = reference(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == reference.state_dict().keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)


@pytest.mark.parametrize("name", list(KINDS))
def test_the_first_weights_are_spread_as_timm_s(name):
    torch.manual_seed(0)
    model, reference = pair(name)
    ours = model.init(rng=0).to_torch_state_dict(as_numpy=True)
    for key, expected in reference.state_dict().items():
        if expected.ndim > 1 or key.endswith(("conv.bias", "classifier.4.bias")):
            # A deviation is known the better the more numbers there are.
            rel = 4 / np.sqrt(expected.numel())
            assert ours[key].std() == pytest.approx(expected.numpy().std(), rel=rel), key
        else:
            np.testing.assert_array_equal(ours[key], expected.numpy(), err_msg=key)
