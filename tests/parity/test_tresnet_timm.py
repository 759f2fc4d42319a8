"""TResNet against timm: images of any size that it takes, and the authors' files."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.models.tresnet import convert
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
tresnet = pytest.importorskip("timm.models.tresnet")

pytestmark = pytest.mark.family("tresnet")

KINDS = FAMILIES["tresnet"].kinds


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_images_of_another_size(kind):
    model = fz.models.get(kind.name, num_classes=4, input_shape=kind.input_shape, **kind.fields)
    reference = timm.create_model(kind.name, num_classes=4, **kind.timm).eval()
    model = with_reference(model, fill_reference(reference), source="random")
    assert_same(model, reference, (64, 96, 3))


def test_the_authors_files_become_timm_s():
    names = ("body.conv1.0.weight", "body.layer1.0.conv1.0.1.weight", "body.layer2.0.conv2.0.bias")
    names += ("body.layer2.0.downsample.1.1.weight", "body.layer1.0.se.fc1.weight")
    tensors = {name: torch.full((1,), -2.0) for name in names}
    expected = tresnet.checkpoint_filter_fn(dict(tensors), None)
    ours = convert({name: value.numpy() for name, value in tensors.items()}, None)
    assert list(ours) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value.numpy())
