"""Swin's windows: fitted to images, of each stage, shifted; what does not fit."""

import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.layers.relative_position import NAME as TABLE
from flaxzoo.models.swin_transformer import SwinTransformer

pytestmark = pytest.mark.family("swin_transformer")

NAME = "swin_tiny_patch4_window7_224"
TINY = {"width": 4, "heads": (1, 2), "layers": (2, 1), "window_size": 3, "num_classes": 3}
IMAGES = np.random.default_rng(0).random((2, 24, 40, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    return fz.models.get(NAME, input_shape=(24, 40, 3), **TINY).init(rng=0)


def tables(model):
    backbone = model.shapes()["params"]["backbone"]
    return {
        name: block["attn"][TABLE].shape
        for name, block in backbone.items()
        if name.startswith("layers_") and "attn" in block
    }


def test_maps_and_weights_of_attention(model):
    maps = model.feature_maps(IMAGES)
    assert {name: leaf.shape for name, leaf in maps.items()} == {
        "layers_0": (2, 6, 10, 4),
        "layers_1": (2, 3, 5, 8),
    }
    weights = model.attention_weights(IMAGES)
    # Ten columns are filled up to four windows.
    assert {name: leaf.shape for name, leaf in weights.items()} == {
        "layers_0_blocks_0/attn": (2 * 2 * 4, 1, 9, 9),
        "layers_0_blocks_1/attn": (2 * 2 * 4, 1, 9, 9),
        "layers_1_blocks_0/attn": (2 * 2, 2, 9, 9),
    }
    np.testing.assert_allclose(weights["layers_0_blocks_1/attn"].sum(-1), 1, rtol=1e-5)


def test_windows_are_no_larger_than_maps():
    fields = {**TINY, "window_size": 7}
    small = fz.models.get(NAME, input_shape=(24, 40, 3), **fields)
    assert tables(small) == {
        "layers_0_blocks_0": (11 * 13, 1),
        "layers_0_blocks_1": (11 * 13, 1),
        "layers_1_blocks_0": (5 * 9, 2),
    }
    assert small.module.backbone.window(0) == ((6, 7), (0, 3))
    filled = fz.models.get(NAME, input_shape=(24, 40, 3), always_partition=True, **fields)
    assert set(tables(filled).values()) == {(13 * 13, 1), (13 * 13, 2)}
    stages = fz.models.get(NAME, input_shape=(24, 40, 3), **{**TINY, "window_size": ((2, 4), 3)})
    assert [shape[0] for shape in tables(stages).values()] == [3 * 7, 3 * 7, 5 * 5]


def test_images_of_any_size(model):
    other = np.ones((1, 32, 28, 3), np.float32)
    with pytest.raises(ShapeError, match=r"of 24 x 40, got .*input_shape=, or dynamic_size=True"):
        model(other)
    dynamic = fz.models.get(NAME, input_shape=(24, 40, 3), dynamic_size=True, **TINY)
    dynamic = dynamic.with_variables(model.variables)
    assert dynamic(other).shape == (1, 3)
    np.testing.assert_array_equal(dynamic(IMAGES), model(IMAGES))
    with pytest.raises(ShapeError, match="multiples of those of patches"):
        dynamic(np.ones((1, 30, 28, 3), np.float32))
    # What is no whole patch is not seen, as in timm.
    odd = fz.models.get(NAME, input_shape=(27, 41, 3), **TINY).with_variables(model.variables)
    filled = np.pad(IMAGES, ((0, 0), (0, 3), (0, 1), (0, 0)), constant_values=9)
    np.testing.assert_array_equal(odd(filled), model(IMAGES))


def test_half_precision_keeps_the_biases_and_the_softmax(model):
    half = fz.models.get(NAME, input_shape=(24, 40, 3), dtype=jnp.bfloat16, **TINY)
    out = half.module.apply(model.variables, IMAGES)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), model(IMAGES), atol=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window_size": (7, 7, 7)}, "one of these for each of 4 stages, got"),
        ({"window_size": 0}, "window_size must be"),
        ({"heads": (3, 6)}, "layers and heads must be of one length, got 4 and 2"),
        ({"heads": (5, 6, 12, 24)}, "multiples of heads="),
        ({"input_shape": (3, 224, 224)}, "at least one patch of 4 x 4"),
        ({"attention_dropout": 1.5}, "attention_dropout must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        SwinTransformer(**fields)
