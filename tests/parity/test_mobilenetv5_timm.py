"""MobileNet V5 against timm: images of any size, the tower without a classifier, norms."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of

import flaxzoo as fz
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
mobilenetv5 = pytest.importorskip("timm.models.mobilenetv5")

pytestmark = pytest.mark.family("mobilenetv5")

KINDS = {kind.name: kind for kind in FAMILIES["mobilenetv5"].kinds}


def pair(name, classes=4, timm_options=None, **options):
    """Ours and timm's small network, with the same random weights."""
    kind = KINDS[name]
    model = fz.models.get(name, num_classes=classes, **{**kind.fields, **options})
    keywords = {**kind.timm, **(timm_options or {})}
    reference = kind.create(name, num_classes=classes, **keywords).eval()
    return with_reference(model, fill_reference(reference), source="random"), reference


def worst(differences):
    return max(difference.relative for difference in differences.values())


@pytest.mark.parametrize("name", list(KINDS))
# The larger map is of the output's size, of three times that, of no multiple, and smaller.
@pytest.mark.parametrize("size", [(32, 32), (96, 32), (47, 70), (16, 24)])
def test_images_of_any_size(name, size):
    assert worst(compare(*pair(name), synthetic_images((2, *size, 3), 0))) < 1e-5


def test_a_size_of_three():
    options = {"timm_options": {"msfa_output_resolution": 3}, "fusion_size": 3}
    both = pair("mobilenetv5_base", **options)
    assert worst(compare(*both, synthetic_images((2, 64, 80, 3), 0))) < 1e-5


def test_features_without_a_classifier():
    model, reference = pair("mobilenetv5_base", classes=0)
    images = synthetic_images((2, 32, 48, 3), 0)
    expected = outputs_of(reference, images)
    assert expected.shape == (2, 16)
    np.testing.assert_allclose(model(images), expected, atol=1e-5 * np.abs(expected).max())


def test_the_tower_s_map():
    kind = KINDS["mobilenetv5_300m"]
    fields = {**kind.fields, "fusion_width": 2048}
    lines = mobilenetv5.decode_arch_def([list(stage) for stage in kind.fields["blocks"]])
    options = {"stem_size": 8, "layer_scale_init_value": 1e-5, "pad_type": "same"}
    # Its width is no keyword of timm's.
    reference = mobilenetv5.MobileNetV5Encoder(lines, msfa_output_resolution=1, **options).eval()
    tensors = fill_reference(reference)
    pooled = with_reference(
        fz.models.get("mobilenetv5_300m_enc", **fields), tensors, source="random"
    )
    images = synthetic_images((2, 32, 48, 3), 0)
    assert worst(compare(pooled, reference, images)) < 1e-5
    model = fz.models.get("mobilenetv5_300m_enc", pooling=None, **fields)
    model = with_reference(model, tensors, source="random")
    with torch.no_grad():
        x = reference(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    expected = x.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(model(images), expected, atol=1e-5 * np.abs(expected).max())


def test_norms_are_timm_s():
    with torch.device("meta"):
        reference = timm.create_model("mobilenetv5_base")
    norms = [m for m in reference.modules() if isinstance(m, timm.layers.RmsNorm2d)]
    assert {norm.eps for norm in norms} == {1e-6}
