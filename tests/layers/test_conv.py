import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import Constant, HeNormal


@pytest.fixture
def images(rng):
    return rng.standard_normal((2, 9, 8, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("fields", "use_bias"),
    [
        ({"kernel_size": 1}, True),
        ({"kernel_size": 3}, False),
        ({"kernel_size": 1, "stride": 2}, False),
        ({"kernel_size": 3, "stride": 2}, True),
        ({"kernel_size": 7, "stride": 2}, False),
        ({"kernel_size": 3, "dilation": 2}, False),
        ({"kernel_size": 3, "stride": 2, "dilation": 4}, False),
        ({"kernel_size": 3, "groups": 3}, True),
        ({"kernel_size": 1, "groups": 2}, True),
        ({"kernel_size": 3, "padding": 0}, False),
        ({"kernel_size": 2, "stride": 2, "padding": 0}, False),
    ],
)
def test_outputs_and_gradients_are_those_of_flax(fields, use_bias, images, random_variables):
    size, dilation = fields["kernel_size"], fields.get("dilation", 1)
    pad = fields.get("padding", dilation * (size - 1) // 2)
    flax = nn.Conv(
        12,
        (size, size),
        strides=fields.get("stride", 1),
        kernel_dilation=dilation,
        feature_group_count=fields.get("groups", 1),
        padding=((pad, pad), (pad, pad)),
        use_bias=use_bias,
    )
    conv = Conv(12, **fields, use_bias=use_bias)
    variables = random_variables(conv, images)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(
        np.shape, random_variables(flax, images)
    )

    def run(module, variables, x):
        loss = lambda v, x: (jnp.sin(module.apply(v, x)).sum(), module.apply(v, x))  # noqa: E731
        gradients, out = jax.grad(loss, (0, 1), has_aux=True)(variables, x)
        return out, gradients

    ours, theirs = jax.jit(lambda v, x: (run(conv, v, x), run(flax, v, x)))(variables, images)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_strided_window_starts_in_the_padding_on_both_sides():
    # By hand: with one zero on each side the windows over 0 | 1 2 3 4 | 0 are (0 1 2) and
    # (2 3 4); XLA's "SAME" would take (1 2 3) and (3 4 0).
    x = np.tile(np.array([1, 2, 3, 4], np.float32)[None, :, None, None], (1, 1, 4, 1))
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[:, 1] = 1
    rows = Conv(1, 3, stride=2).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_array_equal(rows[0, :, :, 0], [[3, 3], [9, 9]])


@pytest.mark.parametrize(
    ("given", "dtype", "param_dtype", "out"),
    [
        ("float32", None, "float32", "float32"),
        ("bfloat16", None, "float32", "float32"),
        ("float32", "bfloat16", "float32", "bfloat16"),
        ("bfloat16", None, "bfloat16", "bfloat16"),
    ],
)
def test_dtypes(given, dtype, param_dtype, out):
    conv = Conv(3, use_bias=True, dtype=dtype, param_dtype=param_dtype)
    x = jax.ShapeDtypeStruct((1, 4, 4, 6), given)
    y, variables = jax.eval_shape(conv.init_with_output, jax.random.key(1), x)
    assert y.dtype == out
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(param_dtype)}


def test_he_normal_has_the_variance_of_the_paper():
    kernel = np.asarray(HeNormal()(jax.random.key(0), (3, 3, 64, 128)))
    assert abs(kernel.std() / np.sqrt(2 / (128 * 9)) - 1) < 0.02
    assert abs(kernel.mean()) < 1e-3
    # The number of groups plays no part: PyTorch's fan-out is the output's channels.
    assert (
        HeNormal().distribution((3, 3, 2, 128)).std == HeNormal().distribution((3, 3, 64, 128)).std
    )
    assert HeNormal("fan_in").distribution((3, 3, 64, 128)).std == np.sqrt(2 / (64 * 9))


def test_initialisers_are_values():
    assert HeNormal() == HeNormal("fan_out")
    assert HeNormal() != HeNormal("fan_in")
    assert Conv(8) == Conv(8)
    assert hash(Conv(8)) == hash(Conv(8))
    assert Conv(8) != Conv(8, bias_init=Constant(1.0))
    np.testing.assert_array_equal(Constant(2.0)(None, (2,), jnp.bfloat16), np.full(2, 2.0))
