"""Hybrids of convolutions and ViT: grids of tokens, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.vision_transformer_hybrid import HybridVisionTransformer

pytestmark = pytest.mark.family("vision_transformer_hybrid")

PLAIN = {"width": 24, "depth": 1, "heads": 3}
SMALL = {"trunk_layers": (1,), "trunk_widths": (128,), "trunk_stem": 32, **PLAIN}


@pytest.mark.parametrize(
    ("fields", "size", "grid", "reduction"),
    [
        ({**SMALL}, (20, 33), (5, 9), 4),
        ({"trunk": "resnet_d", **SMALL}, (20, 33), (5, 9), 4),
        ({**SMALL, "trunk_layers": (), "patch_size": 2}, (24, 32), (3, 4), 8),
        ({"trunk": "convolutions", **PLAIN}, (40, 70), (2, 4), 16),
    ],
)
def test_grids(fields, size, grid, reduction):
    """ResNets round their maps up; MobileCLIP's patches leave out what is no whole one."""
    backbone = HybridVisionTransformer(input_shape=(*size, 3), feature_maps=True, **fields)
    assert backbone.grid == grid
    images = jax.ShapeDtypeStruct((1, *size, 3), "float32")
    maps, _ = jax.eval_shape(backbone.init_with_output, jax.random.key(0), images)
    assert [leaf.shape for leaf in maps.values()] == [(1, *grid, 24)]
    assert backbone.reductions() == {"blocks_0": reduction}


def test_blocks_of_the_network_begin_as_their_shortcuts():
    model = fz.models.get("vit_small_r26_s32_224", input_shape=(16, 16, 3), **SMALL).init(rng=0)
    trunk = model.variables["params"]["backbone"]["patch_embed"]["backbone"]
    block = trunk["stages_0_blocks_0"]
    assert not np.any(block["norm3"]["scale"])
    assert np.all(block["norm2"]["scale"] == 1)


def test_images_of_any_size():
    fields = {"input_shape": (16, 16, 3), "num_classes": 2, **SMALL}
    model = fz.models.get("vit_small_r26_s32_224", dynamic_size=True, **fields).init(rng=0)
    assert model.features(np.zeros((1, 24, 9, 3), np.float32)).shape == (1, 1 + 6 * 3, 24)
    fixed = fz.models.get("vit_small_r26_s32_224", **fields).with_variables(model.variables)
    with pytest.raises(ShapeError, match=r"images must be of 16 x 16.*dynamic_size=True"):
        fixed(np.zeros((1, 24, 9, 3), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trunk": "resnet"}, "trunk must be one of"),
        ({"pre_norm": True}, "pre_norm must be False of a hybrid"),
        ({"trunk": "convolutions", "patch_size": 2}, "patch_size must be 1 for trunk="),
        ({"trunk_layers": (1, 1)}, "trunk_widths must have one for each of"),
        ({"trunk_widths": (64,)}, "widths must be a multiple of 128"),
        ({"trunk": "resnet_d", "trunk_layers": ()}, "layers must"),
        ({"patch_size": 3}, "whole patches of patch_size=3.*whose map has 4 x 4 pixels"),
        ({"heads": 5}, "width must be a multiple of heads=5"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        HybridVisionTransformer(input_shape=(16, 16, 3), **{**SMALL, **fields})
