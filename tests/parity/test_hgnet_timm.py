"""PP-HGNet against timm: images of odd sides, features without classes."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of

import flaxzoo as fz
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
pytest.importorskip("timm.models.hgnet")

pytestmark = pytest.mark.family("hgnet")


@pytest.mark.parametrize("kind", FAMILIES["hgnet"].kinds, ids=lambda kind: kind.name)
def test_images_of_odd_sides_and_features(kind):
    reference = kind.create(kind.name, num_classes=4).eval()
    tensors = fill_reference(reference)
    options = {"input_shape": kind.input_shape, **kind.fields}
    model = with_reference(
        fz.models.get(kind.name, num_classes=4, **options), tensors, source="random weights"
    )
    images = synthetic_images((2, 45, 70, 3), 0)
    found = compare(model, reference, images)
    assert max(difference.relative for difference in found.values()) < 1e-5
    bare = kind.create(kind.name, num_classes=0).eval()
    tensors = fill_reference(bare)
    model = fz.models.get(kind.name, num_classes=0, **options)
    model = with_reference(model, tensors, source="random weights")
    expected = outputs_of(bare, images)
    assert expected.shape == (2, 20)
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-5 * expected.max())
