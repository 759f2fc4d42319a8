"""DLA: what a tree's roots see, images that do not fit, and files with what nothing uses."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.dla import DLA, DlaBottle2neck
from flaxzoo.verify import with_reference

pytestmark = pytest.mark.family("dla")

TINY = {"layers": (1, 1, 1, 2, 3), "widths": (4, 4, 8, 8, 12)}


def shapes(module, *size):
    """The output of a module, and its parameters."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


def test_the_last_root_of_a_stage_sees_all_branches_and_the_stage_s_input():
    maps, params = shapes(DLA(feature_maps=True, **TINY), 32, 64, 3)
    assert [leaf.shape[1:] for leaf in maps.values()] == [
        (32, 64, 4),
        (16, 32, 4),
        (8, 16, 8),
        (4, 8, 8),
        (2, 4, 12),
    ]
    seen = {
        path: tree["root"]["conv"]["kernel"].shape[2]
        for path, tree in {
            "level3_tree1": params["level3_tree1"],
            "level3_tree2": params["level3_tree2"],
            "level4_tree2/tree2": params["level4_tree2"]["tree2"],
        }.items()
    }
    assert params["level2_root"]["conv"]["kernel"].shape[2] == 2 * 8
    # Two blocks; behind them the input of the stage and the first tree; and those of each level.
    assert seen == {
        "level3_tree1": 2 * 8,
        "level3_tree2": 2 * 8 + 8 + 8,
        "level4_tree2/tree2": 2 * 12 + 8 + 12 + 12,
    }


def test_projections_stand_where_channels_change():
    params = shapes(DLA(**TINY), 16, 32, 3)[1]
    # The first two trees differ: in the second one the stage's width is that of its input.
    assert "level2_project_0" in params
    assert "project_0" not in params["level3_tree1"]
    assert "project_0" in params["level4_tree1"]["tree1"]


def test_three_of_four_scales_see_the_image():
    params = shapes(DlaBottle2neck(16, groups=2, base_width=16), 4, 4, 16)[1]
    assert params["conv1"]["kernel"].shape == (1, 1, 16, 4 * 4)
    assert {name for name in params if name.startswith("convs")} == {f"convs_{i}" for i in range(3)}
    assert params["convs_0"]["kernel"].shape == (3, 3, 2, 4)


def test_images_that_can_not_be_halved():
    network = DLA(**TINY)
    for size in ((24, 32), (32, 20)):
        with pytest.raises(ShapeError, match="height and width of images must be multiples of 32"):
            shapes(network, *size, 3)


def test_projections_of_the_authors_that_nothing_uses():
    model = fz.models.get("dla34", num_classes=3, input_shape=(16, 16, 3), **TINY).init(rng=0)
    tensors = model.to_torch_state_dict(as_numpy=True)
    assert "level3.tree1.tree1.conv1.weight" in tensors
    more = {**tensors, "level3.project.0.weight": np.zeros((8, 8, 1, 1), np.float32)}
    loaded = with_reference(model, more, source="the authors")
    kernel = loaded.variables["params"]["backbone"]["level2_project_0"]["kernel"]
    np.testing.assert_array_equal(kernel[0, 0].T, tensors["level2.project.0.weight"][..., 0, 0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": "wide"}, "block must be one of"),
        ({"layers": (1, 1), "widths": (4, 4)}, "layers must be of three stages at least"),
        ({"widths": (4, 4)}, "must be of one length"),
        ({"groups": 0}, "groups must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        DLA(**{**TINY, **fields})
