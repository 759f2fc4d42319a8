"""Networks of given blocks against timm: sizes, dilation, the form of inference, CLIP's files."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of

import flaxzoo as fz
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
timm = pytest.importorskip("timm")
byobnet = pytest.importorskip("timm.models.byobnet")
reparameterize_model = pytest.importorskip("timm.utils").reparameterize_model

pytestmark = pytest.mark.family("byobnet")

KINDS = {kind.name: kind for kind in FAMILIES["byobnet"].kinds}


def pair(name, classes=4, timm_options=None, **options):
    """Ours and timm's small network, with the same random weights."""
    kind = KINDS[name]
    fields = {"num_classes": classes, "input_shape": kind.input_shape, **kind.fields, **options}
    model = fz.models.get(name, **fields)
    sized = "input_shape" in MODELS.parameters(name)
    size = {"img_size": kind.input_shape[:2]} if sized else {}
    make = kind.create or timm.create_model
    reference = make(name, num_classes=classes, **size, **kind.timm, **(timm_options or {})).eval()
    return with_reference(model, fill_reference(reference, gain=1.5), source="random"), reference


def worst(differences):
    return max(difference.relative for difference in differences.values())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("repvgg_b1g4", (33, 50)),
        ("gcresnext26ts", (64, 40)),
        ("resnet50_clip", (64, 32)),
        ("test_byobnet", (97, 33)),
    ],
)
def test_images_of_any_size(name, size):
    assert worst(compare(*pair(name), synthetic_images((2, *size, 3), 0))) < 1e-5


@pytest.mark.parametrize("name", ["repvgg_b1g4", "mobileone_s4", "resnet61q", "test_byobnet"])
@pytest.mark.parametrize("stride", [8, 16])
def test_dilated_stages(name, stride):
    both = pair(name, timm_options={"output_stride": stride}, output_stride=stride)
    assert worst(compare(*both, synthetic_images((2, 64, 96, 3), 0))) < 1e-5


@pytest.mark.parametrize("name", ["resnet50_clip", "resnet50_mlp", "repvgg_b1g4"])
def test_features_without_a_classifier(name):
    model, reference = pair(name, classes=0)
    images = synthetic_images((2, 32, 48, 3), 0)
    expected = outputs_of(reference, images)
    np.testing.assert_allclose(model(images), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["repvgg_b1g4", "mobileone_s4"])
def test_the_form_of_inference_is_timm_s(name):
    model, reference = pair(name)
    images = synthetic_images((2, 32, 48, 3), 0)
    expected = np.asarray(model(images))
    reference = reparameterize_model(reference)
    reference.load_state_dict(model.reparameterize().to_torch_state_dict(), strict=True)
    y = outputs_of(reference, images)
    assert np.abs(y - expected).max() < 1e-5 * np.abs(expected).max()


def test_norms_of_repvgg_begin_at_random():
    ours = fz.models.get("repvgg_a0", num_classes=2).init(rng=0).to_torch_state_dict(as_numpy=True)
    for leaf, mean in (("weight", 0.1), ("bias", 0.0)):
        values = np.concatenate([v for k, v in ours.items() if k.endswith(f"bn.{leaf}")])
        assert values.mean() == pytest.approx(mean, abs=0.005)
        assert values.std() == pytest.approx(0.1, rel=0.03)
