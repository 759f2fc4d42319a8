"""EfficientViT: windows of small images, images of any size, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.efficientvit_msra import EfficientVitMsra

pytestmark = pytest.mark.family("efficientvit_msra")

TINY = {
    "layers": (1, 1, 1),
    "widths": (8, 12, 16),
    "heads": (2, 3, 2),
    "key_dims": (4, 4, 4),
    "kernel_sizes": (3, 3, 3),
    "windows": (3, 3, 3),
}


def shapes(**fields):
    return fz.models.get("efficientvit_m0", num_classes=3, **{**TINY, **fields}).shapes()


@pytest.mark.parametrize(
    ("input_shape", "cells"), [((224, 224, 3), (9, 9, 9)), ((96, 64, 3), (9, 4, 1))]
)
def test_windows_are_no_larger_than_the_map(input_shape, cells):
    backbone = shapes(input_shape=input_shape)["params"]["backbone"]
    tables = [
        backbone[f"stages_{i}_blocks_0"]["mixer_m_attn"]["attention_biases"].shape for i in range(3)
    ]
    assert tables == [(heads, n) for heads, n in zip(TINY["heads"], cells, strict=True)]


def test_images_of_any_size():
    backbone = EfficientVitMsra(**TINY, input_shape=(64, 64, 3), feature_maps=True)
    images = np.zeros((2, 70, 130, 3), np.float32)
    maps = jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x)[0], images)
    assert {key: leaf.shape for key, leaf in maps.items()} == {
        "stages_0": (2, 5, 9, 8),
        "stages_1": (2, 3, 5, 12),
        "stages_2": (2, 2, 3, 16),
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": (2, 5, 2)}, r"widths must be multiples of heads=\(2, 5, 2\), got"),
        ({"windows": (7,)}, "must be of one length"),
        ({"kernel_sizes": (3, 3)}, r"odd and one for each of 3 heads, got \(3, 3\)"),
        ({"kernel_sizes": (3, 4, 3)}, "kernel_sizes must be odd"),
        ({"widths": (12, 12, 16)}, "widths must begin with a multiple of 8, got 12"),
        ({"input_shape": (8, 64, 3)}, "of at least 16 pixels along each side, got"),
        ({"drop_path": 1.5}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        EfficientVitMsra(**{**TINY, **fields})
