"""Hiera's order of tokens, mask units and what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.hiera import Hiera, rolled, unrolled

pytestmark = pytest.mark.family("hiera")

NAME = "hiera_tiny_224"
TINY = {
    "layers": (1, 2),
    "width": 8,
    "window_attention": (True, False),
    "input_shape": (16, 24, 3),
}
IMAGES = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)


def test_what_is_pooled_stands_one_behind_the_other():
    x = np.random.default_rng(0).random((2, 8, 12, 3)).astype(np.float32)
    tokens = unrolled(x, 2)
    np.testing.assert_array_equal(rolled(tokens, (8, 12), 2), x)
    # The first four quarters are the places in each square of 2 x 2.
    pooled = tokens.reshape(2, 4, 24, 3).max(1)
    expected = x.reshape(2, 4, 2, 6, 2, 3).max((2, 4))
    np.testing.assert_array_equal(rolled(pooled, (4, 6), 1), expected)
    # The last axis of a unit's tokens is its number, by rows.
    units = tokens.reshape(2, 16, 6, 3)
    square = x[:, 4:8, 8:12].reshape(2, 16, 3)
    np.testing.assert_array_equal(np.sort(units[:, :, 5], 1), np.sort(square, 1))


def test_a_mask_unit_sees_itself_alone():
    fields = {**TINY, "window_attention": (True, True), "layers": (2, 1)}
    model = fz.models.get(NAME, num_classes=3, **fields).init(rng=0)
    other = IMAGES.copy()
    other[:, :8, :8] = 0
    maps, others = model.feature_maps(IMAGES)["blocks_1"], model.feature_maps(other)["blocks_1"]
    # The patches' windows overlap by three pixels, into the unit at the right and below.
    same = np.isclose(maps, others, atol=1e-6).all((0, 3))
    np.testing.assert_array_equal(same[:, 4:], True)
    assert not same[:2, :2].any()


def test_units_are_left_out_of_training():
    model = fz.models.get(NAME, num_classes=3, patch_dropout=0.5, **TINY)
    backbone, variables = model.module.backbone, {"params": model.shapes()["params"]["backbone"]}

    def shape(**options):
        rngs = {"dropout": jax.random.key(0)}
        run = functools.partial(backbone.apply, rngs=rngs, **options)
        return jax.eval_shape(run, variables, IMAGES).shape

    # Three units of six, of one token each behind the pooling.
    assert shape(train=True) == (2, 3, 16)
    assert shape() == (2, 6, 16)
    seen = backbone._seen(jnp.asarray([[0, 5, 2]]))
    assert seen.shape == (1, 16, 24, 1)
    np.testing.assert_array_equal(seen[0, ::8, ::8, 0], [[True, False, True], [False, False, True]])
    with pytest.raises(ShapeError, match=r"maps are made of all 24 tokens, got .*patch_dropout"):
        shape(train=True, feature_maps=True)


def test_images_and_fields_that_do_not_fit():
    model = fz.models.get(NAME, num_classes=3, **TINY).init(rng=0)
    with pytest.raises(ShapeError, match=r"images must be of 16 x 24, got .*input_shape="):
        model(np.zeros((1, 24, 16, 3), np.float32))
    for fields, message in (
        ({"input_shape": (224, 200, 3)}, "whole mask units of 32 x 32, got"),
        ({"layers": (2, 2)}, "layers and window_attention must be of one length, got 2 and 4"),
        ({"window_attention": (1, 1, 0, 0)}, "window_attention must be True or False"),
        ({"heads": 5}, "width must be a multiple of heads=5, got 96"),
        ({"shortcut": "max"}, "shortcut must be one of 'project', 'pool'"),
        ({"weight_init": "jax"}, "weight_init must be one of"),
        ({"position_grid": (0, 4)}, "position_grid must be"),
        ({"patch_dropout": 1.0}, "patch_dropout must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            Hiera(**fields)
