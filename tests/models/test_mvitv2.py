"""MViT v2: distances, pooled shapes, refusals."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.mvitv2 import MultiScaleVisionTransformer, distances

pytestmark = pytest.mark.family("mvitv2")

TINY = {"layers": (1, 2), "width": 8, "key_stride": 2, "input_shape": (16, 16, 3)}


def test_distances_count_in_the_finer_steps():
    np.testing.assert_array_equal(distances(3, 3), [[2, 1, 0], [3, 2, 1], [4, 3, 2]])
    np.testing.assert_array_equal(distances(4, 2), [[2, 0], [3, 1], [4, 2], [5, 3]])
    np.testing.assert_array_equal(distances(2, 4), [[3, 2, 1, 0], [5, 4, 3, 2]])
    for sizes in ((4, 2), (2, 4), (8, 2), (2, 8)):
        assert distances(*sizes).min() >= 0
        assert distances(*sizes).max() <= 2 * max(sizes) - 2


@pytest.mark.parametrize("class_token", [False, True])
def test_tokens_maps_and_tables(class_token):
    model = fz.models.get("mvitv2_tiny", num_classes=3, class_token=class_token, **TINY)
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), "float32")
    variables = {"params": model.shapes()["params"]["backbone"]}
    backbone = model.module.backbone
    tokens = jax.eval_shape(backbone.apply, variables, images)
    assert tokens.shape == (2, 4 + class_token, 16)
    maps = jax.eval_shape(backbone.clone(feature_maps=True).apply, variables, images)
    assert {name: leaf.shape for name, leaf in maps.items()} == {
        "stages_0": (2, 4, 4, 8),
        "stages_1": (2, 2, 2, 16),
    }
    tables = [
        variables["params"][name]["attn"]["rel_pos_h"].shape
        for name in ("stages_0_blocks_0", "stages_1_blocks_0", "stages_1_blocks_1")
    ]
    # 4 queries to 2 keys, 2 to 4, and 2 to 2.
    assert tables == [(7, 8), (7, 8), (3, 8)]


def test_where_tokens_are_widened():
    early, late = (
        fz.models.get("mvitv2_tiny", widen_early=early, **TINY).shapes()["params"]["backbone"]
        for early in (True, False)
    )
    assert early["stages_1_blocks_0"]["shortcut_proj_attn"]["kernel"].shape == (8, 16)
    assert late["stages_0_blocks_0"]["shortcut_proj_mlp"]["kernel"].shape == (8, 16)
    assert late["stages_0_blocks_0"]["mlp"]["fc1"]["kernel"].shape == (8, 32)
    assert "shortcut_proj_attn" not in late["stages_1_blocks_0"]


def test_images_and_fields_that_do_not_fit():
    model = fz.models.get("mvitv2_tiny", num_classes=3, **TINY)
    with pytest.raises(ShapeError, match=r"images must be of 16 x 16, got .*input_shape="):
        jax.eval_shape(
            model.module.apply, model.shapes(), jax.ShapeDtypeStruct((1, 24, 24, 3), "float32")
        )
    for fields, message in (
        ({"input_shape": (224, 256, 3)}, "equal height and width, a multiple of 32, got .*square"),
        ({"input_shape": (200, 200, 3)}, "a multiple of 32, got"),
        ({"heads": 5}, "width must be a multiple of heads=5, got 96"),
        ({"layers": (1, 0)}, "layers must be"),
        ({"key_stride": 0}, "key_stride must be"),
        ({"drop_path": 1.5}, "drop_path must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            MultiScaleVisionTransformer(**fields)
