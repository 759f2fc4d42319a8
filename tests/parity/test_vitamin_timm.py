"""ViTamin against timm: positions for other images and OpenCLIP's files."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import load_resized, outputs_of

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
vitamin = pytest.importorskip("timm.models.vitamin")

pytestmark = pytest.mark.family("vitamin")

KINDS = {kind.name: kind for kind in FAMILIES["vitamin"].kinds}


def pair(name, size=(32, 48), **options):
    """Our small network without variables, timm's with random weights, and these."""
    kind = KINDS[name]
    reference = kind.create(name, num_classes=4, img_size=size, **kind.timm, **options).eval()
    fields = {"input_shape": (*size, 3), "dynamic_size": "dynamic_img_size" in options}
    model = fz.models.get(name, num_classes=4, **fields, **kind.fields)
    return model, reference, fill_reference(reference)


def check(model, reference, shape):
    images = synthetic_images((2, *shape, 3), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("name", KINDS)
def test_other_sizes_at_call(name):
    model, reference, tensors = pair(name, dynamic_img_size=True)
    model = with_reference(model, tensors, source="random weights")
    for shape in ((32, 48), (64, 64), (40, 23)):
        check(model, reference, shape)


@pytest.mark.parametrize("name", KINDS)
def test_weights_for_images_of_another_size(name):
    _, _, tensors = pair(name, (64, 64))
    model, fresh, _ = pair(name, (48, 96))
    model = load_resized(model, tensors, (64, 64, 3))
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    fresh.load_state_dict(vitamin.checkpoint_filter_fn(state, fresh))
    check(model, fresh, (48, 96))


@pytest.mark.parametrize("name", KINDS)
def test_openclips_files(name):
    model, reference, tensors = pair(name)
    tensors["head.bias"] = np.zeros_like(tensors["head.bias"])
    reference.load_state_dict({key: torch.tensor(value) for key, value in tensors.items()})
    file = {f"visual.trunk.{key}": value for key, value in tensors.items() if "head." not in key}
    file |= {"visual.head.proj.weight": tensors["head.weight"], "logit_scale": np.ones(())}
    state = {key: torch.tensor(value) for key, value in file.items()}
    assert set(vitamin.checkpoint_filter_fn(state, reference)) == set(tensors)
    check(with_reference(model, file, source="OpenCLIP"), reference, (32, 48))
