"""EfficientViT against timm: sizes, tables of other windows, names."""

import numpy as np
import pytest
from parity.pairs import assert_exports, fill_whole, load_resized

import flaxzoo as fz
from flaxzoo.verify import compare, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
msra = pytest.importorskip("timm.models.efficientvit_msra")

pytestmark = pytest.mark.family("efficientvit_msra")

NAME = "efficientvit_m1"
SMALL = {
    "num_classes": 5,
    "layers": (1, 1, 1),
    "widths": (16, 24, 32),
    "heads": (2, 3, 2),
    "key_dims": (4, 4, 4),
    "windows": (5, 4, 3),
}
SMALL_TIMM = {
    "num_classes": 5,
    "depth": (1, 1, 1),
    "embed_dim": (16, 24, 32),
    "num_heads": (2, 3, 2),
    "key_dim": (4, 4, 4),
    "window_size": (5, 4, 3),
}


def reference_of(size):
    """timm's with random weights, and these."""
    reference = timm.create_model(NAME, img_size=size, **SMALL_TIMM).eval()
    return reference, fill_whole(reference, gain=0.5)


def largest(model, reference, size):
    differences = compare(model, reference, synthetic_images((2, *size, 3), 0))
    return max(difference.relative for difference in differences.values())


@pytest.mark.parametrize("size", [(97, 130), (64, 200)])
def test_images_of_another_size_than_the_windows_are_for(size):
    reference, tensors = reference_of((80, 112))
    model = fz.models.get(NAME, input_shape=(80, 112, 3), **SMALL)
    model = with_reference(model, tensors, source="random weights")
    assert largest(model, reference, size) < 1e-5


@pytest.mark.parametrize(("old", "new"), [((224, 224), (48, 64)), ((64, 64), (128, 96))])
def test_tables_of_other_windows(old, new):
    reference, tensors = reference_of(old)
    model = fz.models.get(NAME, input_shape=(*new, 3), **SMALL)
    model = load_resized(model, tensors, (*old, 3))
    reference.set_input_size(new)
    assert largest(model, reference, new) < 1e-5
    fresh = timm.create_model(NAME, img_size=new, **SMALL_TIMM).eval()
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    fresh.load_state_dict(msra.checkpoint_filter_fn(state, fresh))
    assert largest(model, fresh, new) < 1e-5


def test_names_are_timms_in_both_directions():
    _, tensors = reference_of((64, 64))
    bare = fz.models.get(NAME, input_shape=(64, 64, 3), **SMALL)
    file = {**tensors, "stages.0.blocks.0.mixer.m.attn.attention_bias_idxs": np.zeros((4, 4))}
    assert_exports(with_reference(bare, file, source="an old file"), tensors)
