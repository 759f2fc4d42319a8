"""PP-LCNet V2 against timm: images of any size, features, the form of inference."""

import numpy as np
import pytest
from parity.pairs import outputs_of, pair_of

from flaxzoo.verify import compare
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
reparameterize_model = pytest.importorskip("timm.utils").reparameterize_model

pytestmark = pytest.mark.family("lcnetv2")

NAME = "lcnetv2_small"
SMALL = {"layers": (1, 1, 2, 2), "width": 8, "head_width": 24}
SMALL_TIMM = {"scale": 0.25, "depths": (1, 1, 2, 2), "head_hidden_size": 24}


def pair(classes=4):
    """Ours and timm's, small, with the same random weights."""
    return pair_of(NAME, SMALL, SMALL_TIMM, classes=classes)[:2]


@pytest.mark.parametrize("size", [(32, 48), (47, 70)])
def test_images_of_any_size(size):
    differences = compare(*pair(), synthetic_images((2, *size, 3), 0))
    assert max(found.relative for found in differences.values()) < 1e-5


def test_features_are_those_of_the_hidden_layer():
    model, reference = pair(classes=0)
    images = synthetic_images((2, 32, 48, 3), 0)
    expected = outputs_of(reference, images)
    assert expected.shape == (2, 24)
    np.testing.assert_allclose(model(images), expected, atol=1e-5 * np.abs(expected).max())


def test_the_form_of_inference_is_timm_s():
    model, reference = pair()
    images = synthetic_images((2, 32, 48, 3), 0)
    expected = np.asarray(model(images))
    fused = model.reparameterize()
    np.testing.assert_allclose(fused(images), expected, atol=1e-5 * np.abs(expected).max())
    reference = reparameterize_model(reference)
    reference.load_state_dict(fused.to_torch_state_dict(), strict=True)
    y = outputs_of(reference, images)
    assert np.abs(y - expected).max() < 1e-5 * np.abs(expected).max()


def test_norms_are_torch_s():
    norms = [m for m in pair()[1].modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-5, 0.1)}
