"""SwiftFormer: attention by its formula, what has no length, two classifiers, what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.swiftformer import AdditiveAttention, SwiftFormer

pytestmark = pytest.mark.family("swiftformer")

TINY = {"layers": (1, 1), "widths": (8, 12), "downsamples": (False, True)}


def test_attention_by_its_formula(random_variables):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    module = AdditiveAttention()
    layers = random_variables(module, x)["params"]

    def dense(x, name):
        return x @ layers[name]["kernel"] + layers[name]["bias"]

    tokens = x.reshape(2, 12, 6)
    query, key = (dense(tokens, name) for name in ("to_query", "to_key"))
    query, key = (part / np.linalg.norm(part, axis=-1, keepdims=True) for part in (query, key))
    scores = query @ layers["w_g"]
    scores = scores / np.linalg.norm(scores, axis=1, keepdims=True)
    total = (scores * query).sum(1, keepdims=True)
    expected = dense(dense(total * key, "proj") + query, "final").reshape(x.shape)
    out = module.apply({"params": layers}, x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_pixels_of_zeros_have_a_gradient():
    x = jnp.zeros((1, 2, 2, 6))
    module = AdditiveAttention()
    variables = module.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda x: module.apply(variables, x).sum()))(x)
    assert np.isfinite(gradient).all()


def test_training_by_another_network_gives_both_logits():
    model = fz.models.get("swiftformer_xs", num_classes=3, distilled_training=True, **TINY)
    assert model.module.head.distilled == "pair"
    assert {"fc", "fc_dist"} == set(model.shapes()["params"]["head"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 1, 1)}, "must be of one length"),
        ({"layers": (1, 0)}, "layers must be"),
        ({"downsamples": (False, False)}, "can't change where downsamples is False, got 8 and 12"),
        ({"widths": (1, 12)}, "the first of widths must be at least 2, got 1"),
        ({"mlp_ratio": 0}, "mlp_ratio must be"),
        ({"block_dropout": 1.0}, "block_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        SwiftFormer(**{**TINY, **fields})
