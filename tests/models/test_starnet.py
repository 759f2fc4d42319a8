"""StarNet's products by their formula, its maps, and fields that do not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.models.starnet import StarBlock, StarNet

pytestmark = pytest.mark.family("starnet")

TINY = {"layers": (1, 1), "width": 4, "stem_width": 4, "mlp_ratio": 2}


def test_layers_are_multiplied(random_variables):
    x = np.random.default_rng(0).standard_normal((1, 1, 1, 3)).astype(np.float32)
    block = StarBlock(mlp_ratio=2)
    variables = random_variables(block, x)
    params, stats = variables["params"], variables["batch_stats"]

    def conv(y, name):
        # Of a map of one pixel a kernel's middle is all that counts.
        layer = params[name]["conv"]
        kernel = layer["kernel"][layer["kernel"].shape[0] // 2, layer["kernel"].shape[1] // 2]
        return (y * kernel[0] if name.startswith("dw") else y @ kernel) + layer["bias"]

    def norm(y, name):
        mean, var = stats[name]["bn"]["mean"], stats[name]["bn"]["var"]
        own = params[name]["bn"]
        return (y - mean) / np.sqrt(var + 1e-5) * own["scale"] + own["bias"]

    y = norm(conv(x, "dwconv"), "dwconv")
    star = np.clip(conv(y, "f1"), 0, 6) * conv(y, "f2")
    expected = x + conv(norm(conv(star, "g"), "g"), "dwconv2")
    np.testing.assert_allclose(block.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_each_stage_halves_the_map():
    images = jax.ShapeDtypeStruct((2, 33, 50, 3), "float32")
    maps, _ = jax.eval_shape(
        StarNet(feature_maps=True, **TINY).init_with_output, jax.random.key(0), images
    )
    assert {name: leaf.shape for name, leaf in maps.items()} == {
        "stages_0": (2, 9, 13, 4),
        "stages_1": (2, 5, 7, 8),
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 0)}, "layers must be"),
        ({"mlp_ratio": 0}, "mlp_ratio must be"),
        ({"stem_width": 0}, "stem_width must be"),
        ({"drop_path": 1.0}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        StarNet(**{**TINY, **fields})
