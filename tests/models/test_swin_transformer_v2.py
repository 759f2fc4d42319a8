"""Swin V2's cosines, positions and first weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.swin_transformer_v2 import (
    CosineAttention,
    SwinTransformerV2,
    log_coordinates,
)

pytestmark = pytest.mark.family("swin_transformer_v2")

NAME = "swinv2_tiny_window8_256"
TINY = {"width": 4, "heads": (1, 2), "layers": (2, 1), "num_classes": 3}
IMAGES = np.random.default_rng(0).random((2, 24, 40, 3)).astype(np.float32)


def test_blocks_add_nothing_at_first():
    model = fz.models.get(NAME, input_shape=(24, 40, 3), window_size=3, **TINY).init(rng=0)
    backbone = model.module.backbone
    variables = {"params": model.variables["params"]["backbone"]}
    merged = backbone.apply(variables, IMAGES, 0, 1, method="run_stages")
    (first, _) = model.feature_maps(IMAGES).values()
    np.testing.assert_array_equal(first, merged)


def test_the_same_weights_for_all_windows():
    model = fz.models.get(NAME, input_shape=(24, 40, 3), window_size=3, **TINY).init(rng=0)
    wide = fz.models.get(NAME, input_shape=(56, 64, 3), window_size=(7, 8), **TINY)
    assert jax.tree.map(jnp.shape, dict(model.variables)) == jax.tree.map(
        lambda leaf: leaf.shape, dict(wide.shapes())
    )
    assert wide.with_variables(model.variables)(np.ones((1, 56, 64, 3), np.float32)).shape == (1, 3)


def test_coordinates_reach_from_minus_one_to_one_by_a_logarithm():
    places = log_coordinates((3, 2))
    assert (places.shape, places.dtype) == ((5 * 3, 2), np.float32)
    np.testing.assert_allclose(places[0], [-np.log2(9) / 3] * 2, rtol=1e-6)
    np.testing.assert_array_equal(places[7], [0, 0])
    np.testing.assert_array_equal(log_coordinates((1, 1)), [[0, 0]])
    # Those of windows twice as large reach twice as far, before the logarithm.
    np.testing.assert_allclose(log_coordinates((5, 5), 3)[0], [-np.log2(17) / 3] * 2, rtol=1e-6)


def test_attention_sees_angles_and_not_lengths():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((2, 6, 8)).astype(np.float32)
    module = CosineAttention(2, grid=(2, 3), qkv_bias=False)
    variables = module.init(jax.random.key(0), tokens)
    longer = np.float32(10) * tokens
    out, more = module.apply(variables, tokens), module.apply(variables, longer)
    np.testing.assert_allclose(more, 10 * out, rtol=1e-4, atol=1e-6)
    # Where nothing is seen nothing is divided by zero.
    grad = jax.grad(lambda x: module.apply(variables, x).sum())(jnp.zeros_like(tokens))
    assert np.isfinite(grad).all()


def test_the_scale_has_a_bound():
    tokens = np.random.default_rng(0).standard_normal((1, 4, 8)).astype(np.float32)
    module = CosineAttention(2, grid=(2, 2))
    variables = module.init(jax.random.key(0), tokens)
    params = variables["params"]
    at, above = (
        module.apply({"params": {**params, "logit_scale": jnp.full((2, 1, 1), scale)}}, tokens)
        for scale in (np.log(100), 20.0)
    )
    np.testing.assert_allclose(at, above, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pretrained_window_sizes": (12, 6)}, "one for each of 4 stages, got"),
        ({"pretrained_window_sizes": 12}, "pretrained_window_sizes must be one or more ints"),
        ({"window_size": (8, 8, 8)}, "window_size must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        SwinTransformerV2(**fields)
