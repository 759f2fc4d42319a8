"""Res2Net: which convolutions see each other, and what does not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.models.res2net import Res2Net, Res2NetBlock

pytestmark = pytest.mark.family("res2net")

TINY = {"layers": (1, 1), "widths": (4, 8), "base_width": 32, "scale": 3}


@pytest.mark.parametrize("begins", [False, True])
def test_a_later_share_sees_the_earlier_ones(begins):
    """But where a stage begins."""
    block = Res2NetBlock(8, base_width=8, scale=3, project=begins)
    x = np.random.default_rng(0).standard_normal((1, 5, 5, 32)).astype(np.float32)
    variables = block.init(jax.random.key(0), x)

    def second(first_kernel):
        params = {**variables["params"], "convs_0": {"kernel": first_kernel}}
        _, state = block.apply(
            {**variables, "params": params}, x, capture_intermediates=True, mutable="intermediates"
        )
        return state["intermediates"]["convs_1"]["__call__"][0]

    kernel = variables["params"]["convs_0"]["kernel"]
    changed = not np.array_equal(second(kernel), second(2 * kernel))
    assert changed is not begins


@pytest.mark.parametrize(("scale", "count"), [(1, 1), (2, 1), (4, 3)])
def test_the_last_share_has_no_convolution(scale, count):
    block = Res2NetBlock(8, base_width=16, scale=scale, project=True, stride=2)
    x = jax.ShapeDtypeStruct((1, 7, 9, 6), "float32")
    y, variables = jax.eval_shape(block.init_with_output, jax.random.key(0), x)
    assert y.shape == (1, 4, 5, 32)
    params = variables["params"]
    assert params["conv1"]["kernel"].shape[-1] == 2 * scale
    assert [name for name in params if name.startswith("convs_")] == [
        f"convs_{i}" for i in range(count)
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": 0}, "scale must be"),
        ({"block": "basic"}, "block must be one of 'bottleneck'"),
        ({"anti_aliasing": "avg"}, "take anti_aliasing=None, got 'avg'"),
        ({"reduce_first": 2}, "take reduce_first=1, got 2"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Res2Net(**{**TINY, **fields})
