"""TinyViT: images of any size, windows that are not square, and what does not fit."""

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.tiny_vit import TinyVit
from flaxzoo.weights.synthetic import synthetic_images

pytestmark = pytest.mark.family("tiny_vit")

TINY = {"layers": (1, 1), "widths": (4, 8), "heads": (1, 2), "window_size": ((7, 7), (2, 3))}


def test_sizes_are_rounded_up():
    model = fz.models.get("tiny_vit_5m_224", num_classes=3, input_shape=(16, 24, 3), **TINY)
    images = synthetic_images((1, 19, 33, 3))
    maps = model.init(rng=0).feature_maps(images)
    assert [leaf.shape for leaf in maps.values()] == [(1, 5, 9, 4), (1, 3, 5, 8)]


def test_tokens_are_no_maps():
    model = fz.models.get("tiny_vit_5m_224", num_classes=3, input_shape=(16, 24, 3), **TINY)
    with pytest.raises(ShapeError, match=r"must have shape \[B, H, W, C\]"):
        model.init(rng=0)(np.zeros((1, 24, 3), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": (1, 3)}, r"widths must be multiples of heads=\(3,\), got \(8,\)"),
        ({"layers": (1,)}, "must be of one length"),
        ({"window_size": (7, 7, 7)}, "one of these for each of 2 stages"),
        ({"window_size": 0}, "window_size must be"),
        ({"local_kernel_size": 4}, "local_kernel_size must be odd"),
        ({"implementation": "flash"}, "implementation must be one of"),
        ({"block_dropout": 1.0}, "block_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        TinyVit(**{**TINY, **fields})
