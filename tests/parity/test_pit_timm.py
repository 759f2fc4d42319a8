"""PiT against timm: other image sizes, names of today's and older files."""

import numpy as np
import pytest
from parity.pairs import assert_exports, assert_same, load_resized

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pit = pytest.importorskip("timm.models.pit")
layers = pytest.importorskip("timm.layers")

pytestmark = pytest.mark.family("pit")

NAME = "pit_ti_distilled_224"
SMALL = {"num_classes": 5, "layers": (1, 1, 1), "widths": (16, 32, 64)}
SMALL_TIMM = {"num_classes": 5, "depth": (1, 1, 1), "base_dims": (8, 8, 8)}


def reference_of(size, name=NAME):
    """timm's with random weights, and these."""
    reference = timm.create_model(name, img_size=size, **SMALL_TIMM).eval()
    tensors = fill_reference(reference)
    return reference, tensors


@pytest.mark.parametrize("size", [(50, 83), (64, 31)])
def test_images_that_are_not_square(size):
    reference, tensors = reference_of(size)
    model = fz.models.get(NAME, input_shape=(*size, 3), **SMALL)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))


@pytest.mark.parametrize(("old", "new"), [((48, 48), (80, 64)), ((64, 40), (32, 56))])
def test_positions_for_images_of_another_size(old, new):
    """Such weights timm refuses: here their positions are resampled as those of a ViT."""
    _, tensors = reference_of(old)
    model = fz.models.get(NAME, input_shape=(*new, 3), **SMALL)
    model = load_resized(model, tensors, (*old, 3))
    positions = flatten(model.variables)["params/backbone/pos_embed"]
    rows, columns = positions.shape[1:3]
    before = torch.tensor(tensors["pos_embed"])
    expected = layers.resample_abs_pos_embed(
        before.flatten(2).transpose(1, 2),
        (rows, columns),
        old_size=before.shape[2:],
        num_prefix_tokens=0,
    )
    np.testing.assert_allclose(
        np.asarray(positions).reshape(expected.shape), expected.numpy(), rtol=0, atol=1e-6
    )


def test_names_of_today_and_of_the_authors():
    reference, tensors = reference_of((48, 48))
    bare = fz.models.get(NAME, input_shape=(48, 48, 3), **SMALL)
    authors = {
        key.replace("transformers.1.pool.", "pools.0.").replace(
            "transformers.2.pool.", "pools.1."
        ): v
        for key, v in tensors.items()
    }
    assert "pools.1.conv.weight" in authors
    assert set(pit.checkpoint_filter_fn(authors, reference)) == set(tensors)
    for file in (tensors, authors):
        assert_exports(with_reference(bare, file, source="a file"), tensors)
