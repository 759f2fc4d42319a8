"""SENet: where it pools, strides and gates, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.senet import ActivatedBasicBlock, EarlyStrideBottleneck, SENet

pytestmark = pytest.mark.family("senet")

TINY = {"layers": (1, 1), "widths": (4, 8), "block": "early_stride"}


def test_the_pooling_rounds_up():
    # The image's pixels are numbered, so that each maximum is the last one that a window sees.
    x = np.arange(1, 43, dtype=np.float32).reshape(1, 6, 7, 1)
    pooled = SENet(**TINY)._pool(x, False)
    np.testing.assert_array_equal(pooled[0, :, :, 0], [[17, 19, 21], [31, 33, 35], [38, 40, 42]])
    assert SENet(**TINY)._pool(x[:, :1, :1], False).shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("block", "strided"), [(EarlyStrideBottleneck, "conv1"), (ActivatedBasicBlock, "conv1")]
)
def test_the_stride_is_in_the_first_convolution(block, strided):
    module = block(4, stride=2, project=True, norm="batch")
    x = jax.ShapeDtypeStruct((1, 7, 9, 6), "float32")
    _, state = jax.eval_shape(
        lambda key, x: module.init_with_output(key, x, capture_intermediates=True),
        jax.random.key(0),
        x,
    )
    assert state["intermediates"][strided]["__call__"][0].shape[1:3] == (4, 5)


def test_the_gate_is_a_sixteenth():
    model = fz.models.get("legacy_seresnet18", layers=(1, 1), widths=(64, 128))
    params = model.shapes(jax.ShapeDtypeStruct((1, 32, 32, 3), "float32"))["params"]["backbone"]
    assert params["layer1_0"]["se"]["fc1"]["kernel"].shape == (1, 1, 64, 4)
    assert params["layer2_0"]["se"]["fc1"]["kernel"].shape == (1, 1, 128, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": "bottlenek"}, "block must be one of 'basic', 'early_stride', 'bottleneck'"),
        ({"anti_aliasing": "blur"}, "EarlyStrideBottleneck takes no anti_aliasing, got 'blur'"),
        ({"block": "basic", "base_width": 4}, "a basic block takes groups=1 and base_width=64"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        SENet(**{**TINY, **fields})
