"""PP-LCNet V2: its branches, what stands in which stage, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.lcnetv2 import LCNetV2, SeparableBlock

pytestmark = pytest.mark.family("lcnetv2")

TINY = {"layers": (1, 1, 1, 2), "width": 4, "head_width": 12}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"branched": False}, {"dw_conv"}),
        ({"branched": True}, {"dw_conv_list_0", "dw_conv_list_1", "dw_conv_list_2"}),
        ({"branched": True, "stride": 2}, {"dw_conv_list_0", "dw_conv_list_1"}),
        ({"branched": True, "fused": True}, {"dw_conv"}),
    ],
)
def test_branches(fields, names):
    block = SeparableBlock(6, kernel_size=5, **fields)
    x = np.zeros((1, 8, 8, 4), np.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    assert shapes["params"].keys() == {"pw_conv"} | names


def test_what_stands_in_which_stage():
    model = fz.models.get("lcnetv2_base", num_classes=2, **TINY)
    blocks = model.shapes()["params"]["backbone"]
    assert [name for name, own in blocks.items() if "se" in own] == ["stages_2_0"]
    assert blocks["stages_2_0"]["pw_conv_0"]["conv"]["kernel"].shape == (1, 1, 32, 32)
    assert blocks["stages_3_0"].keys() == {"dw_conv_list_0", "dw_conv_list_1", "pw_conv"}


def test_no_layer_behind_the_pooling():
    model = fz.models.get("lcnetv2_base", num_classes=2, **{**TINY, "head_width": None})
    assert model.shapes()["params"]["head"]["fc"]["kernel"].shape == (128, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 1)}, r"layers must be of the four stages, got \(1, 1\)"),
        ({"layers": (1, 1, 0, 1)}, "layers must be"),
        ({"width": 0}, "width must be"),
        ({"head_width": 0}, "head_width must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        LCNetV2(**{**TINY, **fields})
