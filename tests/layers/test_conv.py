import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import Constant, GlorotUniform, HeNormal


@pytest.fixture
def images(rng):
    return rng.standard_normal((2, 9, 8, 6)).astype(np.float32)


@pytest.mark.full_compiler
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
        ({"kernel_size": (3, 5)}, True),
        ({"kernel_size": (1, 4), "stride": (2, 1), "dilation": (1, 2)}, False),
        ({"kernel_size": 3, "stride": 2, "padding": "SAME"}, True),
        ({"kernel_size": [5, 3], "padding": "VALID"}, False),
        ({"kernel_size": 3, "padding": (0, 2)}, False),
        ({"kernel_size": 3, "padding": ((0, 1), (2, 0))}, False),
        ({"kernel_size": 7, "groups": 6, "stride": (2, 1)}, True),
    ],
)
def test_outputs_and_gradients_are_those_of_flax(fields, use_bias, images, random_variables):
    def both(value):
        return (value, value) if isinstance(value, int) else value

    size, dilation = both(fields["kernel_size"]), both(fields.get("dilation", 1))
    usual = tuple(d * (n - 1) // 2 for n, d in zip(size, dilation, strict=True))
    padding = both(fields.get("padding", usual))
    if not isinstance(padding, str):
        padding = tuple(map(both, padding))
    flax = nn.Conv(
        12,
        size,
        strides=fields.get("stride", 1),
        kernel_dilation=dilation,
        feature_group_count=fields.get("groups", 1),
        padding=padding,
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


def test_one_image_and_several_axes_of_batch(images, random_variables):
    conv = Conv(4, 3, stride=2)
    variables = random_variables(conv, images)
    out = conv.apply(variables, images)
    np.testing.assert_allclose(conv.apply(variables, images[0]), out[0], rtol=1e-5, atol=1e-5)
    many = conv.apply(variables, images.reshape(2, 1, *images.shape[1:]))
    np.testing.assert_array_equal(many[:, 0], out)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 0}, "features must be an int of at least 1, got 0"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be an int of at least 1 or a pair"),
        ({"stride": 0}, "stride must be an int of at least 1 or a pair of them, got 0"),
        ({"dilation": 1.5}, "dilation must be an int of at least 1 or a pair of them, got 1.5"),
        *(
            ({"padding": value}, "padding must be None, an int of at least 0, a pair of them, two")
            for value in ("same", -1, (1, 2, 3), ((1, 2), (3, -4)), (1, -2), 1.5, ("SAME", "VALID"))
        ),
    ],
)
def test_fields_that_it_does_not_take(fields, message, images):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(Conv(**{"features": 4, **fields}).init, jax.random.key(0), images)


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
    assert HeNormal("fan_in", scale=1.0).distribution((3, 3, 64, 128)).std == np.sqrt(1 / (64 * 9))
    assert HeNormal(groups=64).distribution((3, 3, 1, 64)).std == np.sqrt(2 / 9)


def test_glorot_uniform_has_the_variance_of_the_paper():
    kernel = np.asarray(GlorotUniform(0.5)(jax.random.key(0), (64, 192)))
    assert abs(kernel.std() / (0.5 * np.sqrt(2 / 256)) - 1) < 0.02
    assert GlorotUniform().distribution((3, 3, 4, 8)).std == np.sqrt(2 / (12 * 9))


def test_initialisers_are_values():
    assert HeNormal() == HeNormal("fan_out")
    assert HeNormal() != HeNormal("fan_in")
    assert Conv(8) == Conv(8)
    assert hash(Conv(8)) == hash(Conv(8))
    assert Conv(8) != Conv(8, bias_init=Constant(1.0))
    np.testing.assert_array_equal(Constant(2.0)(None, (2,), jnp.bfloat16), np.full(2, 2.0))
