"""GhostNet: whose channels are made of whose, pixels of half a map, what does not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.models.ghostnet import GhostModule, GhostNet, _doubled

pytestmark = pytest.mark.family("ghostnet")


def test_the_second_half_sees_but_the_first():
    x = np.random.default_rng(0).random((1, 3, 4, 5), np.float32)
    module = GhostModule(features=7)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    assert shapes["primary_conv_0"]["kernel"].shape == (1, 1, 5, 4)
    # One of the eight channels is left out.
    assert shapes["cheap_operation_0"]["kernel"].shape == (3, 3, 1, 4)
    assert jax.eval_shape(module.init_with_output, jax.random.key(0), x)[0].shape == (1, 3, 4, 7)


@pytest.mark.parametrize(
    ("length", "expected"), [(6, [0, 0, 1, 1, 2, 2]), (7, [0, 0, 0, 1, 1, 2, 2])]
)
def test_pixels_are_repeated_as_pytorch_does(length, expected):
    # The nearest of three pixels to each of six or seven, floor(3 i / length).
    assert expected == [i * 3 // length for i in range(length)]
    x = np.arange(3.0)[None, :, None, None] * np.ones((1, 1, 2, 1))
    np.testing.assert_array_equal(_doubled(x, (length, 4))[0, :, 0, 0], expected)


def test_attention_refuses_maps_of_one_pixel():
    module = GhostModule(features=4, attention=True)
    with pytest.raises(
        ShapeError, match="attention takes maps of at least 2 x 2 pixels, got 1 x 3"
    ):
        jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 1, 3, 2), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blocks": ()}, "blocks must have blocks for each stage"),
        ({"blocks": (((3, 8, 8, 0),),)}, "blocks must each be five numbers"),
        ({"blocks": (((3, 8, 8, 0, 3),),)}, "blocks: a stride must be 1 or 2, got 3"),
        ({"blocks": (((3, 0, 8, 0, 1),),)}, "blocks must be an int of at least 1, got 0"),
        ({"width_factor": 0}, "width_factor must be"),
        ({"branches": -1}, "branches must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        GhostNet(**fields)
