"""MambaOut: the gate by its formula, features, what does not fit."""

import math

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.mambaout import GatedConvBlock, MambaOut

pytestmark = pytest.mark.family("mambaout")


def test_a_block_by_its_formula(random_variables):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    module = GatedConvBlock(kernel_size=1, expansion=1.5, conv_ratio=0.5, activation="relu")
    layers = random_variables(module, x)["params"]
    # Nine units gate nine, of which the last three are convolved, here each by a number.
    assert layers["conv"]["kernel"].shape == (1, 1, 1, 3)
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    y = y * layers["norm"]["scale"] + layers["norm"]["bias"]
    y = y @ layers["fc1"]["kernel"] + layers["fc1"]["bias"]
    gate, kept, convolved = np.split(y, (9, 15), axis=-1)
    convolved = convolved * layers["conv"]["kernel"][0, 0, 0] + layers["conv"]["bias"]
    y = np.maximum(gate, 0) * np.concatenate([kept, convolved], -1)
    expected = x + y @ layers["fc2"]["kernel"] + layers["fc2"]["bias"]
    out = jax.jit(module.apply)({"params": layers}, x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "norms"), [("mambaout_femto", True), ("test_mambaout", False)])
def test_the_hidden_layer_stays_without_classes(name, norms):
    head = fz.models.get(name, num_classes=0).shapes()["params"]["head"]
    assert head.keys() == {"norm", "dense_0"} | ({"norm_0"} if norms else set())
    assert head["dense_0"]["kernel"].shape[1] == 4 * head["dense_0"]["kernel"].shape[0]


def test_scales_begin_as_timms():
    assert fz.models.get("mambaout_small_rw").module.backbone.layer_scale == 1e-5
    assert math.isclose(fz.models.get("mambaout_tiny").module.backbone.expansion, 8 / 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 2)}, "must be of one length"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"conv_ratio": 3.0}, "conv_ratio must be at most expansion=2.66667"),
        ({"conv_ratio": 0.001}, r"leave a channel of widths=\(96, 192, 384, 576\)"),
        ({"expansion": 0}, "expansion must be"),
        ({"norm": "layr"}, "norm must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        MambaOut(**fields)
