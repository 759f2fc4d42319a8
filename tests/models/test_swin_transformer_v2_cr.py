"""Swin V2 (CR): windows, norms behind blocks, older files, and what does not fit."""

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.registry import MODELS
from flaxzoo.models.swin_transformer_v2_cr import SwinTransformerV2Cr

pytestmark = pytest.mark.family("swin_transformer_v2_cr")

NAME = "swinv2_cr_tiny_224"
TINY = {"width": 4, "heads": (1, 2), "layers": (3, 1), "input_shape": (64, 96, 3)}


def norms(**fields):
    """The blocks that a norm stands behind."""
    shapes = fz.models.get(NAME, num_classes=3, **TINY, **fields).shapes()["params"]["backbone"]
    return [name for name, block in sorted(shapes.items()) if "norm3" in block]


def test_windows_follow_the_images():
    backbone = SwinTransformerV2Cr(**TINY)
    assert backbone.windows() == ((2, 3), (2, 3))
    assert backbone.clone(window_ratio=(8, 4)).windows() == ((2, 3), (4, 6))
    assert backbone.clone(window_ratio=64).windows() == ((1, 1), (1, 1))
    assert backbone.clone(window_size=(5, 7)).windows() == ((5, 7), (5, 7))
    assert MODELS.get("swinv2_cr_base_384").backbone.windows() == ((12, 12),) * 4


def test_where_norms_stand_behind_blocks():
    assert norms() == ["stages_1_blocks_0"]
    assert norms(extra_norm_stage=True) == ["stages_0_blocks_2", "stages_1_blocks_0"]
    assert norms(extra_norm_period=2) == ["stages_0_blocks_1", "stages_1_blocks_0"]


def test_older_files_have_one_over_the_scales():
    convert = MODELS.architecture(NAME).reference.convert
    tau, head = np.array([0.1, 0.5], np.float32), np.ones((3, 8), np.float32)
    files = {"stages.0.blocks.0.attn.tau": tau, "head.weight": head}
    converted = convert(files, None)
    assert set(converted) == {"stages.0.blocks.0.attn.logit_scale", "head.fc.weight"}
    scale = converted["stages.0.blocks.0.attn.logit_scale"]
    np.testing.assert_allclose(scale, np.log([10, 2]), rtol=1e-6)
    assert convert({"head.fc.weight": head}, None) == {"head.fc.weight": head}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window_ratio": (8, 8, 8)}, "must be of one length"),
        ({"window_ratio": 0}, "window_ratio must be"),
        ({"extra_norm_period": 0}, "extra_norm_period must be"),
        ({"position_width": 0}, "position_width must be"),
        ({"position_mlp_dropout": 1.5}, "position_mlp_dropout must be"),
        ({"heads": (1, 3)}, "widths must be multiples of heads"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        SwinTransformerV2Cr(**{**TINY, **fields})
