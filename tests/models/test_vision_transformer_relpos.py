"""ViTs with relative positions: shared ones, the class token, and what is refused."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.vision_transformer_relpos import RelPosVisionTransformer

pytestmark = pytest.mark.family("vision_transformer_relpos")

TINY = {"width": 8, "depth": 2, "heads": 2, "patch_size": 8, "input_shape": (16, 24, 3)}
IMAGES = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)
NAME, SHARED = "vit_relpos_small_patch16_224", "vit_srelpos_small_patch16_224"


def get(name, **fields):
    return fz.models.get(name, num_classes=3, **{**TINY, **fields})


def test_tokens_and_maps():
    model = get(NAME, class_token=True).init(rng=0)
    assert model.features(IMAGES).shape == (2, 1 + 6, 8)
    assert [m.shape for m in model.feature_maps(IMAGES).values()] == [(2, 2, 3, 8)] * 2


def test_shared_positions_go_with_the_blocks_that_read_them():
    model = get(SHARED).init(rng=0)
    tail = fz.transfer.slice_model(model, start="blocks_1")
    assert "shared_rel_pos" in tail.variables["params"]["backbone"]
    front = fz.transfer.slice_model(model, stop="blocks_1")
    np.testing.assert_allclose(tail(front(IMAGES)), model(IMAGES), atol=1e-6)


def test_units_of_the_positions_are_dropped_in_training():
    def trained(**fields):
        model = get(SHARED, layer_scale=None, **fields).init(rng=0)
        rngs = {"dropout": jax.random.key(0)}
        return model.module.apply(model.variables, IMAGES, train=True, rngs=rngs)

    still = trained(position_mlp_dropout=0.0)
    assert np.abs(trained(position_mlp_dropout=0.9) - still).max() > 0


def test_images_and_fields_that_do_not_fit():
    model = get(NAME).init(rng=0)
    with pytest.raises(ShapeError, match=r"images must be of 16 x 24.*give get\(\) their"):
        model(np.zeros((1, 24, 16, 3), np.float32))
    for fields, message in (
        ({"positions": "tables"}, "positions must be one of 'mlp', 'table', got 'tables'"),
        ({"block": "pairs"}, "block must be one of 'pre', 'post'"),
        ({"pooling": "token"}, "pooling='token' takes the class token"),
        ({"position_width": 0}, "position_width must be"),
        ({"position_mlp_dropout": 2.0}, "position_mlp_dropout must be"),
    ):
        with pytest.raises(ValueError, match=message):
            RelPosVisionTransformer(**fields)
