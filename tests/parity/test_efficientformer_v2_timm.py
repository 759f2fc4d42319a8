"""EfficientFormer V2 against timm: other images, the size of its weights."""

import numpy as np
import pytest
from parity.pairs import load_into, outputs_of

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("efficientformer_v2")

NAME = "efficientformerv2_s0"
SHARED = {"mlp_ratios": (2, 2, 2, 2), "num_classes": 5}
SMALL = {"layers": (1, 1, 1, 1), "widths": (8, 8, 8, 8), "attending": 1, **SHARED}
SMALL_TIMM = {"depths": (1, 1, 1, 1), "embed_dims": (8, 8, 8, 8), "num_vit": 1, **SHARED}


def reference_of(size):
    reference = timm.create_model(NAME, img_size=size, **SMALL_TIMM)
    tensors = fill_reference(reference)
    return reference.eval(), tensors


def test_images_that_are_not_square():
    reference, tensors = reference_of((96, 32))
    bare = fz.models.get(NAME, input_shape=(96, 32, 3), **SMALL)
    model = with_reference(bare, tensors, source="random weights")
    images = synthetic_images((2, 96, 32, 3), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)
    exported = model.to_torch_state_dict(as_numpy=True)
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value)


def test_biases_are_for_one_size():
    _, tensors = reference_of((32, 64))
    model = fz.models.get(NAME, input_shape=(64, 64, 3), **SMALL)
    with pytest.raises(ShapeError, match="biases for 2 places, not 4, and are not resampled from"):
        load_into(model, tensors, image_sizes=((32, 64, 3), (64, 64, 3)))
