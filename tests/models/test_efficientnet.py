"""EfficientNet and its kin: the lines of blocks, how they are scaled, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.errors import ArgumentError, CheckpointError
from flaxzoo.layers.inverted_residual import CondConv
from flaxzoo.models.efficientnet import EfficientNet
from flaxzoo.models.mobile_backbone import Line, read_line, round_width, scale_stages

pytestmark = pytest.mark.family("efficientnet")


def network(*blocks, **fields):
    return EfficientNet(blocks=blocks, **{"stem_width": 8, "head_width": None, **fields})


def maps_of(net, size=(16, 24)):
    x = jnp.zeros((1, *size, 3))
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    run = jax.eval_shape(lambda v: net.apply(v, x, feature_maps=True), variables)
    return {name: leaf.shape[1:] for name, leaf in run.items()}


def test_lines():
    assert read_line("ir_r2_k3.5_s2_e6_c24_se0.25_nsw_noskip") == Line(
        "ir",
        24,
        repeats=2,
        kernel_sizes=(3, 5),
        stride=2,
        expansion=6.0,
        squeeze_ratio=0.25,
        skip=False,
        activation="silu",
    )
    assert read_line("cn_c8_skip") == Line("cn", 8, skip=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("xx_c8", "'xx_c8' must begin with a kind of block: cn, ds, dsa, ir, er"),
        ("ir_e6", "'ir_e6' names no channels: give c and a number"),
        ("ir_c8_z3", "has the option 'z3', which is none of r, k, s"),
        ("ir_c8_nxx", "has the option 'nxx'"),
        ("ir_c8_r1.5", "'r1.5' of 'ir_c8_r1.5' is no number"),
        (7, "7 must begin with a kind of block"),
    ],
)
def test_lines_that_are_none(line, message):
    with pytest.raises(ArgumentError, match=message):
        network((line,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blocks": ()}, "blocks must have lines for each stage"),
        ({"blocks": ("ir_c8",)}, "blocks must have a list of lines for each stage, got 'ir_c8'"),
        ({"blocks": (("ir_c8_r0",),)}, "repeats must be"),
        ({"blocks": (("ir_c8_s3",),)}, "stride must be 1 or 2, got 3"),
        ({"padding": "VALID"}, "padding must be"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"stem_width": 0}, "stem_width must be"),
        ({"head_width": 0}, "head_width must be"),
        ({"gate": "sé"}, "gate must be one of"),
        ({"gate": "eca"}, "gate must take the width that a line says"),
        ({"anti_aliasing": "blurry"}, "anti_aliasing must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        EfficientNet(**fields)


def test_widths_are_rounded_but_never_by_more_than_a_tenth():
    assert [round_width(n, 1.1) for n in (16, 24, 40, 112)] == [16, 24, 48, 120]
    # 8 would be less than nine tenths of 11.2.
    assert round_width(32, 0.35) == 16
    assert round_width(32, 0.35, limit=0.0) == 8
    assert round_width(24, 1.0, by=16) == 32


def test_a_line_s_share_of_a_deeper_stage():
    lines = (("ds_c16",), ("ir_s2_e6_c24", "ir_r3_e3_c24"))
    # 4 blocks become 5, of which the second line gets 4.
    assert scale_stages(lines, depth=1.2) == (
        ("ds_r2_c16",),
        ("ir_s2_e6_c24", "ir_r4_e3_c24"),
    )
    assert scale_stages(lines, depth=1.2, keep_ends=True) == lines
    assert scale_stages(lines, depth=0.6, nearest=True)[1] == ("ir_s2_e6_c24", "ir_r2_e3_c24")
    assert scale_stages(lines, group_size=8)[0] == ("ds_c16_gs8",)
    assert scale_stages((("er_c24_fc24",),), 2.0) == (("er_c48_fc48",),)


@pytest.mark.parametrize(
    ("stages", "depth", "message"),
    [
        ("ir_c24", 1.0, "blocks must have lines for each stage, got 'ir_c24'"),
        (("ir_c24",), 1.0, "blocks must have a list of lines for each stage, got 'ir_c24'"),
        ((("ir_c24",), ("ir_c8",)), (1.0,), "one for each of 2 stages, got"),
    ],
)
def test_stages_that_can_t_be_scaled(stages, depth, message):
    with pytest.raises(ArgumentError, match=message):
        scale_stages(stages, depth=depth)


def test_later_stages_are_dilated_instead_of_strided():
    stages = (("ds_s2_c8",), ("ir_s2_c8",), ("ir_s2_c8",))
    assert maps_of(network(*stages))["blocks_2"] == (1, 2, 8)
    dilated = network(*stages, output_stride=8)
    assert maps_of(dilated)["blocks_2"] == (2, 3, 8)
    assert dilated.reductions() == {"stem": 2, "blocks_0": 4, "blocks_1": 8, "blocks_2": 8}


def test_stacked_pixels_until_the_next_stride():
    net = network(("ds_r2_c8_d1",), ("er_s2_e4_c16",), ("ir_s2_c16",))
    assert maps_of(net) == {"stem": (8, 12, 8), "blocks_1": (4, 6, 16), "blocks_2": (2, 3, 16)}
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 16, 24, 3)))
    shapes = {path: leaf.shape for path, leaf in flatten(variables["params"]).items()}
    assert shapes["blocks_0_0/conv_s2d/kernel"] == (2, 2, 8, 32)
    assert shapes["blocks_0_0/conv_dw/kernel"] == (2, 2, 1, 32)
    assert shapes["blocks_0_1/conv_pw/kernel"] == (1, 1, 32, 32)
    assert shapes["blocks_1_0/conv_exp/kernel"] == (3, 3, 32, 32)


def test_kernels_of_several_sizes_share_the_channels():
    net = network(("ir_k3.5.7_e1_c8",))
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    shapes = {path: leaf.shape for path, leaf in flatten(variables["params"]).items()}
    sizes = [shapes[f"blocks_0_0/conv_dw_{i}/kernel"] for i in range(3)]
    # The first gets what is left over.
    assert sizes == [(3, 3, 1, 4), (5, 5, 1, 2), (7, 7, 1, 2)]


def test_each_image_has_its_own_kernel():
    x = np.random.default_rng(0).standard_normal((2, 5, 6, 4)).astype(np.float32)
    conv = CondConv(6, 3, experts=2)
    shares = np.array([[1.0, 0.0], [0.25, 0.5]], np.float32)
    variables = conv.init(jax.random.key(0), x, shares)
    experts = np.asarray(variables["params"]["experts"])
    y = conv.apply(variables, x, shares)
    for image, share, output in zip(x, shares, y, strict=True):
        kernel = (share @ experts).reshape(6, 4, 3, 3).transpose(2, 3, 1, 0)
        expected = jax.lax.conv_general_dilated(
            image[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        np.testing.assert_allclose(output, expected[0], rtol=1e-5, atol=1e-5)


def test_the_classifier_begins_by_its_own_width():
    model = fz.models.get(
        "test_efficientnet", num_classes=400, blocks=(("ds_c8",),), stem_width=8, head_width=256
    ).init(rng=0)
    kernel = np.asarray(model.variables["params"]["head"]["fc"]["kernel"])
    assert kernel.std() == pytest.approx((1 / 3 / 400) ** 0.5, rel=0.02)


# What efficientnet_pytorch calls the layers: of the network, and of its two kinds of block.
WHOLE = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}
GATE = {
    "se.conv_reduce": "_se_reduce",
    "se.conv_expand": "_se_expand",
    "conv_dw": "_depthwise_conv",
}
SEPARABLE = {**GATE, "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
INVERTED = {
    **GATE,
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
BLOCKS = {"blocks.0.0": SEPARABLE, "blocks.1.0": INVERTED, "blocks.1.1": INVERTED}
SMALL = {
    "blocks": (("ds_c8_se0.25",), ("ir_r2_k5_s2_e3_c16_se0.25",)),
    "stem_width": 8,
    "head_width": 32,
}


@pytest.fixture(scope="module")
def package():
    """A small model of five classes, and its tensors under efficientnet_pytorch's names."""
    model = fz.models.get("tf_efficientnet_b0", num_classes=5, **SMALL).init(rng=0)
    tensors = {}
    for name, tensor in model.to_torch_state_dict(as_numpy=True).items():
        layer, _, leaf = name.rpartition(".")
        block = layer[:10]
        if block in BLOCKS:
            number = list(BLOCKS).index(block)
            tensors[f"_blocks.{number}.{BLOCKS[block][layer[11:]]}.{leaf}"] = tensor
        else:
            tensors[f"{WHOLE[layer]}.{leaf}"] = tensor
    return model, tensors


def test_files_of_efficientnet_pytorch(package, tmp_path):
    model, tensors = package
    assert tensors["_blocks.2._expand_conv.weight"].shape == (48, 16, 1, 1)
    file = tmp_path / "weights.npz"
    np.savez(file, **tensors)
    # The number of classes is the file's.
    loaded = fz.models.get("tf_efficientnet_b0", pretrained=file, **SMALL)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, model.variables)
    two = fz.models.get("tf_efficientnet_b0", pretrained=file, num_classes=2, **SMALL)
    assert two.variables["params"]["head"]["fc"]["kernel"].shape == (32, 2)
    jax.tree.map(
        np.testing.assert_array_equal,
        two.variables["params"]["backbone"],
        model.variables["params"]["backbone"],
    )


@pytest.mark.parametrize(
    ("without", "extra", "name", "message"),
    [
        ("_blocks.1._bn1.bias", (), "tf_efficientnet_b0", r"1 missing.*blocks\.1\.0\.bn2\.bias"),
        ("_fc.bias", (), "tf_efficientnet_b0", r"1 missing from the file: classifier\.bias"),
        (None, ("_blocks.3._bn0.bias",), "tf_efficientnet_b0", r"1 .*_blocks\.3\._bn0\.bias"),
        (None, ("_blocks.0._bn7.bias",), "tf_efficientnet_b0", r"1 .*_blocks\.0\._bn7\.bias"),
        (None, (), "efficientnet_b0", r"weights\.npz: the names are those of efficientnet_pytorch"),
    ],
)
def test_files_of_efficientnet_pytorch_that_do_not_fit(
    package, tmp_path, without, extra, name, message
):
    tensors = {k: v for k, v in package[1].items() if k != without}
    np.savez(tmp_path / "weights.npz", **tensors, **dict.fromkeys(extra, np.zeros(8, np.float32)))
    with pytest.raises(CheckpointError, match=message):
        fz.models.get(name, pretrained=tmp_path / "weights.npz", **SMALL)


def test_files_of_efficientnet_pytorch_for_another_kind_of_block(package, tmp_path):
    np.savez(tmp_path / "weights.npz", **package[1])
    fields = {**SMALL, "blocks": (("ds_c8_se0.25",), ("er_r2_k5_s2_e3_c16_se0.25",))}
    with pytest.raises(CheckpointError, match=r"_blocks\.1\._bn0\.bias"):
        fz.models.get("tf_efficientnet_b0", pretrained=tmp_path / "weights.npz", **fields)
