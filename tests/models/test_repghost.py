"""RepGhostNet: sizes, branches, and what does not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.models.repghost import RepGhostModule, RepGhostNet

pytestmark = pytest.mark.family("repghost")

TINY = {
    "layers": (1, 1),
    "widths": (8, 12),
    "hidden_widths": (8, 8),
    "gate_ratios": (0.0, 0.25),
    "strides": (1, 2),
    "kernel_sizes": (3, 5),
}


@pytest.mark.parametrize(
    ("fused", "names"),
    [
        (False, {"cheap_operation_0", "cheap_operation_1", "fusion_bn_0"}),
        (True, {"cheap_operation"}),
    ],
)
def test_branches_are_one_convolution_in_inference(fused, names):
    module = RepGhostModule(features=4, fused=fused)
    x = np.zeros((1, 4, 4, 3), np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    assert shapes["params"].keys() == {"primary_conv_0", "primary_conv_1"} | names


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 2)}, "widths must have one for each of 3 blocks, got 2"),
        ({"strides": (1, 3)}, r"strides must be 1 or 2, got \(1, 3\)"),
        ({"kernel_sizes": (3,)}, "must be of one length"),
        ({"hidden_widths": (8,)}, "must be of one length"),
        ({"gate_ratios": (0.0, -1.0)}, "gate_ratios must be"),
        ({"head_width": 0}, "head_width must be"),
        ({"drop_path": 1.5}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        RepGhostNet(**{**TINY, **fields})
