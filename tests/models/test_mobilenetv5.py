"""MobileNet V5: maps that are joined, the tower without a classifier, Gemma's files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.mobilenetv5 import FusionAdapter, MobileNetV5, convert, nearest

pytestmark = pytest.mark.family("mobilenetv5")

TINY = {
    "blocks": (("er_s2_e2_c8",), ("uir_s2_e2_c8", "mqa_h2_d4_c8")),
    "stem_width": 8,
    "fusion_width": 8,
    "fusion_size": 2,
}


def test_the_nearest_pixels():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    out = nearest(x, (4, 3))[0, ..., 0]
    np.testing.assert_array_equal(out, [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]])
    np.testing.assert_array_equal(nearest(x, (2, 4))[0, 0, :, 0], [0, 0, 1, 2])
    assert nearest(x, (2, 2)) is x


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2, 2), [[0, 1], [2, 3]]),
        ((4, 6), [[4.0, 7.0], [16.0, 19.0]]),
        # Between the two nearest, the weights of which are a quarter and three.
        ((3, 4), [[1.5, 3.5], [7.5, 9.5]]),
    ],
)
def test_the_map_gets_its_size(size, expected):
    x = np.arange(float(np.prod(size))).reshape(1, *size, 1)
    out = FusionAdapter(size=2, parent=None).of_size(x)
    np.testing.assert_allclose(out[0, ..., 0], expected, rtol=1e-5)


def test_the_tower_has_no_classifier_unless_asked():
    tower = fz.models.get("mobilenetv5_300m_enc", **TINY)
    assert "head" not in tower.shapes()["params"]
    assert tower.module.backbone.padding == "SAME"
    images = jax.ShapeDtypeStruct((2, 40, 24, 3), "float32")
    whole = fz.models.get("mobilenetv5_300m_enc", pooling=None, **TINY)
    maps, _ = jax.eval_shape(whole.module.init_with_output, jax.random.key(0), images)
    assert maps.shape == (2, 2, 2, 8)
    classes = fz.models.get("mobilenetv5_300m_enc", num_classes=3, **TINY)
    assert classes.shapes()["params"]["head"]["fc"]["kernel"].shape == (8, 3)


def test_files_of_gemma():
    prefix = "model.vision_tower.timm_model."
    inside = ("conv_stem.conv.weight", "blocks.2.11.attn.key.down_conv.weight", "msfa.norm.weight")
    others = ("model.language_model.norm.weight",)
    tensors = {name: np.zeros(1) for name in (*(prefix + name for name in inside), *others)}
    assert set(convert(tensors, None)) == set(inside)
    today = {"conv_stem.conv.weight": np.zeros(1)}
    assert convert(today, None) is today


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blocks": (("er_s2_e2_c8",),)}, "two stages at least, got 1"),
        ({"fusion_width": 0}, "fusion_width must be"),
        ({"fusion_size": 0}, "fusion_size must be"),
        ({"fusion_ratio": 0.0}, "fusion_ratio must be"),
        ({"padding": "same"}, "padding must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        MobileNetV5(**{**TINY, **fields})
