"""ResNet V2: what begins a stage, what is dilated, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.resnetv2 import PreActBasic, PreActBottleneck, ResNetV2

pytestmark = pytest.mark.family("resnetv2")

TINY = {"layers": (1, 1, 1, 1), "widths": (32, 32, 64, 64), "stem_width": 16}


def shapes(module, *size):
    """The map of a module, and its parameters."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


@pytest.mark.parametrize(
    ("output_stride", "sides"), [(32, (9, 5, 3, 2)), (16, (9, 5, 3, 3)), (8, (9, 5, 5, 5))]
)
def test_later_stages_are_dilated(output_stride, sides):
    backbone = ResNetV2(output_stride=output_stride, feature_maps=True, **TINY)
    maps, params = shapes(backbone, 36, 36, 3)
    assert [leaf.shape[1] for leaf in maps.values()] == [18, *sides]
    assert params.keys() == shapes(ResNetV2(**TINY), 36, 36, 3)[1].keys()


def test_a_basic_block_projects_where_shapes_change():
    """A bottleneck does wherever it begins a stage."""
    for block, projects in ((PreActBasic, False), (PreActBottleneck, True)):
        params = shapes(block(features=32, project=True, norm="batch"), 8, 8, 32)[1]
        assert ("downsample" in params) is projects
    narrower = PreActBasic(features=16, project=True, norm="batch")
    assert "downsample" in shapes(narrower, 8, 8, 32)[1]


def test_zeros_at_the_edges_count_where_bit_pads():
    x = -np.ones((1, 6, 6, 4), np.float32)
    for zero_pool, corner in ((True, 0.0), (False, -1.0)):
        pooled = ResNetV2(zero_pool=zero_pool)._pool(x, False)
        assert pooled[0, 0, 0, 0] == corner
        assert pooled[0, 1, 1, 0] == -1


def test_widths_of_wider_networks():
    # Of all but the classifier.
    for name in ("resnetv2_50x1_bit", "resnetv2_50x3_bit"):
        model = fz.models.get(name, num_classes=0, layers=(1, 1), widths=(256, 512))
        sample = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
        kernel = model.shapes(sample)["params"]["backbone"]["stages_1_blocks_0"]["conv3"]["kernel"]
        factor = model.module.backbone.width_factor
        assert kernel.shape == (1, 1, 128 * factor, 512 * factor)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": "wide"}, "block must be one of"),
        ({"stem": "same"}, "stem must be one of"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"width_factor": 0}, "width_factor must be"),
        ({"ratio": 0.0}, "ratio must be"),
        ({"widths": (32,)}, "must be of one length"),
        ({"norm": "groups"}, "norm must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        ResNetV2(**{**TINY, **fields})
