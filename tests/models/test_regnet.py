"""RegNet: its design space, what stages begin with, and what does not fit."""

import jax
import pytest

import flaxzoo as fz
from flaxzoo.models.regnet import PreActRegNetBlock, RegNet, RegNetBlock, design

pytestmark = pytest.mark.family("regnet")

TINY = {"layers": (1, 1, 2), "widths": (8, 16, 24), "group_size": 4, "stem_width": 8}


def shapes(module, *size):
    """The map of a module, and its parameters."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


# Tables 2 to 4 of the paper's appendix, and torchvision's rounding.
@pytest.mark.parametrize(
    ("name", "layers", "widths"),
    [
        ("regnetx_002", (1, 1, 4, 7), (24, 56, 152, 368)),
        ("regnetx_032", (2, 6, 15, 2), (96, 192, 432, 1008)),
        ("regnety_032", (2, 5, 13, 1), (72, 216, 576, 1512)),
        ("regnety_160", (2, 4, 11, 1), (224, 448, 1232, 3024)),
        ("regnety_080_tv", (2, 4, 10, 1), (224, 448, 896, 2016)),
        ("regnety_080", (2, 4, 10, 1), (168, 448, 896, 2016)),
    ],
)
def test_designs_of_the_paper(name, layers, widths):
    backbone = fz.models.get(name).module.backbone
    assert (backbone.layers, backbone.widths) == (layers, widths)


def test_a_width_below_a_group_is_one_group():
    fields = design(4, 8, 8.0, 2.0, 16)
    assert fields["widths"][0] == 8
    params = shapes(RegNet(**fields), 32, 32, 3)[1]
    assert params["s1_b1"]["conv2"]["conv"]["kernel"].shape == (3, 3, 8, 8)
    wide = design(4, 8, 8.0, 2.0, 16, ratio=2.0)
    assert (wide["ratio"], wide["widths"][0]) == (2.0, 8)


@pytest.mark.parametrize(("output_stride", "last"), [(16, 3), (8, 5)])
def test_later_stages_are_dilated(output_stride, last):
    backbone = RegNet(**TINY, output_stride=output_stride, feature_maps=True)
    maps, params = shapes(backbone, 36, 36, 3)
    assert [leaf.shape[1] for leaf in maps.values()] == [18, 9, 5, last]
    assert params.keys() == shapes(RegNet(**TINY), 36, 36, 3)[1].keys()


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"shortcut": "conv"}, {"downsample"}),
        ({"shortcut": "avg"}, {"downsample_1"}),
        ({"shortcut": None}, set()),
    ],
)
@pytest.mark.parametrize("block", [RegNetBlock, PreActRegNetBlock])
def test_shortcuts(block, fields, names):
    y, params = shapes(block(8, stride=2, project=True, **fields), 7, 9, 4)
    assert y.shape == (1, 4, 5, 8)
    assert {name for name in params if name.startswith("downsample")} == names


def test_what_follows_the_last_stage():
    assert [part.name for part in RegNet(**TINY).parts()][-1] == "s3_b2"
    linear = list(RegNet(**TINY, linear=True).parts())
    assert (linear[-1].name, linear[-1].submodules) == ("s3_b2", ())
    wider = RegNet(**TINY, linear=True, head_width=10)
    y, params = shapes(wider, 32, 32, 3)
    assert y.shape == (1, 2, 2, 10)
    assert set(params["final_conv"]) == {"conv", "bn"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (8, 18, 24)}, r"widths=\(8, 18, 24\) .* multiples of group_size=4, got 18"),
        ({"layers": (1, 1)}, "must be of one length"),
        ({"group_size": 0}, "group_size must be"),
        ({"head_width": 0}, "head_width must be"),
        ({"ratio": 0.0}, "ratio must be"),
        ({"squeeze_ratio": -1.0}, "squeeze_ratio must be"),
        ({"shortcut": "max"}, "shortcut must be"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"norm": "groups"}, "norm must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        RegNet(**{**TINY, **fields})
