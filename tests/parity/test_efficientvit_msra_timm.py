"""EfficientViT against timm: sizes, tables of other windows, names."""

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import compare, load_reference, with_reference
from flaxzoo.weights.pretrained import Weights, load
from flaxzoo.weights.synthetic import synthetic_images, synthetic_tensors

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
    shapes = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    tensors = synthetic_tensors(shapes, 0, gain=0.5)
    load_reference(reference, tensors, source="random weights")
    return reference, tensors


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
    variables, missing = load(
        model.shapes(),
        Weights(tensors, "memory", ours=False),
        model.module,
        name=NAME,
        reference=MODELS.architecture(NAME).reference,
        image_sizes=((*old, 3), (*new, 3)),
    )
    assert missing == ()
    reference.set_input_size(new)
    assert largest(model.with_variables(variables), reference, new) < 1e-5
    fresh = timm.create_model(NAME, img_size=new, **SMALL_TIMM).eval()
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    fresh.load_state_dict(msra.checkpoint_filter_fn(state, fresh))
    assert largest(model.with_variables(variables), fresh, new) < 1e-5


def test_names_are_timms_in_both_directions():
    _, tensors = reference_of((64, 64))
    bare = fz.models.get(NAME, input_shape=(64, 64, 3), **SMALL)
    file = {**tensors, "stages.0.blocks.0.mixer.m.attn.attention_bias_idxs": np.zeros((4, 4))}
    exported = with_reference(bare, file, source="an old file").to_torch_state_dict(as_numpy=True)
    assert exported.keys() == tensors.keys()
    for key, value in exported.items():
        np.testing.assert_array_equal(value, tensors[key])
