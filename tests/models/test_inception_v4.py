"""InceptionV4: its blocks, small images, and what does not fit."""

import jax
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.models.inception_v4 import InceptionV4

pytestmark = pytest.mark.family("inception_v4")


def shapes(module, *size):
    """The output of a module, and its parameters."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


def test_the_number_of_blocks():
    backbone = InceptionV4(layers=(1, 2, 1), width_factor=1 / 32)
    assert list(backbone.stages()) == [f"features_{i}" for i in range(12)]
    assert list(backbone.reductions().values()) == [2, 4, 8, 16, 32]
    params = shapes(backbone, 75, 75, 3)[1]
    assert {"fork1_1a", "fork1_1b", "fork2_3a", "fork2_3b"} <= params["features_11"].keys()
    assert "fork1_0" not in params["features_9"]


def test_images_that_leave_no_pixel():
    backbone = InceptionV4(layers=(1, 1, 1), width_factor=1 / 32)
    assert shapes(backbone, 75, 75, 3)[0].shape == (1, 1, 1, 48)
    with pytest.raises(ShapeError, match="images must be at least 75 x 75"):
        shapes(backbone, 90, 74, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 1)}, "layers must be 3 numbers"),
        ({"width_factor": 0.0}, "width_factor must be"),
        ({"norm_epsilon": -1.0}, "norm_epsilon must be"),
        ({"norm": "batches"}, "norm must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        InceptionV4(**fields)
