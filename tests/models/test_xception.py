"""Xception: which blocks project, which maps are activated, and what does not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.models.xception import Xception, XceptionBlock

pytestmark = pytest.mark.family("xception")

TINY = {"stem_widths": (4, 6), "widths": (6, 8), "layers": 1, "exit_widths": (8, 10, 12)}


def shapes(module, *size):
    """The output of a module, and its parameters."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


@pytest.mark.parametrize(
    ("stride", "channels", "projects"), [(1, 8, False), (1, 6, True), (2, 8, True)]
)
def test_a_block_projects_where_shapes_change(stride, channels, projects):
    y, params = shapes(XceptionBlock((8, 8), stride), 9, 9, channels)
    assert y.shape == (1, -(-9 // stride), -(-9 // stride), 8)
    assert ("skip" in params) is projects
    assert {"rep_1", "rep_2", "rep_4", "rep_5"} <= params.keys()
    first = XceptionBlock((8, 8), stride, activate_first=False)
    assert {"rep_0", "rep_1", "rep_3", "rep_4"} <= shapes(first, 9, 9, channels)[1].keys()


def test_maps_of_blocks_are_activated():
    x = np.random.default_rng(0).standard_normal((1, 19, 23, 3)).astype(np.float32)
    backbone = Xception(feature_maps=True, **TINY)
    maps, _ = backbone.init_with_output(jax.random.key(0), x)
    assert list(maps) == ["stem", "block1", "block3", "exit"]
    assert all((value >= 0).all() for value in maps.values())
    assert [value.shape[1:3] for value in maps.values()] == [(7, 9), (4, 5), (2, 3), (1, 2)]


def test_images_that_leave_no_pixel():
    with pytest.raises(ShapeError, match="images must be at least 7 x 7"):
        shapes(Xception(**TINY), 6, 20, 3)
    assert shapes(Xception(**TINY), 7, 7, 3)[0].shape == (1, 1, 1, 12)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stem_widths": (4,)}, "stem_widths must be 2 numbers"),
        ({"exit_widths": (4, 5)}, "exit_widths must be 3 numbers"),
        ({"layers": -1}, "layers must be"),
        ({"norm": "batches"}, "norm must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Xception(**{**TINY, **fields})
