"""MLP-Mixer, ResMLP and gMLP against timm: names, older files, other grids."""

import numpy as np
import pytest
from parity.pairs import assert_exports, load_into, outputs_of

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
mixers = pytest.importorskip("timm.models.mlp_mixer")

pytestmark = pytest.mark.family("mlp_mixer")

NAMES = ["mixer_s16_224", "gmixer_12_224", "resmlp_12_224", "gmlp_ti16_224"]


def reference_of(name, size, **options):
    """timm's, of one block."""
    reference = timm.create_model(name, img_size=size, num_classes=5, **options).eval()
    reference.blocks = reference.blocks[:1]
    return reference


def tensors_of(reference):
    return fill_reference(reference)


def model_of(name, size):
    return fz.models.get(name, input_shape=(*size, 3), depth=1, num_classes=5)


@pytest.mark.parametrize("name", NAMES)
def test_images_that_are_not_of_whole_patches(name):
    size = (37, 50)
    reference = reference_of(name, size)
    model = with_reference(model_of(name, size), tensors_of(reference), source="random weights")
    images = synthetic_images((2, *size, 3), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("name", ["mixer_s16_224", "resmlp_12_224", "gmlp_ti16_224"])
def test_weights_of_another_grid_are_refused(name):
    tensors = tensors_of(reference_of(name, (32, 48)))
    for new in ((48, 32), (64, 48)):
        model = model_of(name, new)
        sizes = ((32, 48, 3), (*new, 3))
        with pytest.raises(ShapeError, match=r"for 6 of them and can't be resampled: images of"):
            load_into(model, tensors, image_sizes=sizes)


def test_the_files_of_resmlp_s_authors():
    name = "resmlp_12_224"
    reference = reference_of(name, (32, 32))
    tensors = tensors_of(reference)
    authors = {}
    for key, value in tensors.items():
        key = key.replace("stem.", "patch_embed.").replace("linear_tokens.", "attn.")
        key = key.replace("mlp_channels.", "mlp.").replace(".ls", ".gamma_")
        authors[key] = value.reshape(-1) if key.endswith((".alpha", ".beta")) else value
    torch_tensors = {key: torch.tensor(value) for key, value in authors.items()}
    assert set(mixers.checkpoint_filter_fn(torch_tensors, reference)) == set(tensors)
    model = with_reference(model_of(name, (32, 32)), authors, source="the authors' file")
    assert_exports(model, tensors)
