"""Twins: images of any size, windows that are filled up, which images are too small."""

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.twins import Twins

pytestmark = pytest.mark.family("twins")

TINY = {
    "layers": (1, 2),
    "widths": (4, 8),
    "heads": (1, 2),
    "key_strides": (4, 2),
    "mlp_ratios": (2, 2),
}
IMAGES = np.random.default_rng(0).random((2, 33, 23, 3)).astype(np.float32)


def tiny(**fields):
    return fz.models.get("twins_svt_small", num_classes=3, **{**TINY, **fields}).init(rng=0)


def test_maps_are_rounded_down_and_the_features_are_tokens():
    model = tiny(windows=(5, 3))
    maps = model.feature_maps(IMAGES)
    assert {name: leaf.shape for name, leaf in maps.items()} == {
        "blocks_0": (2, 8, 5, 4),
        "blocks_1": (2, 4, 2, 8),
    }
    assert model.features(IMAGES).shape == (2, 8, 8)


def test_a_stage_of_one_block_ends_with_its_positions():
    parts = list(Twins(**TINY).parts())
    assert [part.map for part in parts if part.name == "blocks_0_0"] == [None, "blocks_0"]
    assert Twins(**TINY).stages()["blocks_1_0"] == ("patch_embeds_1", "blocks_1_0", "pos_block_1")


def test_what_is_too_small_for_one_key():
    with pytest.raises(ShapeError, match="a map of 3 x 2 has no key at key_stride=4: images must"):
        tiny(windows=None)(IMAGES[:, :12, :8])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": (1, 3)}, r"widths must be multiples of heads=\(1, 3\), got \(4, 8\)"),
        ({"windows": (7,)}, "must be of one length"),
        ({"windows": (7, 1)}, "windows must be an int of at least 2"),
        ({"mlp_ratios": (0, 1)}, "mlp_ratios must be a finite number above 0"),
        ({"position_dropout": 1.5}, "position_dropout must be"),
        ({"patch_size": 0}, "patch_size must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Twins(**{**TINY, **fields})
