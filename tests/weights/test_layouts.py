"""Layouts other than a convolution's, and names that the rule does not give."""

import numpy as np
import pytest

from flaxzoo.errors import CheckpointError
from flaxzoo.models.reference import Reference
from flaxzoo.weights.layouts import LAYOUTS
from flaxzoo.weights.names import from_reference, reference_name, to_reference

GPT2 = Reference(
    renamed=((r"(ln|c)_(\w+)", r"\1_\2"), (r"h_(\d+)", r"transformer.h.\1")),
    layouts=(("*/c_attn/kernel", "same"),),
)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("params/backbone/h_11/ln_1/scale", "transformer.h.11.ln_1.weight"),
        ("params/backbone/h_0/attn/c_attn/kernel", "transformer.h.0.attn.c_attn.weight"),
        ("params/backbone/stages_0_downsample_1/kernel", "stages.0.downsample.1.weight"),
        ("params/backbone/layers_2_blocks_13/attn/qkv/bias", "layers.2.blocks.13.attn.qkv.bias"),
    ],
)
def test_names(path, name):
    assert reference_name(path, GPT2) == name


def test_renamed_paths_of_several_modules():
    inception = Reference(renamed=((r"branch(\w+)_(\d)", r"branch\1_\2"), ("mixed/(pool)", r"\1")))
    path = "params/backbone/Mixed_5/branch5x5_1/conv/kernel"
    assert reference_name(path, inception) == "Mixed.5.branch5x5_1.conv.weight"
    assert reference_name("params/backbone/mixed/pool/kernel", inception) == "pool.weight"
    gone = Reference(renamed=(("encoder", ""),))
    assert reference_name("params/backbone/encoder/conv_0/kernel", gone) == "conv.0.weight"
    assert reference_name("params/backbone/cls_token", gone) == "cls_token"


def test_a_leaf_of_another_name():
    reference = Reference(leaves=(("*/act/scale", "scale"),))
    assert reference_name("params/backbone/mlp/act/scale", reference) == "mlp.act.scale"
    assert reference_name("params/backbone/norm/scale", reference) == "norm.weight"


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("same", (3, 5)), ("kernel", (2, 3, 4, 5)), ("kernel", (4, 5)), ("transposed", (2, 3, 4, 5)),
     ("pointwise", (4, 5)), ("map", (1, 3, 4, 5)), ("map", (1, 4, 5)),
     ("planes", (3, 4, 5)), ("planes", (5,)), ("volume", (2, 3, 4, 5))],
)  # fmt: skip
def test_a_layout_there_and_back(layout, shape):
    rule = LAYOUTS[layout]
    ours = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    theirs = rule.theirs(ours)
    assert theirs.shape == rule.shape(shape)
    np.testing.assert_array_equal(rule.ours(theirs), ours)


def test_a_family_s_layouts_are_used():
    leaves = {
        "params/backbone/h_0/attn/c_attn/kernel": np.arange(6.0).reshape(2, 3),
        "params/backbone/h_0/mlp/kernel": np.arange(6.0).reshape(2, 3),
    }
    tensors = to_reference(leaves, GPT2)
    assert tensors["transformer.h.0.attn.c_attn.weight"].shape == (2, 3)
    assert tensors["transformer.h.0.mlp.weight"].shape == (3, 2)
    again = from_reference(leaves, tensors, GPT2, source="memory")
    for path, leaf in leaves.items():
        np.testing.assert_array_equal(again[path], leaf)


def test_a_convolution_is_no_linear_layer():
    """Only a convolution of one pixel stands for a linear layer."""
    reference = Reference(layouts=(("*/fc/kernel", "pointwise"),))
    leaves = {"params/backbone/fc/kernel": np.zeros((4, 5))}
    with pytest.raises(CheckpointError, match=r"fc.weight: file \[5, 4, 7, 7\], expected"):
        from_reference(leaves, {"fc.weight": np.zeros((5, 4, 7, 7))}, reference, source="a file")
