"""The converter between our names and those of reference checkpoints."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.errors import CheckpointError, ShapeError
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import MODELS
from flaxzoo.models.resnet import REFERENCE
from flaxzoo.weights.names import (
    adapt_channels,
    fit_channels,
    from_reference,
    reference_name,
    to_reference,
)


class Shape:
    """Anything with a shape may be expected."""

    def __init__(self, *shape):
        self.shape = shape


def random_tree(model, seed=0):
    rng = np.random.default_rng(seed)
    return {
        path: rng.standard_normal(leaf.shape).astype(np.float32)
        for path, leaf in flatten(model.shapes()).items()
    }


def small(**options):
    fields = {"layers": (1, 2), "widths": (8, 16), "num_classes": 3, "input_shape": (32, 32, 3)}
    return fz.models.get("resnet18", **{**fields, **options})


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("params/backbone/conv1/kernel", "conv1.weight"),
        ("params/backbone/conv1_0/kernel", "conv1.0.weight"),
        ("params/backbone/layer10_11/conv2/kernel", "layer10.11.conv2.weight"),
        ("params/backbone/layer1_0/downsample_0/kernel", "layer1.0.downsample.0.weight"),
        ("params/backbone/layer1_0/downsample_1/scale", "layer1.0.downsample.1.weight"),
        ("params/backbone/layer1_0/bn1/bias", "layer1.0.bn1.bias"),
        ("batch_stats/backbone/layer1_0/bn1/mean", "layer1.0.bn1.running_mean"),
        ("batch_stats/backbone/conv1_1/var", "conv1.1.running_var"),
        ("params/backbone/layer1_0/se/fc1/bias", "layer1.0.se.fc1.bias"),
        ("params/backbone/layer2_3/conv2/bn0/scale", "layer2.3.conv2.bn0.weight"),
        ("params/backbone/stages_0_1/mlp_fc1/kernel", "stages.0.1.mlp_fc1.weight"),
        ("params/backbone/embed/embedding", "embed.weight"),
        ("params/backbone/cls_token", "cls_token"),
        # A parameter of these names is no statistic.
        ("params/backbone/norm/mean", "norm.mean"),
        ("params/head/fc/kernel", "fc.weight"),
        ("params/head/fc/bias", "fc.bias"),
        ("params/head/fc_norm/bias", "fc_norm.bias"),
        ("params/other/conv/kernel", "other.conv.weight"),
        ("params/conv/kernel", "conv.weight"),
    ],
)
def test_names_of_leaves(path, name):
    assert reference_name(path, REFERENCE) == name


def test_a_family_says_what_its_head_is_called():
    reference = Reference(classifier="head.fc", head=(("dense_0", "head.pre_logits"),))
    assert reference_name("params/head/fc/kernel", reference) == "head.fc.weight"
    assert reference_name("params/head/dense_0/bias", reference) == "head.pre_logits.bias"


@pytest.mark.parametrize(
    "name",
    ["resnet18", "resnet50", "resnet50d", "resnet10t", "resnetrs50", "seresnext26d_32x4d"]
    + ["ecaresnet26t", "resnetblur18", "resnetaa50", "senet154", "resnet50_gn", "test_resnet"]
    + ["resnest14d", "resnest50d_1s4x24d"],
)
def test_names_are_injective_and_come_from_the_shapes(name):
    model = fz.models.get(name, input_shape=(32, 32, 3))
    expected = flatten(model.shapes())
    names = [reference_name(path, MODELS.architecture(name).reference) for path in expected]
    assert len(set(names)) == len(names)
    assert "fc.weight" in names
    assert not any("/" in n or "kernel" in n or "scale" in n for n in names)


fields = st.fixed_dictionaries(
    {
        "layers": st.sampled_from([(1, 1), (2, 1), (1, 3)]),
        "block": st.sampled_from(["basic", "bottleneck"]),
        "stem": st.sampled_from(["conv7", "deep", "tiered"]),
        "stem_width": st.sampled_from([4, 8]),
        "stem_pool": st.sampled_from(["max", "conv"]),
        "avg_down": st.booleans(),
        "norm": st.sampled_from(["batch", "group"]),
        "gate": st.sampled_from([None, "se", "eca"]),
        "anti_aliasing": st.sampled_from([None, "avg", "blur"]),
        "num_classes": st.integers(0, 3),
        "in_channels": st.sampled_from([1, 3]),
    }
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(fields)
def test_there_and_back_is_bitwise(fields):
    widths = (32, 64)
    stem_width = 32 if fields["norm"] == "group" else fields["stem_width"]
    # GroupNorm's 32 groups, which the tiered stem's three quarters do not hold.
    stem = "deep" if fields["norm"] == "group" else fields["stem"]
    options = {**fields, "widths": widths, "stem_width": stem_width, "stem": stem}
    model = fz.models.get("resnet18", **options)
    variables = random_tree(model)
    tensors = to_reference(variables, REFERENCE)
    again = from_reference(variables, tensors, REFERENCE, source="memory")
    assert list(again) == list(variables)
    for path, leaf in variables.items():
        np.testing.assert_array_equal(again[path], leaf)
    for name, tensor in tensors.items():
        assert tensor.flags.c_contiguous, name
    counts = [name for name in tensors if name.endswith("num_batches_tracked")]
    assert len(counts) == sum(path.endswith("/var") for path in variables)
    assert all(tensors[name].dtype == np.int64 and tensors[name].ndim == 0 for name in counts)


def test_layouts_are_pytorchs():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    dense = np.arange(6).reshape(2, 3)
    line = np.arange(24).reshape(2, 3, 4)
    tensors = to_reference(
        {
            "params/backbone/conv/kernel": kernel,
            "params/backbone/dense/kernel": dense,
            "params/backbone/line/kernel": line,
        },
        REFERENCE,
    )
    # [height, width, in, out] to [out, in, height, width].
    assert tensors["conv.weight"].shape == (5, 4, 2, 3)
    assert tensors["conv.weight"][1, 2, 0, 2] == kernel[0, 2, 2, 1]
    np.testing.assert_array_equal(tensors["dense.weight"], dense.T)
    assert tensors["line.weight"].shape == (4, 3, 2)
    assert tensors["line.weight"][3, 1, 0] == line[0, 1, 3]


def test_two_leaves_of_one_name_are_refused():
    leaf = np.zeros(2)
    tree = {"params/backbone/layer1_0/bias": leaf, "params/backbone/layer1/0/bias": leaf}
    with pytest.raises(CheckpointError, match="two of the model's leaves .* 'layer1.0.bias'"):
        to_reference(tree, REFERENCE)


def test_errors_list_ten_of_each_under_the_references_names():
    expected = {
        **{f"params/backbone/a_{i}/scale": Shape(2) for i in range(12)},
        **{f"params/backbone/c_{i}/kernel": Shape(1, 1, 2, 3) for i in range(11)},
    }
    tensors = {
        **{f"b.{i}.bias": np.zeros(2) for i in range(13)},
        **{f"c.{i}.weight": np.zeros((2, 3, 1, 1)) for i in range(11)},
        "c.0.num_batches_tracked": np.zeros(()),
    }
    with pytest.raises(CheckpointError) as caught:
        from_reference(expected, tensors, REFERENCE, source="some.pth", owner="'resnet18'")
    text = str(caught.value)
    assert text.startswith("some.pth does not fit 'resnet18'. ")
    missing = "; ".join(f"a.{i}.weight" for i in range(10))
    assert f"12 missing from the file: {missing} ..." in text
    unused = "; ".join(f"b.{i}.bias" for i in range(10))
    assert f"13 only in the file: {unused} ..." in text
    shapes = "; ".join(f"c.{i}.weight: file [2, 3, 1, 1], expected [3, 2, 1, 1]" for i in range(10))
    assert f"11 of another shape: {shapes} ..." in text
    assert "num_batches_tracked" not in text


def test_what_a_leaf_takes_is_never_ignored():
    reference = Reference(ignored=("*.bias",))
    found = from_reference(
        {"params/backbone/a/bias": Shape(2)},
        {"a.bias": np.ones(2), "b.bias": np.ones(2)},
        reference,
        source="memory",
    )
    np.testing.assert_array_equal(found["params/backbone/a/bias"], np.ones(2))


def test_kernels_are_views():
    tensor = np.zeros((5, 4, 3, 3), np.float32)
    found = from_reference(
        {"params/backbone/conv/kernel": Shape(3, 3, 4, 5)},
        {"conv.weight": tensor},
        REFERENCE,
        source="memory",
    )
    assert np.shares_memory(found["params/backbone/conv/kernel"], tensor)


# Channels.


def test_one_channel_is_the_sum():
    kernel = np.random.default_rng(0).standard_normal((4, 3, 7, 7)).astype(np.float32)
    adapted = adapt_channels(kernel, 1)
    assert adapted.shape == (4, 1, 7, 7)
    np.testing.assert_allclose(adapted[:, 0], kernel.sum(1), rtol=1e-6)


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_more_channels_repeat_and_keep_the_size(channels):
    kernel = np.random.default_rng(0).standard_normal((4, 3, 7, 7)).astype(np.float32)
    adapted = adapt_channels(kernel, channels)
    assert adapted.shape == (4, channels, 7, 7)
    for i in range(channels):
        np.testing.assert_allclose(adapted[:, i], kernel[:, i % 3] * 3 / channels, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_adapting_keeps_the_dtype(dtype):
    kernel = np.ones((2, 3, 1, 1), dtype)
    assert adapt_channels(kernel, 1).dtype == dtype
    np.testing.assert_array_equal(adapt_channels(kernel, 6), np.full((2, 6, 1, 1), 0.5))


@pytest.mark.parametrize(("shape", "channels"), [((2, 3), 1), ((2, 3, 1, 1), 0)])
def test_what_cannot_be_adapted(shape, channels):
    with pytest.raises(ShapeError, match=r"a kernel \[out, in, height, width\] and at least 1"):
        adapt_channels(np.zeros(shape), channels)


@pytest.mark.parametrize("stem", ["conv7", "deep"])
def test_grey_images_give_what_their_colour_copies_gave(stem):
    options = {"stem": stem, "stem_width": 4, "num_classes": 0}
    colour, grey = small(**options), small(**options, input_shape=(32, 32, 1))
    tensors = to_reference(random_tree(colour), REFERENCE)
    x = np.random.default_rng(1).standard_normal((1, 32, 32, 1)).astype(np.float32)
    leaves = [
        from_reference(flatten(model.shapes()), tensors, REFERENCE, source="memory")
        for model in (colour, grey)
    ]
    name = {"conv7": "conv1", "deep": "conv1_0"}[stem]
    kernels = [tree[f"params/backbone/{name}/kernel"] for tree in leaves]
    run = jax.jit(
        lambda x, kernel: jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    outs = [run(np.repeat(x, 3, -1), kernels[0]), run(x, kernels[1])]
    np.testing.assert_allclose(outs[0], outs[1], rtol=1e-3, atol=1e-4)


def test_only_the_first_convolution_is_adapted():
    model = small()
    variables = random_tree(model)
    tensors = to_reference(variables, REFERENCE)
    name = "layer1.0.conv1.weight"
    tensors[name] = tensors[name][:, :1]
    with pytest.raises(CheckpointError, match=r"1 of another shape: layer1.0.conv1.weight: file"):
        from_reference(variables, tensors, REFERENCE, source="memory")
    tensors = to_reference(variables, REFERENCE)
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :, :5, :5]
    with pytest.raises(CheckpointError, match=r"1 of another shape: conv1.weight: file"):
        from_reference(variables, tensors, REFERENCE, source="memory")


def test_channels_of_pixels_side_by_side_are_adapted_pixel_by_pixel():
    kernel = np.random.default_rng(0).random((3, 3, 4 * 3, 5)).astype(np.float32)
    grey = fit_channels(kernel, (3, 3, 4, 5), any_number=True, pixels=4)
    np.testing.assert_allclose(grey, kernel.reshape(3, 3, 4, 3, 5).sum(3), rtol=1e-6)
    six = fit_channels(kernel, (3, 3, 4 * 6, 5), any_number=True, pixels=4)
    pixels = six.reshape(3, 3, 4, 6, 5)
    np.testing.assert_allclose(pixels[:, :, :, :3], kernel.reshape(3, 3, 4, 3, 5) / 2, rtol=1e-6)
    assert fit_channels(kernel, kernel.shape, any_number=True, pixels=4) is kernel
