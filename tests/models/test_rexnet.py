"""ReXNet: widths, what the input is added to, dilation, what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.rexnet import LinearBottleneck, ReXNet

pytestmark = pytest.mark.family("rexnet")


@pytest.mark.parametrize(
    ("fields", "widths"),
    [
        ({}, [32, 16, 27, 38, 50, 61]),
        ({"width_factor": 0.5}, [32, 16, 22, 27, 33, 38]),
        ({"divisor": 8}, [32, 16, 32, 40, 48, 64]),
    ],
)
def test_channels_grow_by_equal_steps(fields, widths):
    shapes = fz.models.get("rexnet_100", **fields).shapes()["params"]["backbone"]
    kernels = [shapes["stem"]["conv"]["kernel"]]
    kernels += [shapes[f"features_{i}"]["conv_pwl"]["conv"]["kernel"] for i in range(5)]
    assert [kernel.shape[-1] for kernel in kernels] == widths


def test_the_input_is_added_to_the_first_channels():
    x = np.random.default_rng(0).random((1, 3, 4, 2), np.float32)
    module = LinearBottleneck(features=5)
    variables = module.init(jax.random.key(0), x)
    alone = module.clone(skip=False).apply(variables, x)
    change = module.apply(variables, x) - alone
    np.testing.assert_allclose(change[..., :2], x, atol=1e-6)
    assert not change[..., 2:].any()


def test_a_dilated_stage_keeps_its_size():
    small = {"layers": (1, 1, 1, 1, 2), "strides": (1, 2, 2, 2, 2), "gated": (False,) * 5}
    backbone = ReXNet(**small, width_factor=0.05, growth=100, output_stride=8)
    assert list(backbone.reductions().values()) == [2, 4, 8, 8, 8]
    dilations = [getattr(part.run, "keywords", {}).get("dilation") for part in backbone.parts()]
    assert dilations == [None, 1, 1, 1, 1, 2, 4, None]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 2)}, "must be of one length"),
        ({"strides": (1, 2, 3, 2, 1, 2)}, "strides must each be 1 or 2"),
        ({"width_factor": 0}, "width_factor must be"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"divisor": 0}, "divisor must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        ReXNet(**fields)
