"""DaViT's two kinds of attention, sizes, and fields that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.davit import ChannelAttention, DaViT

pytestmark = pytest.mark.family("davit")

TINY = {"widths": (4, 8), "heads": (1, 2), "layers": (1, 1), "window_size": 3, "num_classes": 3}


@pytest.fixture(scope="module")
def model():
    return fz.models.get("davit_tiny", **TINY).init(rng=0)


def test_maps_of_images_of_any_size(model):
    for height, width in ((24, 40), (30, 21)):
        images = np.ones((2, height, width, 3), np.float32)
        rows, columns = -(-height // 4), -(-width // 4)
        maps = model.feature_maps(images)
        assert {name: leaf.shape for name, leaf in maps.items()} == {
            "stages_0": (2, rows, columns, 4),
            "stages_1": (2, -(-rows // 2), -(-columns // 2), 8),
        }
    # What channels look at is none of the tokens' business.
    weights = model.attention_weights(np.ones((2, 24, 40, 3), np.float32))
    assert {name: leaf.shape for name, leaf in weights.items()} == {
        "stages_0_blocks_0/spatial_block/attn": (2 * 2 * 4, 1, 9, 9),
        "stages_1_blocks_0/spatial_block/attn": (2 * 1 * 2, 2, 9, 9),
    }


@pytest.mark.parametrize("by_length", [False, True])
def test_channels_attend_to_channels(by_length):
    tokens = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
    module = ChannelAttention(2, by_length=by_length)
    variables = module.init(jax.random.key(0), tokens)
    out = module.apply(variables, tokens)
    # One group of channels by itself, as the paper's equation 5.
    params = variables["params"]
    qkv = tokens @ params["qkv"]["kernel"]
    q, k, v = (part.reshape(2, 5, 2, 3) for part in np.split(qkv, 3, -1))
    first, second, seen = (q, k, v) if by_length else (k, v, q)
    scale = 5**-0.5 if by_length else 3**-0.5
    weights = jax.nn.softmax(scale * jnp.einsum("bnhc,bnhd->bhcd", first, second))
    mixed = jnp.einsum("bhcd,bnhd->bnhc", weights, seen).reshape(2, 5, 6)
    np.testing.assert_allclose(out, mixed @ params["proj"]["kernel"], rtol=1e-5, atol=1e-6)


def test_half_precision(model):
    images = np.random.default_rng(0).random((2, 24, 40, 3), np.float32)
    half = fz.models.get("davit_tiny", dtype=jnp.bfloat16, **TINY)
    out = half.module.apply(model.variables, images)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), model(images), atol=0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": (5, 6, 12, 24)}, "multiples of heads="),
        ({"layers": (1, 1)}, "layers, widths and heads must be of one length"),
        ({"window_size": 0}, "window_size must be"),
        ({"drop_path": 1.0}, "drop_path must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        DaViT(**fields)
