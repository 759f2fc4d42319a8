"""CSPNet: which half passes by, what is dilated, and fields that do not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.models.cspnet import BottleneckBlock, CspNet, DarkBlock, EdgeBlock

pytestmark = pytest.mark.family("cspnet")

TINY = {
    "layers": (1, 2),
    "widths": (8, 12),
    "stem_widths": (4,),
    "block": "dark",
    "block_ratio": 0.5,
}


def shapes(module, *size):
    """The output of a module, and its parameters."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


@pytest.mark.parametrize("stage", ["csp", "cs3", "dark"])
def test_what_stages_hold(stage):
    fields = {**TINY, "block_ratio": 1.0} if stage == "dark" else TINY
    maps, params = shapes(CspNet(stage=stage, feature_maps=True, **fields), 31, 48, 3)
    assert {name: leaf.shape[1:] for name, leaf in maps.items()} == {
        "stem": (16, 24, 4),
        "stages_0": (8, 12, 8),
        "stages_1": (4, 6, 12),
    }
    names = {name.removeprefix("stages_1_") for name in params if name.startswith("stages_1_")}
    ends = {"csp": {"conv_transition_b", "conv_transition"}, "cs3": {"conv_transition"}}
    expected = {"conv_down", "blocks_0", "blocks_1", *ends.get(stage, ())}
    assert names == expected | (set() if stage == "dark" else {"conv_exp"})
    # Only here the channels grow where the image shrinks.
    width = 12 if stage == "dark" else 8
    assert params["stages_1_conv_down"]["conv"]["kernel"].shape == (3, 3, 8, width)


@pytest.mark.parametrize(
    ("output_stride", "sides"), [(32, (16, 8, 4, 2)), (16, (16, 8, 4, 4)), (8, (16, 8, 8, 8))]
)
def test_later_stages_are_dilated(output_stride, sides):
    fields = {**TINY, "layers": (1, 1, 1, 1), "widths": (8, 8, 8, 8)}
    network = CspNet(output_stride=output_stride, feature_maps=True, **fields)
    maps, params = shapes(network, 64, 64, 3)
    assert [leaf.shape[1] for leaf in maps.values()] == [32, *sides]
    assert params.keys() == shapes(CspNet(**fields), 64, 64, 3)[1].keys()


def test_blocks_begin_as_the_identity():
    x = np.abs(np.random.default_rng(0).standard_normal((1, 4, 4, 8))).astype(np.float32)
    for kind in (DarkBlock, EdgeBlock, BottleneckBlock):
        y, variables = kind(8, gate="se").init_with_output(jax.random.key(0), x)
        np.testing.assert_array_equal(y, x)
        other = kind(8, zero_init_residual=False).init_with_output(jax.random.key(0), x)[0]
        assert (other != x).any()
        assert {"attn", "attn2"} & variables["params"].keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stage": "cs2"}, "stage must be one of"),
        ({"block": "edgy"}, "block must be one of"),
        ({"ratio": (1.0,)}, "must be of one length"),
        ({"groups": (1, 0)}, "groups must be"),
        ({"block_ratio": 1.0}, "blocks of a stage of 8 channels have 4, got 1.0"),
        ({"stage": "dark"}, "block_ratio must be 1 where stage='dark'"),
        ({"expand_ratio": 0.0}, "expand_ratio must be"),
        ({"stem_stride": 4}, "stem_stride must be 1 or 2, got 4"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        CspNet(**{**TINY, **fields})
