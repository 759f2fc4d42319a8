"""CaiT: maps, weights of attention, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.cait import Cait, HeadMixing

pytestmark = pytest.mark.family("cait")

TINY = {"patch_size": 8, "width": 8, "depth": 2, "heads": 2, "input_shape": (16, 24, 3)}
IMAGES = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)


def test_maps_tokens_and_weights_of_attention():
    model = fz.models.get("cait_xxs24_224", num_classes=3, **TINY).init(rng=0)
    shapes = {key: leaf.shape for key, leaf in model.feature_maps(IMAGES).items()}
    assert shapes == {"blocks_0": (2, 2, 3, 8), "blocks_1": (2, 2, 3, 8)}
    assert model.features(IMAGES).shape == (2, 7, 8)
    weights = model.attention_weights(IMAGES)
    assert [leaf.shape for leaf in weights.values()] == [(2, 2, 6, 6)] * 2 + [(2, 2, 1, 7)] * 2
    np.testing.assert_allclose(weights["blocks_token_only_1/attn"].sum(-1), 1, rtol=1e-5)


def test_attention_is_drawn_before_the_class_token_and_behind_it():
    model = fz.models.get("cait_xxs24_224", num_classes=3, **TINY).init(rng=0)
    figure = fz.plots.attention(model, IMAGES[0])
    assert "blocks_token_only_1/attn: class token" in figure.get_suptitle()
    figure = fz.plots.attention(model, IMAGES[0], block="blocks_1/attn", token=(1, 2))
    assert "row 1, column 2" in figure.get_suptitle()
    figure = fz.plots.attention(model, IMAGES[0], block="blocks_1/attn", rollout=True)
    assert "mean of all patches" in figure.get_suptitle()


def test_heads_talk_in_the_dtype_of_the_logits():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    module = HeadMixing(param_dtype=jax.numpy.bfloat16)
    y, variables = module.init_with_output(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"], np.float32)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, np.einsum("bhqk,hg->bgqk", x, kernel), rtol=1e-4, atol=1e-6)


def test_images_of_another_size_are_refused():
    model = fz.models.get("cait_xxs24_224", num_classes=3, **TINY)
    with pytest.raises(ShapeError, match=r"images must be of 16 x 24, got .*their input_shape="):
        model.init(rng=0)(np.zeros((1, 24, 16, 3), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, r"width must be a multiple of heads=3, got 8"),
        ({"class_depth": 0}, "class_depth must be"),
        ({"input_shape": (7, 24, 3)}, "of at least one patch of 8 x 8, got"),
        ({"attention_dropout": 1.5}, "attention_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Cait(**{**TINY, **fields})
