"""HRNet: branches and what they exchange, images that do not fit, and fields that do not."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.hrnet import ExchangeModule, HRNet, repeated

pytestmark = pytest.mark.family("hrnet")

TINY = {
    "layers": (1, 1, 1),
    "modules": (1, 2),
    "width": 4,
    "first_width": 4,
    "stem_widths": (4, 8),
    "head_widths": (2, 3, 4),
    "head_features": 6,
}


def shapes(module, *size):
    """The output of a module, and its parameters."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


def test_maps_are_the_stem_s_and_those_of_all_branches():
    maps = shapes(HRNet(feature_maps=True, **TINY), 32, 64, 3)[0]
    assert {name: leaf.shape[1:] for name, leaf in maps.items()} == {
        "stem": (16, 32, 4),
        "stage1": (8, 16, 8),
        "stage2": (4, 8, 12),
        "stage3": (2, 4, 16),
    }
    y, params = shapes(HRNet(**TINY), 32, 64, 3)
    assert y.shape == (1, 2, 4, 6)
    # A branch is added by each transition; the first one also narrows what there is.
    new = {name for name in params if name.startswith("transition")}
    assert new == {
        *("transition1_0_0", "transition1_0_1", "transition1_1_0_0", "transition1_1_0_1"),
        *("transition2_2_0_0", "transition2_2_0_1"),
    }


def test_a_module_s_branches_become_sums_of_all():
    rng = np.random.default_rng(0)
    branches = tuple(
        rng.standard_normal((1, 8 >> i, 8 >> i, 4 << i)).astype(np.float32) for i in range(3)
    )
    module = ExchangeModule(1, 4)
    variables = jax.eval_shape(module.init, jax.random.key(0), branches)
    params = variables["params"]
    # From a finer branch step by step, the channels change in the last one.
    assert params["fuse_layers_2_0_0_0"]["kernel"].shape == (3, 3, 4, 4)
    assert params["fuse_layers_2_0_1_0"]["kernel"].shape == (3, 3, 4, 16)
    assert params["fuse_layers_0_2_0"]["kernel"].shape == (1, 1, 16, 4)
    assert not any(name.startswith("fuse_layers_1_1") for name in params)
    out = jax.eval_shape(module.apply, variables, branches)
    assert [leaf.shape for leaf in out] == [leaf.shape for leaf in branches]


def test_pixels_are_repeated_in_both_directions():
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    expected = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(repeated(x, 2), expected)


def test_biases_of_the_head():
    for name, has in (("hrnet_w18", True), ("hrnet_w18_ssld", False)):
        params = fz.models.get(name, **TINY, num_classes=2).shapes()["params"]["backbone"]
        assert ("bias" in params["final_layer_0"]) is has
        assert ("bias" in params["downsamp_modules_1_0"]) is has


def test_a_slice_ends_with_the_branches():
    model = fz.models.get("hrnet_w18", **TINY, num_classes=2).init(rng=0)
    branches = fz.transfer.slice_model(model, stop="incre_modules")
    out = branches(np.zeros((1, 16, 32, 3), np.float32))
    assert [leaf.shape for leaf in out] == [(1, 4 >> i, 8 >> i, 4 << i) for i in range(3)]


def test_images_that_do_not_fit():
    for size in ((24, 32), (32, 20)):
        with pytest.raises(ShapeError, match="height and width of images must be multiples of 16"):
            shapes(HRNet(**TINY), *size, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"modules": (1, 1, 1)}, "layers and head_widths must have one number for each stage"),
        ({"stem_widths": (4,)}, "stem_widths must be two, got"),
        ({"width": 0}, "width must be"),
        ({"norm": "batches"}, "norm must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        HRNet(**{**TINY, **fields})
