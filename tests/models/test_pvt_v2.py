"""PVT v2: images of any size, and which are too small."""

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.pvt_v2 import PyramidVisionTransformerV2

pytestmark = pytest.mark.family("pvt_v2")

TINY = {
    "layers": (1, 1),
    "widths": (4, 8),
    "heads": (1, 2),
    "key_strides": (4, 2),
    "mlp_ratios": (2, 2),
}
IMAGES = np.random.default_rng(0).random((2, 36, 23, 3)).astype(np.float32)


def tiny(name="pvt_v2_b0", **fields):
    return fz.models.get(name, num_classes=3, **TINY, **fields).init(rng=0)


def test_maps_are_rounded_up():
    model = tiny()
    maps = model.feature_maps(IMAGES)
    assert {name: leaf.shape for name, leaf in maps.items()} == {
        "stages_0": (2, 9, 6, 4),
        "stages_1": (2, 5, 3, 8),
    }
    # The norms belong to the maps.
    np.testing.assert_array_equal(model.features(IMAGES), maps["stages_1"])


def test_what_is_too_small_for_one_key():
    with pytest.raises(ShapeError, match="a map of 3 x 2 has no key at key_stride=4: images must"):
        tiny()(IMAGES[:, :12, :8])
    # Averages to 7 x 7 are of any map.
    assert tiny("pvt_v2_b2_li")(IMAGES[:, :12, :8]).shape == (2, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": (1, 3)}, r"widths must be multiples of heads=\(1, 3\), got \(4, 8\)"),
        ({"layers": (1, 1, 1)}, "must be of one length"),
        ({"layers": (1, 0)}, "layers must be"),
        ({"key_strides": (0, 1)}, "key_strides must be"),
        ({"mlp_ratios": (0, 1)}, "mlp_ratios must be a finite number above 0"),
        ({"drop_path": 1.5}, "drop_path must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        PyramidVisionTransformerV2(**{**TINY, **fields})
