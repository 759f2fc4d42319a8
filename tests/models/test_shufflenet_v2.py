"""ShuffleNet V2: what a block passes on, where the halves go, and what does not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.models.shufflenet_v2 import ShuffleBlock, ShuffleNetV2

pytestmark = pytest.mark.family("shufflenet_v2")


def test_half_of_the_channels_pass_by_and_are_dealt_out():
    x = np.random.default_rng(0).random((2, 5, 5, 8), np.float32)
    y, variables = ShuffleBlock(8).init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(y[..., ::2], x[..., :4])
    assert set(variables["params"]) == {f"branch2_{i}" for i in (0, 1, 3, 4, 5, 6)}


def test_a_strided_block_has_two_branches_of_all_channels():
    x = np.random.default_rng(0).random((2, 5, 7, 6), np.float32)
    y, variables = ShuffleBlock(8, 2).init_with_output(jax.random.key(0), x)
    assert y.shape == (2, 3, 4, 8)
    params = variables["params"]
    assert params["branch1_0"]["kernel"].shape == (3, 3, 1, 6)
    assert params["branch1_2"]["kernel"].shape == params["branch2_0"]["kernel"].shape
    assert (y >= 0).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (8, 12)}, "layers .* widths"),
        ({"widths": (8, 13, 16)}, "widths must be even"),
        ({"last_width": 0}, "last_width must be"),
        ({"norm": "batches"}, "norm must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        ShuffleNetV2(**{"widths": (8, 12, 16), **fields})
