"""EfficientViT of MIT: attention by sums, its classifier, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.efficientvit_mit import EfficientVit, LinearAttention

pytestmark = pytest.mark.family("efficientvit_mit")

NAME = "efficientvit_b0"
TINY = {
    "layers": (0, 1),
    "widths": (8, 8),
    "kinds": ("inverted", "attention"),
    "expansions": (2, 2),
    "down_expansions": (2, 2),
    "head_width": 4,
}


def test_attention_is_a_mean_by_weights():
    """Sums over keys and values are what weights of each query and key give."""
    module = LinearAttention(head_width=4, scales=())
    x = np.random.default_rng(0).random((1, 2, 3, 8), np.float32)
    variables = module.init(jax.random.key(0), x)
    kernels = variables["params"]
    qkv = (x @ kernels["qkv"]["conv"]["kernel"][0, 0]).reshape(6, 2, 12)
    q, k, v = qkv[..., :4].clip(0), qkv[..., 4:8].clip(0), qkv[..., 8:]
    weights = np.einsum("qhd,khd->hqk", q, k)
    weights /= weights.sum(-1, keepdims=True) + 1e-5
    y = np.einsum("hqk,khd->qhd", weights, v).reshape(1, 2, 3, 8)
    y = y @ kernels["proj"]["conv"]["kernel"][0, 0] / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(module.apply(variables, x), y, atol=1e-5)


def test_classifiers_with_and_without_hidden_layers():
    for widths, names in (((12, 20), {"in_conv", "dense_0", "norm_0", "fc"}), (None, {"fc"})):
        fields = {"num_classes": 3, "input_shape": (16, 24, 3), "classifier_widths": widths}
        shapes = fz.models.get(NAME, **fields, **TINY).shapes()
        assert set(shapes["params"]["head"]) == names
        assert shapes["params"]["head"]["fc"]["kernel"].shape == (20 if widths else 8, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (8, 10)}, "widths of stages that attend must be multiples of head_width=4"),
        ({"layers": (1,)}, "must be of one length"),
        ({"layers": (1, -1)}, "layers must be"),
        ({"kinds": ("inverted", "attend")}, "kinds must be one of .* got 'attend'"),
        ({"expansions": (2, 0)}, "expansions must be"),
        ({"stem_kind": "fused"}, "stem_kind must be one of"),
        ({"classifier_widths": (8,)}, r"classifier_widths must be two or None, got \(8,\)"),
        ({"drop_path": 1.5}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        EfficientVit(**{**TINY, **fields})
