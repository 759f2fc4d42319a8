"""InceptionResNetV2: its blocks, small images, and what does not fit."""

import jax
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.models.inception_resnet_v2 import InceptionResNetV2

pytestmark = pytest.mark.family("inception_resnet_v2")


def shapes(module, *size):
    """The output of a module, and its parameters."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


def test_the_number_of_blocks():
    backbone = InceptionResNetV2(layers=(1, 2, 2), width_factor=1 / 32)
    blocks = [name for name in backbone.stages() if name.startswith(("repeat", "block"))]
    assert blocks == ["repeat_0", "repeat_1_0", "repeat_1_1", "repeat_2_0", "block8"]
    assert list(backbone.reductions().values()) == [2, 4, 8, 16, 32]
    runs = {part.name: part.run for part in backbone.parts()}
    scales = [
        getattr(runs[name].func, "keywords", runs[name].keywords).get("scale") for name in blocks
    ]
    assert scales == [0.17, 0.1, 0.1, 0.2, None]


def test_images_that_leave_no_pixel():
    backbone = InceptionResNetV2(layers=(1, 1, 1), width_factor=1 / 32)
    assert shapes(backbone, 75, 75, 3)[0].shape == (1, 1, 1, 48)
    with pytest.raises(ShapeError, match="images must be at least 75 x 75"):
        shapes(backbone, 90, 74, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 1)}, "layers and scales must be 3 numbers each"),
        ({"scales": (1.0,)}, "layers and scales must be 3 numbers each"),
        ({"width_factor": 0.0}, "width_factor must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        InceptionResNetV2(**fields)
