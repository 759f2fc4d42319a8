"""Standardised kernels, and the network that they are in."""

import jax
import numpy as np
import pytest

from flaxzoo.layers.conv import Conv
from flaxzoo.layers.resnet_v2 import ResNetV2Stem, ResNetV2Trunk, StdConv


def test_kernels_have_mean_0_and_variance_1(rng):
    """Whatever they were: a kernel of another size and mean is the same."""
    x = rng.standard_normal((2, 5, 6, 4)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 4, 8)).astype(np.float32)
    y = StdConv(8, 3).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_allclose(
        StdConv(8, 3).apply({"params": {"kernel": 3 * kernel + 1}}, x), y, atol=1e-4
    )
    wide = kernel.astype(np.float64)
    wide = (wide - wide.mean((0, 1, 2))) / wide.std((0, 1, 2))
    expected = Conv(8, 3).apply({"params": {"kernel": wide.astype(np.float32)}}, x)
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_statistics_of_kernels_are_float32(rng):
    """Of 576 numbers in bfloat16 the mean would be lost."""
    kernel = jax.numpy.asarray(rng.standard_normal((3, 3, 64, 4)) + 8, jax.numpy.bfloat16)
    wide = np.asarray(kernel, np.float32)
    expected = (wide - wide.mean((0, 1, 2))) / wide.std((0, 1, 2))
    prepared = StdConv(4, 3, param_dtype=jax.numpy.bfloat16).prepare(kernel)
    assert prepared.dtype == jax.numpy.bfloat16
    np.testing.assert_allclose(np.asarray(prepared, np.float32), expected, rtol=0.01, atol=1e-4)


def test_sides_are_rounded_up():
    trunk = ResNetV2Trunk(layers=(1, 1), widths=(128, 128), stem_width=32)
    for size, expected in (((16, 24), (2, 3)), ((17, 9), (3, 2))):
        images = jax.ShapeDtypeStruct((2, *size, 3), "float32")
        y, variables = jax.eval_shape(trunk.init_with_output, jax.random.key(0), images)
        assert y.shape == (2, *expected, 128)
    assert "downsample" in variables["params"]["stages_1_blocks_0"]


@pytest.mark.parametrize(
    ("module", "fields", "message"),
    [
        (ResNetV2Stem, {"width": 48}, "width must be a multiple of 32, .* got 48"),
        (ResNetV2Trunk, {"stem_width": 40}, "stem_width must be a multiple of 32"),
        (ResNetV2Trunk, {"widths": (64, 128, 128, 128)}, "widths must be a multiple of 128"),
        (ResNetV2Trunk, {"layers": (1, 1)}, "must be of one length"),
    ],
)
def test_fields_that_do_not_fit(module, fields, message):
    with pytest.raises(ValueError, match=message):
        module(**fields)
