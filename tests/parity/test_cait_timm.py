"""CaiT against timm: other image sizes, the authors' files."""

import numpy as np
import pytest
from parity.pairs import assert_exports, assert_same, load_resized

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
cait = pytest.importorskip("timm.models.cait")
layers = pytest.importorskip("timm.layers")

pytestmark = pytest.mark.family("cait")

NAME = "cait_xxs24_224"
SMALL = {"num_classes": 5, "depth": 1, "class_depth": 1}
SMALL_TIMM = {"num_classes": 5, "depth": 1, "depth_token_only": 1}


def reference_of(size):
    """timm's with random weights, and these."""
    reference = timm.create_model(NAME, img_size=size, **SMALL_TIMM).eval()
    tensors = fill_reference(reference)
    return reference, tensors


def test_images_that_are_not_of_whole_patches():
    reference, tensors = reference_of((37, 50))
    model = fz.models.get(NAME, input_shape=(37, 50, 3), **SMALL)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (37, 50, 3))


@pytest.mark.parametrize(("old", "new"), [((64, 64), (96, 112)), ((48, 80), (112, 96))])
def test_positions_for_images_of_another_size(old, new):
    """timm refuses such weights: here their positions are resampled as those of a ViT."""
    _, tensors = reference_of(old)
    model = fz.models.get(NAME, input_shape=(*new, 3), **SMALL)
    model = load_resized(model, tensors, (*old, 3))
    expected = layers.resample_abs_pos_embed(
        torch.tensor(tensors["pos_embed"]),
        (new[0] // 16, new[1] // 16),
        old_size=(old[0] // 16, old[1] // 16),
        num_prefix_tokens=0,
    )
    positions = flatten(model.variables)["params/backbone/pos_embed"]
    np.testing.assert_allclose(positions, expected.numpy(), rtol=0, atol=1e-6)


def test_the_authors_files():
    reference, tensors = reference_of((32, 32))
    authors = {f"module.{key}": value for key, value in tensors.items()}
    assert set(cait.checkpoint_filter_fn(dict(authors), reference)) == set(tensors)
    model = fz.models.get(NAME, input_shape=(32, 32, 3), **SMALL)
    model = with_reference(model, authors, source="the authors' file")
    assert_exports(model, tensors)
