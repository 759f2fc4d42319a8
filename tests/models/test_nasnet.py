"""NASNet's cells and maps, and fields that do not fit."""

import jax
import pytest

from flaxzoo.models.nasnet import NASNet
from flaxzoo.models.registry import MODELS

pytestmark = pytest.mark.family("nasnet")

TINY = {"layers": (1,), "width": 8, "stem_width": 4}


def test_maps_are_those_before_each_reduction():
    backbone = NASNet(**TINY)
    images = jax.ShapeDtypeStruct((2, 47, 65, 3), "float32")
    maps, _ = jax.eval_shape(
        backbone.clone(feature_maps=True).init_with_output, jax.random.key(0), images
    )
    assert {name: leaf.shape for name, leaf in maps.items()} == {
        "conv0": (2, 23, 32, 4),
        "cell_stem_0": (2, 12, 16, 8),
        "cell_0": (2, 6, 8, 48),
    }
    assert backbone.reductions() == {"conv0": 2, "cell_stem_0": 4, "cell_0": 8}
    assert list(MODELS.get("nasnetalarge").backbone.reductions().values()) == [2, 4, 8, 16, 32]


def test_cells_are_numbered_in_order():
    backbone = NASNet(**TINY)
    names = list(backbone.clone(layers=(2, 1)).stages())
    assert names[3:] == ["cell_0", "cell_1", "reduction_cell_0", "cell_2"]
    depths = backbone.depths()
    assert depths["cell_stem_0"] == depths["cell_stem_1"] == "conv0"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 6}, "width must be a multiple of 4, as the first cells have .* got 6"),
        ({"layers": ()}, "layers must be"),
        ({"stem_width": 0}, "stem_width must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        NASNet(**{**TINY, **fields})
