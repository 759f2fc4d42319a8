"""DPN: what is added and what is appended, names, and fields that do not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.models.dpn import DPN, DualPathBlock

pytestmark = pytest.mark.family("dpn")

TINY = {
    "layers": (1, 2),
    "widths": (8, 16),
    "growths": (4, 6),
    "block_width": 8,
    "groups": 2,
    "stem_width": 6,
}


def test_channels_are_added_and_appended():
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 20)).astype(np.float32)
    for separate in (False, True):
        block = DualPathBlock(8, 4, 8, groups=2, separate=separate)
        y, variables = block.init_with_output(jax.random.key(0), x)
        assert y.shape == (2, 4, 5, 24)
        # What was appended before stays as it is.
        np.testing.assert_array_equal(y[..., 8:20], x[..., 8:])
        kernels = variables["params"]
        assert ("c1x1_c1" in kernels) is separate
    first = DualPathBlock(8, 4, 8, stride=2, project=True, groups=2)
    y, variables = jax.eval_shape(first.init_with_output, jax.random.key(0), x)
    assert y.shape == (2, 2, 3, 8 + 3 * 4)
    assert variables["params"]["c1x1_w_s2"]["conv"]["kernel"].shape == (1, 1, 20, 8 + 2 * 4)


def test_maps_grow_by_each_block():
    x = jax.ShapeDtypeStruct((1, 33, 48, 3), "float32")
    network = DPN(feature_maps=True, **TINY)
    maps = jax.eval_shape(network.init_with_output, jax.random.key(0), x)[0]
    assert {name: leaf.shape[1:] for name, leaf in maps.items()} == {
        "stem": (17, 24, 6),
        "conv2": (9, 12, 8 + 3 * 4),
        "conv3": (5, 6, 16 + 4 * 6),
    }


def test_stages_unfreeze_by_their_number():
    groups = DPN(**TINY).stages()
    assert list(groups) == [
        "features_conv1_1",
        "features_conv2_1",
        "features_conv3_1",
        "features_conv3_2",
        "features_conv5_bn_ac",
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"growths": (4,)}, "must be of one length"),
        ({"groups": 3}, "block_width must be a multiple of groups=3, got 8"),
        ({"stem_width": 0}, "stem_width must be"),
        ({"norm": "batches"}, "norm must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        DPN(**{**TINY, **fields})
