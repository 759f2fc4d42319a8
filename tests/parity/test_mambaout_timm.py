"""MambaOut against timm: images of odd sides, features without classes, the authors' files."""

import re

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of

import flaxzoo as fz
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
mambaout = pytest.importorskip("timm.models.mambaout")

pytestmark = pytest.mark.family("mambaout")

KINDS = {kind.name: kind for kind in FAMILIES["mambaout"].kinds}


def pair(name, classes=4):
    """Our small network and timm's, and timm's random tensors."""
    kind = KINDS[name]
    reference = timm.create_model(name, num_classes=classes, **kind.timm).eval()
    model = fz.models.get(name, num_classes=classes, input_shape=kind.input_shape, **kind.fields)
    return model, reference, fill_reference(reference)


@pytest.mark.parametrize("name", list(KINDS))
def test_images_of_odd_sides(name):
    model, reference, tensors = pair(name)
    model = with_reference(model, tensors, source="random weights")
    found = compare(model, reference, synthetic_images((2, 45, 70, 3), 0))
    assert max(difference.relative for difference in found.values()) < 1e-5


def test_features_without_classes():
    model, reference, tensors = pair("mambaout_femto", 0)
    model = with_reference(model, tensors, source="random weights")
    images = synthetic_images((2, 32, 48, 3), 0)
    expected = outputs_of(reference, images)
    assert expected.shape == (2, 48)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


def test_the_authors_files():
    model, reference, tensors = pair("mambaout_femto")

    def old(name):
        name = re.sub(r"^head\.norm\.", "norm.", name).replace("head.fc.", "head.fc2.")
        name = name.replace("pre_logits.fc.", "fc1.").replace("pre_logits.norm.", "norm.")
        name = re.sub(r"^stages\.(\d+)\.downsample", r"downsample_layers.\1", name)
        return name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".")

    file = {old(name): value for name, value in tensors.items()}
    state = {key: torch.tensor(value) for key, value in file.items()}
    assert mambaout.checkpoint_filter_fn(state, reference).keys() == tensors.keys()
    exported = with_reference(model, file, source="old").to_torch_state_dict(as_numpy=True)
    for key, value in exported.items():
        np.testing.assert_array_equal(value, tensors[key], err_msg=key)
