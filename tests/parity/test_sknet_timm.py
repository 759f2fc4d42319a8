"""Selective kernels against timm: dilated stages, low-passes, images that are not square."""

import pytest
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("sknet")

SIZES = {"layers": (1, 2, 1, 1), "widths": (16, 24, 32, 40)}
SIZES_TIMM = {"layers": (1, 2, 1, 1), "channels": (16, 24, 32, 40)}


@pytest.mark.parametrize(
    ("name", "size", "fields", "options"),
    [
        ("skresnet18", (45, 70), {}, {}),
        ("skresnext50_32x4d", (45, 70), {"output_stride": 8}, {"output_stride": 8}),
        ("skresnet50d", (64, 96), {"anti_aliasing": "avg"}, {"aa_layer": torch.nn.AvgPool2d}),
    ],
)
def test_networks(name, size, fields, options):
    reference = timm.create_model(name, num_classes=5, **SIZES_TIMM, **options).eval()
    model = fz.models.get(name, num_classes=5, **SIZES, **fields)
    model = with_reference(model, fill_reference(reference), source="random weights")
    assert_same(model, reference, (*size, 3))
