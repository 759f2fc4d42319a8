"""Networks that attend against timm: sizes, dilation, convolutions before attention, features."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of

import flaxzoo as fz
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("byoanet")

KINDS = {kind.name: kind for kind in FAMILIES["byoanet"].kinds}


def pair(name, classes=4, timm_options=None, size=None, **options):
    """Ours and timm's small network, with the same random weights."""
    kind = KINDS[name]
    size = size or kind.input_shape[:2]
    fields = {"num_classes": classes, "input_shape": (*size, 3), **kind.fields, **options}
    model = fz.models.get(name, **fields)
    keywords = {**kind.timm, "img_size": size, **(timm_options or {})}
    reference = kind.create(name, num_classes=classes, **keywords).eval()
    return with_reference(model, fill_reference(reference, gain=1.5), source="random"), reference


def worst(differences):
    return max(difference.relative for difference in differences.values())


@pytest.mark.parametrize(
    ("name", "made_for", "size"),
    [
        ("botnet26t_256", (64, 32), (64, 32)),
        # Halos and neighbourhoods take images of other sizes than the network is made for.
        ("halonet_h1", (32, 48), (64, 16)),
        ("haloregnetz_b", (48, 96), (96, 48)),
        ("lambda_resnet26t", (32, 48), (64, 96)),
        ("lambda_resnet26rpt_256", (48, 64), (48, 64)),
    ],
)
def test_images_of_other_sizes(name, made_for, size):
    both = pair(name, size=made_for)
    assert worst(compare(*both, synthetic_images((2, *size, 3), 0))) < 1e-5


@pytest.mark.parametrize("name", ["botnet26t_256", "lambda_resnet26t"])
def test_stages_that_are_not_strided(name):
    both = pair(name, timm_options={"output_stride": 8}, output_stride=8)
    assert worst(compare(*both, synthetic_images((2, 32, 48, 3), 0))) < 1e-5


def test_a_convolution_before_the_attention():
    options = {"block_kwargs": {"extra_conv": True}}
    both = pair("halonet_h1", timm_options=options, extra_conv=True)
    assert worst(compare(*both, synthetic_images((2, 32, 48, 3), 0))) < 1e-5


def test_features_without_a_classifier():
    model, reference = pair("haloregnetz_b", classes=0)
    images = synthetic_images((2, 48, 96, 3), 0)
    expected = outputs_of(reference, images)
    np.testing.assert_allclose(model(images), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["botnet26t_256", "halonet_h1"])
def test_sizes_that_timm_refuses_are_refused(name):
    model, reference = pair(name)
    images = synthetic_images((1, 36, 56, 3), 0)
    with pytest.raises(AssertionError):
        reference(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    with pytest.raises(fz.errors.ShapeError):
        model(images)
