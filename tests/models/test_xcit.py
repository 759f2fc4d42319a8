"""XCiT: images of any size, and what does not fit."""

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.xcit import Xcit

pytestmark = pytest.mark.family("xcit")

TINY = {"patch_size": 8, "width": 8, "depth": 1, "class_depth": 1, "heads": 2}


def test_maps_are_rounded_up_and_tokens_follow_the_class_token():
    model = fz.models.get("xcit_tiny_12_p8_224", num_classes=3, **TINY).init(rng=0)
    images = np.random.default_rng(0).random((2, 17, 24, 3)).astype(np.float32)
    (leaf,) = model.feature_maps(images).values()
    assert leaf.shape == (2, 3, 3, 8)
    assert model.features(images).shape == (2, 10, 8)
    weights = model.attention_weights(images)
    assert {key: leaf.shape for key, leaf in weights.items()} == {
        "cls_attn_blocks_0/attn": (2, 2, 1, 10)
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 32}, "patch_size must be 8 or 16, got 32"),
        ({"heads": 3}, r"width must be a multiple of heads=3, got 8"),
        (
            {"width": 12, "patch_size": 16},
            "a multiple of 8, by which the stem of patches",
        ),
        ({"class_depth": 0}, "class_depth must be"),
        ({"block_dropout": -0.1}, "block_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Xcit(**{**TINY, **fields})
