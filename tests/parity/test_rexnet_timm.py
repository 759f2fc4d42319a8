"""ReXNet against timm: images of any size, dilated stages, features without classes."""

import pytest
from conformance.families import FAMILIES

import flaxzoo as fz
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("rexnet")

(KIND,) = FAMILIES["rexnet"].kinds


@pytest.mark.parametrize(("stride", "size"), [(8, (64, 96)), (16, (70, 45))])
def test_dilated_stages_and_images_of_any_size(stride, size):
    reference = timm.create_model(
        KIND.name, num_classes=4, output_stride=stride, **KIND.timm
    ).eval()
    tensors = fill_reference(reference)
    model = fz.models.get(
        KIND.name, num_classes=4, input_shape=(*size, 3), output_stride=stride, **KIND.fields
    )
    model = with_reference(model, tensors, source="random weights")
    found = compare(model, reference, synthetic_images((2, *size, 3), 0))
    assert max(difference.relative for difference in found.values()) < 1e-5
