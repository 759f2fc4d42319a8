"""StarNet against timm: images of any size, features, statistics of the norms."""

import numpy as np
import pytest
from parity.pairs import outputs_of, pair_of

from flaxzoo.verify import compare
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("starnet")

NAME = "starnet_s1"
SMALL = {"layers": (1, 2), "width": 12, "mlp_ratio": 2}
SMALL_TIMM = {"depths": (1, 2), "base_dim": 12, "mlp_ratio": 2}


def pair(classes=4):
    """Ours and timm's, small, with the same random weights."""
    return pair_of(NAME, SMALL, SMALL_TIMM, classes=classes)[:2]


@pytest.mark.parametrize("size", [(32, 48), (47, 30)])
def test_images_of_any_size(size):
    model, reference = pair()
    differences = compare(model, reference, synthetic_images((2, *size, 3), 0))
    assert max(found.relative for found in differences.values()) < 1e-5


def test_features():
    model, reference = pair(classes=0)
    images = synthetic_images((2, 32, 48, 3), 0)
    expected = outputs_of(reference, images)
    np.testing.assert_allclose(model(images), expected, atol=1e-5 * np.abs(expected).max())


def test_statistics_after_a_step():
    model, reference = pair()
    images = synthetic_images((3, 32, 48, 3), 0)
    _, moved = model.module.apply(model.variables, images, train=True, mutable=["batch_stats"])
    exported = model.with_variables({**model.variables, **moved}).to_torch_state_dict(as_numpy=True)
    with torch.no_grad():
        reference.train()(torch.tensor(images.transpose(0, 3, 1, 2)))
    for key, value in reference.state_dict().items():
        if "running" in key:
            limit = 1e-5 * np.abs(value.numpy()).max()
            np.testing.assert_allclose(exported[key], value.numpy(), atol=limit, err_msg=key)
