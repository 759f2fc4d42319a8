"""SelecSLS: what a block joins and hands over, the maps, and fields that do not fit."""

import jax
import jax.numpy as jnp
import pytest

from flaxzoo.models.selecsls import SelecSLS, SelecSlsBlock

pytestmark = pytest.mark.family("selecsls")

TINY = {
    "layers": (1, 3),
    "block_widths": (4, 6),
    "widths": (8, 10),
    "stem_width": 4,
    "head_widths": (12, 14),
    "head_kernel_sizes": (3, 1),
}
MAP = jax.ShapeDtypeStruct((1, 9, 6, 4), "float32")


def shapes(module, x):
    """The output of a module, and its parameters, without numbers."""
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


def test_a_stage_s_first_map_goes_along():
    first, params = shapes(SelecSlsBlock(6, 6, stride=2, first=True), MAP)
    assert [y.shape for y in first] == [(1, 5, 3, 6)] * 2
    kernels = [params[f"conv{i}"]["conv"]["kernel"].shape for i in range(1, 7)]
    assert kernels == [
        (3, 3, 4, 6),
        (1, 1, 6, 6),
        (3, 3, 6, 3),
        (1, 1, 3, 6),
        (3, 3, 6, 3),
        (1, 1, 6 + 3 + 3, 6),
    ]
    middle, params = shapes(SelecSlsBlock(8, 6), first)
    assert [y.shape[-1] for y in middle] == [8, 6]
    assert params["conv6"]["conv"]["kernel"].shape == (1, 1, 6 + 3 + 3 + 6, 8)
    last, _ = shapes(SelecSlsBlock(8, 6, last=True), middle)
    assert last.shape == (1, 5, 3, 8)


def test_the_shortcut_is_the_first_block_s_output():
    x = jnp.ones((1, 4, 4, 4))
    (y, same), _ = SelecSlsBlock(6, 6, first=True).init_with_output(jax.random.key(0), x)
    assert y is same
    (_, kept), _ = SelecSlsBlock(6, 6).init_with_output(jax.random.key(0), (x, y))
    assert kept is y


def test_maps_end_stages_and_every_other_convolution():
    images = jax.ShapeDtypeStruct((1, 31, 48, 3), "float32")
    maps, _ = shapes(SelecSLS(feature_maps=True, **TINY), images)
    assert {name: leaf.shape[1:] for name, leaf in maps.items()} == {
        "stem": (16, 24, 4),
        "features_0": (8, 12, 8),
        "features_3": (4, 6, 10),
        "head_1": (2, 3, 14),
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (8,)}, "must be of one length"),
        ({"head_kernel_sizes": (3,)}, "must be of one length"),
        ({"head_widths": (8,), "head_kernel_sizes": (3,)}, "head_widths must be of an even number"),
        ({"stem_width": 0}, "stem_width must be"),
        ({"norm": "batches"}, "norm must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        SelecSLS(**{**TINY, **fields})
