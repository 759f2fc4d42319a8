"""iFormer: which blocks a stage has, attention by its formula, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.iformer import Iformer, ModulationAttention

pytestmark = pytest.mark.family("iformer")

TINY = {
    "layers": (1, 4),
    "widths": (4, 8),
    "attention_groups": (0, 1),
    "key_reductions": (1, 2),
}


def test_groups_stand_before_the_last_convolution():
    network = Iformer(layers=(2, 3, 4, 9), attention_groups=(0, 1, 1, 2))
    group = ("positions", "attention", "mlp")
    assert [network.kinds(stage) for stage in range(4)] == [
        ("conv", "conv"),
        group,
        (*group, "conv"),
        ("conv", "conv", *group, *group, "conv"),
    ]


def test_attention_by_its_formula(random_variables):
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 4)).astype(np.float32)
    module = ModulationAttention(reduction=2)
    variables = random_variables(module, x)

    def layer(name, x):
        params, stats = (variables[group][name] for group in ("params", "batch_stats"))
        y = x @ params["c"]["kernel"][0, 0]
        y = (y - stats["bn"]["mean"]) / np.sqrt(stats["bn"]["var"] + 1e-5)
        return y * params["bn"]["scale"] + params["bn"]["bias"]

    tokens = x.reshape(2, 6, 4)
    v, gate = np.split(1 / (1 + np.exp(-layer("v_gate", tokens))), 2, axis=-1)
    logits = np.einsum("bqd,bkd->bqk", layer("q", tokens), layer("k", tokens)) / np.sqrt(2)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = layer("proj", np.einsum("bqk,bkd->bqd", weights, v) * gate)
    out = module.apply(variables, x).reshape(2, 6, 4)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)


def test_scales_and_two_classifiers():
    scaled = fz.models.get("iformer_h", num_classes=3, **TINY).shapes()["params"]
    blocks = scaled["backbone"]
    assert blocks["stages_1_blocks_1"]["mixer"]["gamma"].shape == (1, 1, 1, 8)
    assert "gamma" not in blocks["stages_1_blocks_0"]["cpe"]
    distilled = fz.models.get("iformer_m_distilled", num_classes=3, **TINY).shapes()["params"]
    assert set(distilled["head"]) == {"fc", "fc_norm", "fc_dist", "fc_dist_norm"}
    module = fz.models.get("iformer_m_distilled", distilled_training=True, **TINY).module
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), "float32")
    variables = jax.eval_shape(module.init, jax.random.key(0), images)

    def train(variables, images):
        return module.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    pair = jax.eval_shape(train, variables, images)
    assert [leaf.shape for leaf in pair] == [(2, 1000), (2, 1000)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 2)}, r"layers must be at least 3 for each of attention_groups=\(0, 1\)"),
        ({"widths": (5, 8)}, "widths must begin with an even number, got 5"),
        ({"key_reductions": (1, 9)}, r"key_reductions must be at most widths=\(4, 8\)"),
        ({"attention_groups": (0,)}, "must be of one length"),
        ({"attention_groups": (0, -1)}, "attention_groups must be"),
        ({"distilled_training": True}, "takes distilled=True, got False"),
        ({"drop_path": 1.5}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Iformer(**{**TINY, **fields})
