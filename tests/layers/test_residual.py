import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.models.resnest import ResNeStBlock
from flaxzoo.models.resnet import BasicBlock, Bottleneck

BLOCKS = [BasicBlock, Bottleneck, ResNeStBlock]


class NoNorm(nn.Module):
    """In place of BatchNorm, so that the numbers can be followed."""

    dtype: object = None
    param_dtype: object = None
    scale_init: object = None

    def __call__(self, x):
        return x


class Silence(nn.Module):
    """A gate that lets nothing through."""

    dtype: object = None
    param_dtype: object = None

    def __call__(self, x):
        return 0 * x


def maps(channels=8, batch=2, height=6, width=5):
    values = np.random.default_rng(0).standard_normal((batch, height, width, channels))
    return values.astype(np.float32)


def kernels(block, x):
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
    return {name: module["kernel"].shape for name, module in shapes.items() if "kernel" in module}


def reference(x, kernel, stride=1, dilation=1):
    size = kernel.shape[0]
    pad = dilation * (size - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def test_basic_block_by_its_formula(random_variables):
    x = maps()
    block = BasicBlock(16, stride=2, project=True, norm=NoNorm)
    variables = random_variables(block, x)

    @jax.jit
    def expected(params, x):
        y = nn.relu(reference(x, params["conv1"]["kernel"], stride=2))
        y = reference(y, params["conv2"]["kernel"])
        return nn.relu(y + reference(x, params["downsample_0"]["kernel"], stride=2))

    out = jax.jit(block.apply)(variables, x)
    assert out.shape == (2, 3, 3, 16)
    np.testing.assert_allclose(out, expected(variables["params"], x), rtol=1e-5, atol=1e-5)


def test_bottleneck_strides_in_its_middle(random_variables):
    x = maps()
    block = Bottleneck(4, stride=2, project=True, avg_down=True, norm=NoNorm)
    variables = random_variables(block, x)

    @jax.jit
    def expected(params, x):
        y = nn.relu(reference(x, params["conv1"]["kernel"]))
        y = nn.relu(reference(y, params["conv2"]["kernel"], stride=2))
        y = reference(y, params["conv3"]["kernel"])
        # Five columns: the last one is averaged alone.
        left = (x[:, ::2, :4:2] + x[:, 1::2, :4:2] + x[:, ::2, 1:4:2] + x[:, 1::2, 1:4:2]) / 4
        right = (x[:, ::2, 4:] + x[:, 1::2, 4:]) / 2
        short = jnp.concatenate([left, right], 2)
        return nn.relu(y + reference(short, params["downsample_1"]["kernel"]))

    out = jax.jit(block.apply)(variables, x)
    assert out.shape == (2, 3, 3, 16)
    np.testing.assert_allclose(out, expected(variables["params"], x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "shapes"),
    [
        # ResNet-50's first block, ResNeXt 32x4d, Wide ResNet, SENet-154.
        ({}, [(1, 1, 64, 64), (3, 3, 64, 64), (1, 1, 64, 256)]),
        (
            {"groups": 32, "base_width": 4},
            [(1, 1, 64, 128), (3, 3, 4, 128), (1, 1, 128, 256)],
        ),
        ({"base_width": 128}, [(1, 1, 64, 128), (3, 3, 128, 128), (1, 1, 128, 256)]),
        (
            {"groups": 64, "base_width": 4, "reduce_first": 2},
            [(1, 1, 64, 128), (3, 3, 2, 256), (1, 1, 256, 256)],
        ),
    ],
)
def test_widths_of_bottlenecks(fields, shapes):
    found = kernels(Bottleneck(64, project=True, **fields), maps(64))
    assert [found[f"conv{i}"] for i in (1, 2, 3)] == shapes
    assert found["downsample_0"] == (1, 1, 64, 256)


@pytest.mark.parametrize(
    ("fields", "shortcut"),
    [
        ({"project": False}, {}),
        ({"project": True, "stride": 2}, {"downsample_0": 1}),
        # SENet-154's is 3 x 3 where the size changes only.
        ({"project": True, "stride": 2, "down_kernel_size": 3}, {"downsample_0": 3}),
        ({"project": True, "dilation": 2, "down_kernel_size": 3}, {"downsample_0": 3}),
        ({"project": True, "down_kernel_size": 3}, {"downsample_0": 1}),
        # The pooling has the list's index 0.
        ({"project": True, "stride": 2, "avg_down": True}, {"downsample_1": 1}),
    ],
)
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_names_and_sizes_of_shortcuts(block, fields, shortcut):
    channels = 8 * block.expansion
    found = kernels(block(8, **fields), maps(channels))
    sizes = {name: shape[0] for name, shape in found.items() if name.startswith("downsample")}
    assert sizes == shortcut


@pytest.mark.parametrize("block", BLOCKS)
def test_zero_init_makes_a_block_the_identity(block, random_variables, assert_trees_equal):
    x = np.abs(maps(8 * block.expansion))
    zero, other = block(8), block(8, zero_init_residual=False)
    key = jax.random.key(0)
    fresh, usual = jax.jit(lambda: (zero.init(key, x), other.init(key, x)))()
    last = f"bn{len([k for k in fresh['params'] if k.startswith('conv')])}"
    for name, module in usual["params"].items():
        if name == last:
            np.testing.assert_array_equal(module.pop("scale"), np.ones(x.shape[-1]))
            np.testing.assert_array_equal(fresh["params"][name].pop("scale"), np.zeros(x.shape[-1]))
    assert_trees_equal(fresh, usual)
    variables = random_variables(zero, x)
    variables["params"][last] = jax.tree.map(np.zeros_like, variables["params"][last])
    np.testing.assert_array_equal(jax.jit(zero.apply)(variables, x), x)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"stride": 2}, (4, 3)),
        ({"stride": 1, "dilation": 2, "first_dilation": 1}, (7, 5)),
        ({"stride": 1, "dilation": 4, "first_dilation": 4}, (7, 5)),
        ({"stride": 2, "avg_down": True}, (4, 3)),
        ({"dilation": 2, "avg_down": True}, (7, 5)),
    ],
)
def test_sizes_of_outputs(block, fields, size):
    x = maps(height=7, width=5)
    shape = jax.eval_shape(block(8, project=True, **fields).init_with_output, jax.random.key(0), x)
    assert shape[0].shape == (2, *size, 8 * block.expansion)


@pytest.mark.parametrize("kind", ["avg", "blur"])
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_anti_aliasing_keeps_names_and_sizes(block, kind):
    x = maps(height=8, width=4)
    run = [
        jax.eval_shape(module.init_with_output, jax.random.key(0), x)
        for module in (
            block(8, stride=2, project=True),
            block(8, stride=2, project=True, anti_aliasing=kind),
        )
    ]
    assert run[0] == run[1]


def test_where_pixels_are_dropped_there_is_a_low_pass():
    low = {"anti_aliasing": "blur"}
    assert BasicBlock(8, stride=2, **low).low_pass == "blur"
    assert BasicBlock(8, **low).low_pass is None
    assert BasicBlock(8, stride=2).low_pass is None
    # The first block of a dilated stage keeps it, at stride 1, as timm's does.
    assert BasicBlock(8, dilation=2, first_dilation=1, **low).low_pass == "blur"


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_the_gate_comes_before_the_sum(block, random_variables):
    x = maps(8 * block.expansion)
    silenced = block(8, gate=Silence)
    out = jax.jit(silenced.apply)(random_variables(silenced, x), x)
    np.testing.assert_array_equal(out, np.maximum(x, 0))


def test_the_gate_is_named_se():
    for gate, names in (("se", {"fc1", "fc2"}), ("eca", {"conv"})):
        shapes = jax.eval_shape(BasicBlock(8, gate=gate).init, jax.random.key(0), maps())
        assert set(shapes["params"]["se"]) == names


def test_stochastic_depth_drops_examples(random_variables):
    x = np.abs(maps(batch=32))
    block = BasicBlock(8, drop_path=0.25, norm=NoNorm, activation="identity")
    variables = random_variables(block, x)
    apply = jax.jit(block.apply, static_argnums=2)
    branch = np.asarray(apply(variables, x, False)) - x
    out = np.asarray(apply(variables, x, True, rngs={"dropout": jax.random.key(1)})) - x
    # An example's branch is dropped as a whole, or grows so that the mean stays.
    kept = np.array([not np.allclose(row, 0, atol=1e-6) for row in out])
    assert 0 < kept.sum() < 32
    np.testing.assert_allclose(out[kept], branch[kept] / 0.75, rtol=1e-4, atol=1e-4)
    again = np.asarray(apply(variables, x, True, rngs={"dropout": jax.random.key(1)})) - x
    np.testing.assert_array_equal(out, again)


def test_no_randomness_without_a_rate():
    x = maps()
    block = BasicBlock(8, norm=NoNorm)
    variables = block.init(jax.random.key(0), x)
    # Neither asks for a key.
    np.testing.assert_array_equal(block.apply(variables, x, True), block.apply(variables, x))


def test_a_basic_block_has_no_groups():
    message = "a basic block takes groups=1 and base_width=64, got 2 and 64; block='bottleneck'"
    with pytest.raises(ValueError, match=message):
        BasicBlock(8, groups=2).init(jax.random.key(0), maps())
