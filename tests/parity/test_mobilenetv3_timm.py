"""MobileNet V3 and V4 against timm, beside what is certified: widths of gates, epsilons, heads."""

import pytest

import flaxzoo as fz
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

pytestmark = pytest.mark.family("mobilenetv3")

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "epsilon", "padding"),
    [
        ("mobilenetv3_small_050", 1e-5, None),
        ("mobilenetv3_rw", 1e-3, None),
        ("tf_mobilenetv3_small_075", 1e-3, "SAME"),
    ],
)
def test_epsilon_and_padding(name, epsilon, padding):
    reference = timm.create_model(name)
    backbone = fz.models.get(name).module.backbone
    assert reference.bn1.eps == epsilon == (backbone.norm_epsilon or 1e-5)
    assert reference.bn1.momentum == 0.1
    assert backbone.padding == padding
    assert (padding == "SAME") == (type(reference.conv_stem).__name__ == "Conv2dSame")


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "mobilenetv4_conv_small_035"])
def test_no_classes_and_images_that_are_not_square(name):
    reference = timm.create_model(name, num_classes=0).eval()
    tensors = fill_reference(reference)
    model = fz.models.get(name, num_classes=0)
    model = with_reference(model, tensors, source="the same")
    images = synthetic_images((2, 65, 94, 3), 0)
    differences = compare(model, reference, images)
    assert max(difference.relative for difference in differences.values()) < 1e-5
