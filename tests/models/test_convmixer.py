"""ConvMixer's blocks by their formula, its maps, and fields that do not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.convmixer import ConvMixer, MixerBlock

pytestmark = pytest.mark.family("convmixer")

TINY = {"width": 4, "depth": 2, "kernel_size": 3, "patch_size": 4}


def test_a_block_adds_its_branch_before_the_layer_of_each_pixel(random_variables):
    x = np.random.default_rng(0).standard_normal((1, 5, 6, 4)).astype(np.float32)
    block = MixerBlock(width=4, kernel_size=3, activation="relu")
    variables = random_variables(block, x)
    params, stats = variables["params"], variables["batch_stats"]

    def normed(y, name):
        y = np.maximum(y, 0)
        y = (y - stats[name]["mean"]) / np.sqrt(stats[name]["var"] + 1e-5)
        return y * params[name]["scale"] + params[name]["bias"]

    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = params["conv_dw"]["kernel"]
    near = sum(
        padded[:, i : i + 5, j : j + 6] * kernel[i, j, 0] for i in range(3) for j in range(3)
    )
    y = x + normed(near + params["conv_dw"]["bias"], "norm_dw")
    layer = params["conv_pw"]
    expected = normed(y @ layer["kernel"][0, 0] + layer["bias"], "norm_pw")
    np.testing.assert_allclose(block.apply(variables, x), expected, rtol=1e-4, atol=1e-5)


def test_maps_of_whole_patches():
    model = fz.models.get("convmixer_1536_20", **TINY)
    images = jax.ShapeDtypeStruct((2, 18, 31, 3), "float32")
    backbone = model.module.backbone
    maps, _ = jax.eval_shape(
        lambda x: backbone.clone(feature_maps=True).init_with_output(jax.random.key(0), x), images
    )
    assert {name: leaf.shape for name, leaf in maps.items()} == {
        f"blocks_{i}": (2, 4, 7, 4) for i in range(2)
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd, so that maps keep their size, got 4"),
        ({"depth": 0}, "depth must be"),
        ({"width": 0}, "width must be"),
        ({"patch_size": 0}, "patch_size must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        ConvMixer(**{**TINY, **fields})
