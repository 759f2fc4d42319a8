"""Hiera against timm: images of another size, the authors' files."""

import numpy as np
import pytest
from parity.pairs import assert_exports, load_resized, outputs_of

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.verify import fill_reference, load_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
hiera = pytest.importorskip("timm.models.hiera")

pytestmark = pytest.mark.family("hiera")

PLAIN, WINDOWED = "hiera_tiny_224", "hiera_small_abswin_256"
SMALL = {"layers": (1, 1, 1, 1), "width": 8, "num_classes": 5}
SMALL_TIMM = {"stages": (1, 1, 1, 1), "embed_dim": 8, "num_classes": 5}


def reference_of(name, size):
    reference = timm.create_model(name, img_size=size, **SMALL_TIMM).eval()
    tensors = fill_reference(reference)
    return reference, tensors


def loaded(name, tensors, old, new):
    """The model for one size of images, with the weights of another."""
    model = fz.models.get(name, input_shape=(*new, 3), **SMALL)
    return load_resized(model, tensors, (*old, 3))


def test_positions_in_mask_units_are_for_any_size():
    _, tensors = reference_of(WINDOWED, (128, 96))
    reference = timm.create_model(WINDOWED, img_size=(64, 128), **SMALL_TIMM).eval()
    load_reference(reference, tensors, source="the weights of the other size")
    model = loaded(WINDOWED, tensors, (128, 96), (64, 128))
    images = synthetic_images((2, 64, 128, 3), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


def test_positions_of_each_patch_are_for_one_size():
    _, tensors = reference_of(PLAIN, (64, 64))
    with pytest.raises(ShapeError, match="a position for each of 256 patches, .*an abswin name"):
        loaded(PLAIN, tensors, (64, 64), (64, 96))
    other = timm.create_model(PLAIN, img_size=(64, 96), **SMALL_TIMM)
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    with pytest.raises(RuntimeError, match="size mismatch for pos_embed"):
        other.load_state_dict(hiera.checkpoint_filter_fn(state, other))


def test_the_authors_files():
    reference, tensors = reference_of(PLAIN, (32, 32))
    old = {
        key.replace("head.fc.", "head.projection.").replace("head.norm.", "encoder_norm."): value
        for key, value in tensors.items()
    }
    assert set(hiera.checkpoint_filter_fn(old, reference)) == set(tensors)
    bare = fz.models.get(PLAIN, input_shape=(32, 32, 3), **SMALL)
    assert_exports(with_reference(bare, old, source="an old file"), tensors)
