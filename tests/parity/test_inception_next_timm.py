"""InceptionNeXt against timm: images of any size, dilated stages, features."""

import numpy as np
import pytest
from parity.pairs import outputs_of, pair_of

from flaxzoo.verify import compare
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("inception_next")

NAME = "inception_next_atto"
SMALL = {"layers": (1, 1, 1, 1), "widths": (8, 12, 16, 16), "mlp_ratios": (2, 2, 2, 1)}
SMALL_TIMM = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 16), "mlp_ratios": (2, 2, 2, 1)}


def pair(classes=4, **options):
    """Ours and timm's, small, with the same random weights."""
    both = {**SMALL, **options}, {**SMALL_TIMM, **options}
    return pair_of(NAME, *both, classes=classes)[:2]


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((64, 96), {}),
        ((75, 50), {}),
        ((64, 96), {"output_stride": 16}),
        ((64, 80), {"output_stride": 8}),
    ],
)
def test_images_of_any_size_and_dilated_stages(size, options):
    model, reference = pair(**options)
    differences = compare(model, reference, synthetic_images((2, *size, 3), 0))
    assert max(found.relative for found in differences.values()) < 1e-5


def test_features_are_those_of_the_hidden_layer():
    model, reference = pair(classes=0)
    images = synthetic_images((2, 64, 64, 3), 0)
    expected = outputs_of(reference, images)
    assert expected.shape == (2, 48)
    np.testing.assert_allclose(model(images), expected, atol=1e-5 * np.abs(expected).max())
