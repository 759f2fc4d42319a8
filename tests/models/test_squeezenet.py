"""SqueezeNet: its block, small images, what is classified, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.squeezenet import Fire, SqueezeNet

pytestmark = pytest.mark.family("squeezenet")

TINY = {"layers": (1, 1, 1), "widths": (16, 16, 32), "squeeze": 2, "stem_width": 8}


def test_half_of_a_block_s_channels_see_one_pixel():
    x = np.random.default_rng(0).random((2, 5, 5, 6), np.float32)
    block = Fire(8, 3)
    y, variables = block.init_with_output(jax.random.key(0), x)
    assert y.shape == (2, 5, 5, 8)
    kernels = {name: leaf["kernel"].shape for name, leaf in variables["params"].items()}
    assert kernels == {
        "squeeze": (1, 1, 6, 3),
        "expand1x1": (1, 1, 3, 4),
        "expand3x3": (3, 3, 3, 4),
    }
    x[:, 2, 2] += 1
    moved = (block.apply(variables, x) != y).any((0, 3))
    first = (block.apply(variables, x) != y)[..., :4].any((0, 3))
    assert first.sum() == 1
    assert moved[1:4, 1:4].sum() > 1


def test_pooling_begins_earlier_in_the_second_version():
    for name, places in (("squeezenet1_0", (5, 10, 12)), ("squeezenet1_1", (4, 7, 12))):
        maps = fz.models.get(name).module.backbone.reductions()
        assert maps == {"features_1": 2} | {
            f"features_{place}": 4 * 2**i for i, place in enumerate(places)
        }


def test_images_of_few_pixels():
    def shape(height, width):
        x = jax.ShapeDtypeStruct((1, height, width, 3), "float32")
        return jax.eval_shape(SqueezeNet(**TINY).init_with_output, jax.random.key(0), x)[0].shape

    assert shape(7, 40) == (1, 1, 2, 32)
    with pytest.raises(ShapeError, match="images must be at least 7 x 7"):
        shape(6, 40)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 1)}, "widths must be 2 multiples of 4"),
        ({"widths": (16, 18, 32)}, "widths must be 3 multiples of 4, .* got"),
        ({"squeeze": 0}, "squeeze must be"),
        ({"stem_size": 0}, "stem_size must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        SqueezeNet(**{**TINY, **fields})
