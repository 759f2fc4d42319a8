"""FocalNet's modulation, its names, and fields that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.focalnet import FocalModulation, FocalNet

pytestmark = pytest.mark.family("focalnet")

TINY = {"width": 4, "layers": (1, 1), "levels": (2, 1), "windows": (3, 3), "num_classes": 3}


@pytest.fixture(scope="module")
def model():
    return fz.models.get("focalnet_tiny_srf", **TINY).init(rng=0)


def test_maps_of_images_of_any_size(model):
    for height, width in ((24, 40), (33, 19)):
        maps = model.feature_maps(np.ones((2, height, width, 3), np.float32))
        rows, columns = height // 4, width // 4
        assert {name: leaf.shape for name, leaf in maps.items()} == {
            "layers_0": (2, rows, columns, 4),
            "layers_1": (2, rows // 2, columns // 2, 8),
        }
    with pytest.raises(TypeError, match="no attention weights to show"):
        model.attention_weights(np.ones((1, 24, 40, 3), np.float32))


def test_a_pixel_is_its_query_times_its_contexts():
    maps = np.random.default_rng(0).standard_normal((1, 5, 6, 4)).astype(np.float32)
    module = FocalModulation(1, 3)
    variables = module.init(jax.random.key(0), maps)
    params = variables["params"]
    first = maps @ params["f"]["kernel"][0, 0]
    query, context, gates = np.split(first, [4, 8], axis=-1)
    padded = np.pad(context, ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = sum(
        padded[:, i : i + 5, j : j + 6] * params["focal_layers_0_0"]["kernel"][i, j, 0]
        for i in range(3)
        for j in range(3)
    )
    near = jax.nn.gelu(near, approximate=False)
    far = jax.nn.gelu(near.mean((1, 2), keepdims=True), approximate=False)
    total = near * gates[..., :1] + far * gates[..., 1:]
    expected = (query * (total @ params["h"]["kernel"][0, 0])) @ params["proj"]["kernel"][0, 0]
    np.testing.assert_allclose(module.apply(variables, maps), expected, rtol=1e-4, atol=1e-7)


def test_where_the_norms_stand():
    names = {}
    for name in ("focalnet_tiny_srf", "focalnet_large_fl4", "focalnet_huge_fl4"):
        model = fz.models.get(name, **TINY)
        block = model.shapes()["params"]["backbone"]["layers_0_blocks_0"]
        names[name] = {key for key in block if key[:2] in ("no", "ls")} | {
            f"modulation/{key}" for key in block["modulation"] if key == "norm"
        }
    post = {"norm1_post", "norm2_post", "ls1", "ls2"}
    assert names == {
        "focalnet_tiny_srf": {"norm1", "norm2"},
        "focalnet_large_fl4": post,
        "focalnet_huge_fl4": {*post, "modulation/norm"},
    }


def test_half_precision(model):
    images = np.random.default_rng(0).random((2, 24, 40, 3), np.float32)
    half = fz.models.get("focalnet_tiny_srf", dtype=jnp.bfloat16, **TINY)
    out = half.module.apply(model.variables, images)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), model(images), atol=0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": (2, 2)}, "layers, levels and windows must be of one length"),
        ({"windows": (3, 3, 3, 0)}, "windows must be"),
        ({"width": 0}, "width must be"),
        ({"block_dropout": 1.0}, "block_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        FocalNet(**fields)
