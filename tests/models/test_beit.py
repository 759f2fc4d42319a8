"""BEiT's relative positions, pooling and first weights."""

import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.beit import Beit

pytestmark = pytest.mark.family("beit")

NAME = "beit_base_patch16_224"
TINY = {"width": 8, "depth": 2, "heads": 2, "patch_size": 8, "input_shape": (16, 24, 3)}
IMAGES = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)


def test_tokens_and_maps():
    model = fz.models.get(NAME, num_classes=3, **TINY).init(rng=0)
    tokens = model.features(IMAGES)
    assert tokens.shape == (2, 1 + 6, 8)
    maps = model.feature_maps(IMAGES)
    assert list(maps) == ["blocks_0", "blocks_1"]
    # The last norm stands behind the pooling.
    np.testing.assert_array_equal(tokens[:, 1:].reshape(2, 2, 3, 8), maps["blocks_1"])


@pytest.mark.parametrize("pooling", ["token", "max", None])
def test_another_pooling(pooling):
    model = fz.models.get(NAME, num_classes=3, pooling=pooling, **TINY).init(rng=0)
    assert model(IMAGES).shape == ((2, 7, 3) if pooling is None else (2, 3))


def test_half_precision_keeps_the_biases_and_the_softmax():
    model = fz.models.get(NAME, num_classes=3, **TINY).init(rng=0)
    half = fz.models.get(NAME, num_classes=3, dtype=jnp.bfloat16, **TINY)
    out = half.module.apply(model.variables, IMAGES)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), model(IMAGES), atol=0.05)


def test_images_and_fields_that_do_not_fit():
    model = fz.models.get(NAME, num_classes=3, **TINY).init(rng=0)
    with pytest.raises(
        ShapeError, match=r"images must be of 16 x 24, got .*give get\(\) their input_shape="
    ):
        model(np.zeros((1, 24, 16, 3), np.float32))
    for fields, message in (
        ({"width": 10, "heads": 4}, "width must be a multiple of heads=4, got 10"),
        ({"depth": 0}, "depth must be"),
        ({"input_shape": (8, 224, 3)}, "at least one patch of 16 x 16"),
        ({"attention_dropout": 1.5}, "attention_dropout must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            Beit(**fields)
