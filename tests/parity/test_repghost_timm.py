"""RepGhostNet against timm: images of any size, and the form of inference."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of, pair_of

from flaxzoo.verify import compare
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytest.importorskip("timm.models.repghost")

pytestmark = pytest.mark.family("repghost")

KIND = FAMILIES["repghost"].kinds[-1]


def pair():
    """Ours and timm's small network, with the same random weights."""
    fields = {"input_shape": KIND.input_shape, **KIND.fields}
    return pair_of(KIND.name, fields, KIND.timm, create=KIND.create)[:2]


@pytest.mark.parametrize("size", [(64, 96), (97, 33)])
def test_images_of_any_size(size):
    differences = compare(*pair(), synthetic_images((2, *size, 3), 0))
    assert max(difference.relative for difference in differences.values()) < 1e-5


def test_the_form_of_inference_is_timm_s():
    model, reference = pair()
    images = synthetic_images((2, 32, 48, 3), 0)
    expected = np.asarray(model(images))
    state = model.reparameterize().to_torch_state_dict()
    reference.convert_to_deploy()
    reference.load_state_dict(state, strict=True)
    y = outputs_of(reference, images)
    assert np.abs(y - expected).max() < 1e-5 * np.abs(expected).max()
