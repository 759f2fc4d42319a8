"""CoAtNet and MaxViT: what is halved, what attends, windows of an image, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.maxxvit import MaxxViT, PartitionBlock, shrink

pytestmark = pytest.mark.family("maxxvit")

TINY = {
    "input_shape": (32, 48, 3),
    "layers": (1, 1),
    "widths": (8, 16),
    "stem_widths": (8, 8),
    "blocks": ("max", "transformer"),
    "head_dim": 8,
    "partition_ratio": 16,
}
MAPS = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)


def test_maps_are_halved_as_tensorflow_does_it():
    x = jnp.arange(25.0).reshape(1, 5, 5, 1)
    assert shrink(x, "avg").shape == (1, 2, 2, 1)
    averaged = shrink(x, "avg", "SAME")
    assert averaged.shape == (1, 3, 3, 1)
    assert averaged[0, 2, 2, 0] == 24 / 4
    even = x[:, :4, :4]
    np.testing.assert_array_equal(shrink(even, "max")[0, ..., 0], [[6, 8], [16, 18]])
    np.testing.assert_array_equal(shrink(even, "max", "SAME")[0, ..., 0], [[12, 13], [17, 18]])


@pytest.mark.parametrize("spread", [False, True])
def test_pixels_see_those_of_their_window_or_grid(spread):
    module = PartitionBlock(1, window=(2, 4), spread=spread)
    variables = module.init(jax.random.key(0), MAPS)
    other = MAPS.copy()
    other[0, 0, 0] += np.arange(8)
    seen = np.abs(module.apply(variables, other) - module.apply(variables, MAPS)).max(-1)[0] > 0
    expected = np.zeros((4, 8), bool)
    expected[slice(0, 4, 2) if spread else slice(2), slice(0, 8, 2) if spread else slice(4)] = True
    np.testing.assert_array_equal(seen, expected)


def test_windows_follow_the_image():
    backbone = MaxxViT(**TINY)
    assert backbone.partition() == backbone.partition(spread=True) == (2, 3)
    assert backbone.clone(window_size=2).partition(spread=True) == (2, 2)
    fitted = backbone.clone(window_size=(4, 2), grid_size=(2, 6))
    assert (fitted.partition(), fitted.partition(spread=True)) == ((4, 2), (2, 6))
    assert backbone.map_size(1) == (4, 6)


def test_classifiers_with_and_without_a_hidden_layer():
    for width, names in ((12, {"norm", "dense_0", "fc"}), (None, {"fc"})):
        model = fz.models.get("coatnet_0_224", num_classes=3, **{**TINY, "head_width": width})
        shapes = model.shapes()["params"]
        assert set(shapes["head"]) == names
        assert ("norm" in shapes["backbone"]) is (width is None)


def test_images_of_another_size_are_refused():
    backbone = MaxxViT(**TINY)
    images = jax.ShapeDtypeStruct((1, 64, 48, 3), "float32")
    message = "images of 64 x 48 have maps of 8 x 6 in stage 1, where attention is over 4 x 6: give"
    with pytest.raises(ShapeError, match=message):
        jax.eval_shape(backbone.init, jax.random.key(0), images)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blocks": ("max", "attend")}, "blocks must be one of .* got 'attend'"),
        ({"blocks": ("max", ())}, "blocks must name a kind for each stage"),
        ({"layers": (1, 1, 1)}, "must be of one length"),
        ({"stem_widths": (8,)}, "stem_widths must be two numbers"),
        ({"widths": (8, 12)}, "multiples of head_dim=8, got 12 in stage 1"),
        (
            {"widths": (4, 16), "blocks": ("conv", "transformer"), "expand_first": False},
            "multiples of head_dim=8, got 4 in stage 1",
        ),
        ({"window_size": 3}, "images of 32 x 48 have maps of 8 x 12 in stage 0, .* over 3 x 3"),
        ({"input_shape": (36, 48, 3)}, "attention is over 2 x 3: give get.* window_size="),
        ({"blocks": ("parallel", "max"), "window_size": 2, "grid_size": 4}, "grids as large as"),
        ({"conv": "fused"}, "conv must be one of"),
        ({"positions": "none"}, "positions must be one of"),
        ({"padding": "VALID"}, "padding must be one of 'SAME' or None, got 'VALID'"),
        ({"pool": "min"}, "pool must be one of"),
        ({"head_dim": 0}, "head_dim must be"),
        ({"gate_ratio": 0.0}, "gate_ratio must be"),
        ({"block_dropout": 1.0}, "block_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        MaxxViT(**{**TINY, **fields})
