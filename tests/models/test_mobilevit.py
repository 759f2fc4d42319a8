"""MobileViT: places in patches, maps that patches do not divide, and what does not fit."""

import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.mobilevit import MobileVit, bilinear, join_places, split_places
from flaxzoo.weights.synthetic import synthetic_images

pytestmark = pytest.mark.family("mobilevit")

TINY = {
    "layers": (1, 1),
    "widths": (8, 16),
    "attention_layers": (0, 1),
    "token_widths": (8,),
    "stem_width": 8,
}


def test_places_of_patches():
    x = np.arange(4 * 6, dtype=np.float32).reshape(1, 4, 6, 1)
    places = split_places(jnp.asarray(x), 2)
    assert places.shape == (1, 4, 6, 1)
    np.testing.assert_array_equal(places[0, 1, :, 0], x[0, ::2, 1::2, 0].ravel())
    np.testing.assert_array_equal(join_places(places, (4, 6), 2), x)


def test_maps_between_corners():
    x = np.array([0.0, 3.0], np.float32).reshape(1, 1, 2, 1)
    rows = bilinear(jnp.asarray(x), (1, 4), corners=True)
    np.testing.assert_allclose(rows.ravel(), [0, 1, 2, 3], atol=1e-6)
    rows = bilinear(jnp.asarray(x), (1, 4))
    np.testing.assert_allclose(rows.ravel(), [0, 0.75, 2.25, 3], atol=1e-6)
    assert bilinear(jnp.asarray(x), (2, 4), corners=True).shape == (1, 2, 4, 1)


@pytest.mark.parametrize(("name", "side"), [("mobilevit_xxs", 5), ("mobilevitv2_050", 6)])
def test_maps_that_patches_do_not_divide(name, side):
    model = fz.models.get(name, num_classes=3, input_shape=(16, 24, 3), **TINY).init(rng=0)
    maps = model.feature_maps(synthetic_images((1, 17, 18, 3)))
    assert [leaf.shape[1:3] for leaf in maps.values()] == [(9, 9), (side, side)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, r"widths must be multiples of heads=\(3,\), got \(8,\)"),
        ({"layers": (1,)}, "must be of one length"),
        ({"token_widths": (8, 8)}, "a width for each of 1 stages that attend"),
        ({"attention_layers": (0, -1)}, "attention_layers must be"),
        ({"patch_size": 0}, "patch_size must be"),
        ({"final_width": 0}, "final_width must be"),
        ({"expansion": 0.0}, "expansion must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
        ({"block_dropout": 1.0}, "block_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        MobileVit(**{**TINY, **fields})
