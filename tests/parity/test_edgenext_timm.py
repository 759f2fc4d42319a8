"""EdgeNeXt against timm: sizes of images, names, the authors' files."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
edgenext = pytest.importorskip("timm.models.edgenext")

pytestmark = pytest.mark.family("edgenext")

KINDS = {kind.name: kind for kind in FAMILIES["edgenext"].kinds}


def pair(name):
    """Our small network without variables, timm's with random weights, and these."""
    kind = KINDS[name]
    reference = timm.create_model(name, num_classes=4, **kind.timm).eval()
    return fz.models.get(name, num_classes=4, **kind.fields), reference, fill_reference(reference)


def check(model, reference, shape):
    images = synthetic_images((2, *shape, 3), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("name", KINDS)
def test_images_of_any_size(name):
    model, reference, tensors = pair(name)
    model = with_reference(model, tensors, source="random weights")
    for shape in ((64, 96), (70, 41)):
        check(model, reference, shape)


def test_groups_of_channels_of_unequal_width():
    fields = {**KINDS["edgenext_xx_small"].fields, "widths": (8, 8, 20, 12)}
    options = {**KINDS["edgenext_xx_small"].timm, "dims": (8, 8, 20, 12)}
    reference = timm.create_model("edgenext_xx_small", num_classes=4, **options).eval()
    model = fz.models.get("edgenext_xx_small", num_classes=4, **fields)
    model = with_reference(model, fill_reference(reference), source="random weights")
    check(model, reference, (64, 64))


def test_the_authors_files():
    model, reference, tensors = pair("edgenext_xx_small")
    old = {}
    for key, value in tensors.items():
        key = key.replace("stem.", "downsample_layers.0.").replace("head.norm.", "norm.")
        key = key.replace("head.fc.", "head.").replace("conv_dw", "dwconv")
        key = key.replace(".blocks.", ".").replace("mlp.fc", "pwconv")
        if ".downsample." in key:
            stage, rest = key.removeprefix("stages.").split(".downsample.")
            key = f"downsample_layers.{stage}.{rest}"
        old[key] = value
    state = {key: torch.tensor(value) for key, value in old.items()}
    assert set(edgenext.checkpoint_filter_fn(state, reference)) == set(tensors)
    check(with_reference(model, old, source="old"), reference, (64, 64))
