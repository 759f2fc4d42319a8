"""XCiT: images of any size, positions and attention by their formulas, what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.xcit import CrossCovarianceAttention, FourierPositions, Xcit

pytestmark = pytest.mark.family("xcit")

TINY = {"patch_size": 8, "width": 8, "depth": 1, "class_depth": 1, "heads": 2}


def test_maps_are_rounded_up_and_tokens_follow_the_class_token():
    model = fz.models.get("xcit_tiny_12_p8_224", num_classes=3, **TINY).init(rng=0)
    images = np.random.default_rng(0).random((2, 17, 24, 3)).astype(np.float32)
    (leaf,) = model.feature_maps(images).values()
    assert leaf.shape == (2, 3, 3, 8)
    assert model.features(images).shape == (2, 10, 8)
    weights = model.attention_weights(images)
    assert {key: leaf.shape for key, leaf in weights.items()} == {
        "cls_attn_blocks_0/attn": (2, 2, 1, 10)
    }


def test_attention_by_its_formula(random_variables):
    x = np.random.default_rng(0).standard_normal((2, 5, 6)).astype(np.float32)
    module = CrossCovarianceAttention(2)
    layers = random_variables(module, x)["params"]
    qkv = x @ layers["qkv"]["kernel"] + layers["qkv"]["bias"]
    q, k, v = np.moveaxis(qkv.reshape(2, 5, 3, 2, 3), 2, 0)
    q, k = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (q, k))
    logits = np.einsum("bnhc,bnhd->bhcd", q, k) * np.asarray(layers["temperature"])[None]
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = np.einsum("bhcd,bnhd->bnhc", weights, v).reshape(2, 5, 6)
    expected = y @ layers["proj"]["kernel"] + layers["proj"]["bias"]
    out = module.apply({"params": layers}, x)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_tokens_of_zeros_have_a_gradient():
    x = jnp.zeros((1, 4, 6))
    module = CrossCovarianceAttention(2, qkv_bias=False)
    variables = module.init(jax.random.key(0), x)
    gradient = jax.jit(jax.grad(lambda x: module.apply(variables, x).sum()))(x)
    assert np.isfinite(gradient).all()


def test_positions_are_parts_of_the_whole():
    """The last row and the last column are there at any size."""
    module = FourierPositions(4)
    positions, variables = module.init_with_output(jax.random.key(0), (2, 3))
    larger = module.apply(variables, (4, 6))
    assert larger.shape == (1, 4, 6, 4)
    np.testing.assert_allclose(larger[:, 1::2, 1::2], positions, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 32}, "patch_size must be 8 or 16, got 32"),
        ({"heads": 3}, r"width must be a multiple of heads=3, got 8"),
        (
            {"width": 12, "patch_size": 16},
            "a multiple of 8, by which the stem of patches",
        ),
        ({"class_depth": 0}, "class_depth must be"),
        ({"block_dropout": -0.1}, "block_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Xcit(**{**TINY, **fields})
