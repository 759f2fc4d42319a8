"""Res2Net against timm: scales, dilated stages, images that are not square."""

import pytest
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("res2net")

SIZES = {"layers": (1, 2, 1, 1), "widths": (16, 24, 32, 40)}
SIZES_TIMM = {"layers": (1, 2, 1, 1), "channels": (16, 24, 32, 40)}


@pytest.mark.parametrize(
    ("name", "fields", "options"),
    [
        ("res2net50_48w_2s", {}, {}),
        ("res2net50_26w_8s", {"scale": 1}, {"block_args": {"scale": 1}}),
        ("res2next50", {"output_stride": 16}, {"output_stride": 16}),
        ("res2net50d", {"output_stride": 8}, {"output_stride": 8}),
    ],
)
def test_networks(name, fields, options):
    reference = timm.create_model(name, num_classes=5, **SIZES_TIMM, **options).eval()
    model = fz.models.get(name, num_classes=5, **SIZES, **fields)
    model = with_reference(model, fill_reference(reference), source="random weights")
    assert_same(model, reference, (45, 70, 3))
