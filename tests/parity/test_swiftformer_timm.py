"""SwiftFormer against timm: sizes of images, names, the authors' files."""

import re

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import outputs_of, pair_of

import flaxzoo as fz
from flaxzoo.verify import with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
swiftformer = pytest.importorskip("timm.models.swiftformer")

pytestmark = pytest.mark.family("swiftformer")

NAME = "swiftformer_xs"
(KIND,) = FAMILIES["swiftformer"].kinds


@pytest.fixture(scope="module")
def pair():
    """Our small network with timm's random weights, timm's, and these."""
    return pair_of(NAME, KIND.fields, KIND.timm)


def check(model, reference, shape):
    images = synthetic_images((2, *shape, 3), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


def test_images_of_any_size(pair):
    model, reference, _ = pair
    for shape in ((64, 96), (70, 41)):
        check(model, reference, shape)


def test_the_authors_files(pair):
    _, reference, tensors = pair

    def old(name):
        name = re.sub(r"(layer_scale(_\d)?)\.gamma$", r"\1", name)
        name = re.sub(r"^stages\.(\d)\.blocks", lambda m: f"network.{2 * int(m[1])}", name)
        name = re.sub(r"^stages\.(\d)\.downsample", lambda m: f"network.{2 * int(m[1]) - 1}", name)
        name = name.replace("attn.proj.", "attn.Proj.").replace("head_dist.", "dist_head.")
        return name.replace("stem.", "patch_embed.")

    file = {old(name): value for name, value in tensors.items()}
    state = {key: torch.tensor(value) for key, value in file.items()}
    assert set(swiftformer.checkpoint_filter_fn(state, reference)) == set(tensors)
    fresh = fz.models.get(NAME, num_classes=4, **KIND.fields)
    check(with_reference(fresh, file, source="old"), reference, (64, 64))
