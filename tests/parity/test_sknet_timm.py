"""Selective kernels against timm: dilated stages, low-passes, images that are not square."""

import pytest

import flaxzoo as fz
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

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
    differences = compare(model, reference, synthetic_images((2, *size, 3), 0))
    assert max(difference.relative for difference in differences.values()) < 1e-5
