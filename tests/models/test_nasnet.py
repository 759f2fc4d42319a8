"""The cells and maps of NASNet and PNASNet, and fields that do not fit."""

import jax
import pytest

from flaxzoo.models.nasnet import NASNet
from flaxzoo.models.pnasnet import PNASNet
from flaxzoo.models.registry import MODELS

TINY = {"layers": (1,), "width": 8, "stem_width": 4}
BOTH = pytest.mark.parametrize("family", ["nasnet", "pnasnet"])
KINDS = {"nasnet": NASNet, "pnasnet": PNASNet}
STEMS = {"nasnet": "conv0", "pnasnet": "conv_0"}


@pytest.mark.parametrize(("family", "channels"), [("nasnet", (4, 8, 48)), ("pnasnet", (4, 10, 40))])
def test_maps_are_those_before_each_reduction(family, channels):
    backbone, names = KINDS[family](**TINY), (STEMS[family], "cell_stem_0", "cell_0")
    images = jax.ShapeDtypeStruct((2, 47, 65, 3), "float32")
    maps, _ = jax.eval_shape(
        backbone.clone(feature_maps=True).init_with_output, jax.random.key(0), images
    )
    sizes = ((2, 23, 32), (2, 12, 16), (2, 6, 8))
    assert {name: leaf.shape for name, leaf in maps.items()} == {
        name: (*size, width) for name, size, width in zip(names, sizes, channels, strict=True)
    }
    assert backbone.reductions() == dict(zip(names, (2, 4, 8), strict=True))


@pytest.mark.parametrize(
    ("family", "name"), [("nasnet", "nasnetalarge"), ("pnasnet", "pnasnet5large")]
)
def test_reductions_of_the_large_ones(family, name):
    assert list(MODELS.get(name).backbone.reductions().values()) == [2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("family", "cells"),
    [
        ("nasnet", ["cell_0", "cell_1", "reduction_cell_0", "cell_2"]),
        ("pnasnet", ["cell_0", "cell_1", "cell_2", "cell_3"]),
    ],
)
def test_cells_are_numbered_in_order(family, cells):
    backbone = KINDS[family](**TINY)
    assert list(backbone.clone(layers=(2, 1)).stages())[3:] == cells
    depths = backbone.depths()
    assert depths["cell_stem_0"] == depths["cell_stem_1"] == STEMS[family]


@BOTH
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 6}, "width must be a multiple of 4, as the first cells have .* got 6"),
        ({"layers": ()}, "layers must be"),
        ({"stem_width": 0}, "stem_width must be"),
    ],
)
def test_fields_that_do_not_fit(family, fields, message):
    with pytest.raises(ValueError, match=message):
        KINDS[family](**{**TINY, **fields})
