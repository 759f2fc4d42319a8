import jax
import numpy as np
import pytest

from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import zeros

MAPS = np.random.default_rng(0).standard_normal((2, 4, 5, 6)).astype(np.float32)


def test_a_dense_layer_is_a_convolution_of_one_pixel():
    options = {"activation": "relu", "names": ("linear", "bn")}
    dense = ConvNorm(3, as_dense=True, **options)
    out, variables = dense.init_with_output(jax.random.key(0), MAPS)
    kernel = variables["params"]["linear"]["kernel"]
    variables["params"]["linear"]["kernel"] = kernel[None, None]
    np.testing.assert_allclose(ConvNorm(3, **options).apply(variables, MAPS), out, atol=1e-5)
    assert out.min() == 0


def test_the_convolution_may_have_a_bias():
    variables = ConvNorm(3, use_bias=True).init(jax.random.key(0), MAPS)
    assert variables["params"]["conv"]["bias"].shape == (3,)


@pytest.mark.parametrize(("norm", "leaves"), [("batch", {"conv", "bn"}), (None, {"conv"})])
def test_the_norm_may_be_none_or_begin_at_zero(norm, leaves):
    module = ConvNorm(3, 3, 2, norm=norm, norm_epsilon=1e-3, scale_init=zeros)
    out, variables = module.init_with_output(jax.random.key(0), MAPS)
    assert out.shape == (2, 2, 3, 3)
    assert variables["params"].keys() == leaves
    assert (np.abs(out).max() == 0) == (norm is not None)


def test_a_norm_that_activates_does_so_where_there_is_an_activation():
    for activation, leaves in (("relu", {"scale", "bias", "tau"}), (None, {"scale", "bias"})):
        module = ConvNorm(3, norm="frn", activation=activation)
        out, variables = module.init_with_output(jax.random.key(0), MAPS)
        assert variables["params"]["bn"].keys() == leaves
        # The threshold begins at zero.
        assert (out.min() == 0) == (activation is not None)
