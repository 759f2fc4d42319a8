"""TinyViT against timm: any size of images, windows of another size, older files."""

import numpy as np
import pytest
from parity.pairs import assert_same, fill_whole, load_into

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.verify import with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
tiny_vit = pytest.importorskip("timm.models.tiny_vit")

pytestmark = pytest.mark.family("tiny_vit")

NAME = "tiny_vit_11m_224"
SMALL = {"layers": (1, 1), "widths": (16, 32), "heads": (1, 2), "num_classes": 5}
SMALL_TIMM = {"depths": (1, 1), "embed_dims": (16, 32), "num_heads": (1, 2), "num_classes": 5}


def reference_of(window):
    """timm's with random weights, and these."""
    options = {"window_sizes": (7, window), "drop_path_rate": 0.0}
    reference = timm.create_model(NAME, **SMALL_TIMM, **options).eval()
    return reference, fill_whole(reference)


@pytest.mark.parametrize("size", [(24, 24), (45, 70)])
def test_images_of_any_size(size):
    """The first fills one window; the other none."""
    reference, tensors = reference_of(3)
    model = fz.models.get(NAME, window_size=((7, 7), (3, 3)), input_shape=(*size, 3), **SMALL)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))


def loaded(tensors, window):
    """Ours for windows of another size, with these weights."""
    size = (24, 24, 3)
    model = fz.models.get(NAME, window_size=((7, 7), (window, window)), input_shape=size, **SMALL)
    variables, missing = load_into(model, tensors, image_sizes=(None, size))
    assert missing == ()
    return model.with_variables(variables)


@pytest.mark.parametrize(("old", "new"), [(4, 7), (6, 3)])
def test_biases_of_windows_of_another_size(old, new):
    _, tensors = reference_of(old)
    wanted, _ = reference_of(new)
    expected = tiny_vit.checkpoint_filter_fn(
        {key: torch.tensor(value) for key, value in tensors.items()}, wanted
    )
    file = {**tensors, "stages.1.blocks.0.attn.attention_bias_idxs": np.zeros((9, 9), np.int64)}
    exported = loaded(file, new).to_torch_state_dict(as_numpy=True)
    assert exported.keys() == expected.keys()
    for key, value in exported.items():
        np.testing.assert_allclose(value, expected[key].numpy(), rtol=0, atol=1e-6, err_msg=key)


def test_biases_of_windows_that_are_not_square():
    _, tensors = reference_of(4)
    key = "stages.1.blocks.0.attn.attention_biases"
    file = {**tensors, key: tensors[key][:, :12]}
    with pytest.raises(ShapeError, match="12 patches are no square grid"):
        loaded(file, 5)
