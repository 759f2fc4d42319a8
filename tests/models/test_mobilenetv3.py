"""MobileNet V3 and V4: the layer behind the pooling, widths of gates, universal blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.mobile_backbone import Line, read_line
from flaxzoo.models.mobilenetv3 import MobileNetV3
from flaxzoo.weights.synthetic import synthetic_images

pytestmark = pytest.mark.family("mobilenetv3")


def shapes_of(*blocks, **fields):
    net = MobileNetV3(blocks=blocks, **{"stem_width": 8, **fields})
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 16, 24, 3)))
    return {path: leaf.shape for path, leaf in flatten(variables["params"]).items()}


def test_a_line_of_attention():
    line = read_line("mqa_k3_h8_v2_d48_c192")
    assert line == Line("mqa", 192, heads=8, head_dim=48, key_stride=2)


def test_the_layer_behind_the_pooling_belongs_to_the_head():
    small = {"blocks": (("ds_c8",),), "stem_width": 8, "head_width": 12}
    model = fz.models.get("mobilenetv3_small_050", num_classes=3, **small).init(rng=0)
    images = synthetic_images((2, 8, 8, 3))
    assert model.features(images).shape == (2, 4, 4, 8)
    assert set(model.variables["params"]["head"]) == {"dense_0", "fc"}
    features = fz.models.get("mobilenetv3_small_050", num_classes=0, **small)
    variables = {"params": dict(model.variables["params"])}
    variables["params"]["head"] = {"dense_0": model.variables["params"]["head"]["dense_0"]}
    variables["batch_stats"] = model.variables["batch_stats"]
    wide = features.with_variables(variables)(images)
    assert wide.shape == (2, 12)
    fc = model.variables["params"]["head"]["fc"]
    np.testing.assert_allclose(
        wide @ fc["kernel"] + fc["bias"], model(images), rtol=1e-4, atol=1e-5
    )
    v4 = fz.models.get("mobilenetv4_conv_small", num_classes=3, **small).shapes()
    head = {path: leaf.shape for path, leaf in flatten(v4["params"]["head"]).items()}
    assert "dense_0/bias" not in head
    assert head["norm_0/scale"] == (12,)


@pytest.mark.parametrize(
    ("fields", "width"),
    [
        # A quarter of the 48 channels inside; of the 16 of the input; to a multiple of 8, and not
        # less than nine tenths of the exact number.
        ({}, 12),
        ({"squeeze_hidden": False}, 4),
        ({"squeeze_rounding": (8, 0.9)}, 16),
        ({"squeeze_rounding": (8, 0.5)}, 16),
        ({"squeeze_hidden": False, "squeeze_rounding": (8, 0.9)}, 8),
    ],
)
def test_widths_of_gates(fields, width):
    shapes = shapes_of(("ds_c16",), ("ir_e3_c16_se0.25",), **fields)
    assert shapes["blocks_1_0/se/fc1/kernel"][-1] == width


def test_depthwise_convolutions_where_a_line_has_them():
    shapes = shapes_of(
        ("uir_a3_k5_s2_e2_c8", "uir_a0_k3_e2_c8", "uir_a5_k0_e2_c8", "uir_k0_p3_e2_c8", "uir_k0_c8")
    )
    parts = [
        sorted({path.split("/")[1] for path in shapes if path.startswith(f"blocks_0_{i}/dw")})
        for i in range(5)
    ]
    assert parts == [["dw_mid", "dw_start"], ["dw_mid"], ["dw_start"], ["dw_end"], []]
    assert shapes["blocks_0_0/dw_start/conv/kernel"] == (3, 3, 1, 8)
    assert shapes["blocks_0_0/dw_mid/conv/kernel"] == (5, 5, 1, 16)


def test_heads_share_keys_of_a_smaller_map():
    model = fz.models.get(
        "mobilenetv4_hybrid_medium",
        num_classes=2,
        blocks=(("cn_c8",), ("mqa_h2_v2_d4_c8",)),
        stem_width=8,
        head_width=8,
    ).init(rng=0)
    weights = model.attention_weights(synthetic_images((1, 16, 24, 3)))
    assert {path: array.shape for path, array in weights.items()} == {
        "blocks_1_0/attn": (1, 2, 96, 24)
    }
    attention = model.variables["params"]["backbone"]["blocks_1_0"]["attn"]
    assert attention["query_proj"]["kernel"].shape == (1, 1, 8, 8)
    assert attention["key_proj"]["kernel"].shape == (1, 1, 8, 4)
    assert attention["key_down_conv"]["kernel"].shape == (3, 3, 1, 8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"head_width": 0}, "head_width must be"),
        ({"gate_activation": "hard"}, "activation"),
        ({"squeeze_activation": "rleu"}, "relu"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises((ValueError, KeyError), match=message):
        MobileNetV3(**fields)
