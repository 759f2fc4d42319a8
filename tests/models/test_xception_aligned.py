"""Aligned Xception: which norms there are, which blocks are dilated, and what does not fit."""

import jax
import pytest

from flaxzoo.models.xception_aligned import AlignedBlock, XceptionAligned

pytestmark = pytest.mark.family("xception_aligned")

TINY = {
    "stem_widths": (4, 6),
    "widths": (6, 8),
    "strides": (2, 2),
    "layers": 1,
    "exit_widths": ((8, 8, 8), (8, 8, 12)),
}


def shapes(module, *size):
    """The output of a module, and its parameters."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


def test_norms_stand_behind_convolutions_or_before_them():
    (y, seen), behind = shapes(AlignedBlock(widths=(6, 7, 8), stride=2), 9, 9, 6)
    assert y.shape == (1, 5, 5, 8)
    assert seen.shape == (1, 9, 9, 7)
    assert behind["stack_conv1"].keys() == {"conv_dw", "bn_dw", "conv_pw", "bn_pw"}
    assert behind["shortcut"].keys() == {"conv", "bn"}
    _, before = shapes(AlignedBlock(widths=(6, 7, 8), stride=2, pre_norm=True), 9, 9, 6)
    assert before["stack_conv1"].keys() == {"conv_dw", "conv_pw"}
    assert before["stack_conv2"].keys() == {"norm", "conv_dw", "conv_pw"}
    assert before["shortcut"].keys() == {"kernel"}


@pytest.mark.parametrize(
    ("output_stride", "sides"), [(32, (24, 12, 6, 3)), (16, (24, 12, 6, 3)), (8, (24, 12, 6, 6))]
)
def test_later_blocks_are_dilated(output_stride, sides):
    backbone = XceptionAligned(output_stride=output_stride, feature_maps=True, **TINY)
    maps, params = shapes(backbone, 48, 48, 3)
    assert [leaf.shape[1] for leaf in maps.values()] == list(sides)
    assert params.keys() == shapes(XceptionAligned(**TINY), 48, 48, 3)[1].keys()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"strides": (2,)}, "must be of one length"),
        ({"stem_widths": (4,)}, "stem_widths must be 2 numbers"),
        ({"exit_widths": ((8, 8), (8, 8, 8))}, "exit_widths must be two triples"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"drop_path": 1.0}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        XceptionAligned(**{**TINY, **fields})
