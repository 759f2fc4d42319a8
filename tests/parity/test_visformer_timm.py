"""Visformer against timm: other stages and sizes, positions, names."""

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import compare, load_reference, with_reference
from flaxzoo.weights.pretrained import Weights, load
from flaxzoo.weights.synthetic import synthetic_images, synthetic_tensors

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
layers = pytest.importorskip("timm.layers")

pytestmark = pytest.mark.family("visformer")

NAME = "visformer_tiny"
SMALL = {
    "num_classes": 5,
    "layers": (1, 1, 1),
    "widths": (16, 32, 64),
    "stem_width": 4,
    "heads": 2,
}
SMALL_TIMM = {
    "num_classes": 5,
    "depth": (1, 1, 1),
    "embed_dim": 32,
    "init_channels": 4,
    "num_heads": 2,
}


def reference_of(size, **options):
    """timm's with random weights, and these."""
    reference = timm.create_model(NAME, img_size=size, **SMALL_TIMM, **options).eval()
    shapes = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    tensors = synthetic_tensors(shapes, 0, gain=1)
    load_reference(reference, tensors, source="random weights")
    return reference, tensors


@pytest.mark.parametrize(
    ("size", "fields", "options"),
    [
        ((68, 42), {}, {}),
        (
            (32, 64),
            {"attention": (True, False, True), "spatial": (False, True, True), "groups": 4},
            {"attn_stage": "101", "spatial_conv": "011", "group": 4},
        ),
    ],
)
def test_other_sizes_and_stages(size, fields, options):
    reference, tensors = reference_of(size, **options)
    model = fz.models.get(NAME, input_shape=(*size, 3), **SMALL, **fields)
    model = with_reference(model, tensors, source="random weights")
    differences = compare(model, reference, synthetic_images((2, *size, 3), 0))
    assert max(difference.relative for difference in differences.values()) < 1e-5


@pytest.mark.parametrize(("old", "new"), [((64, 64), (96, 128)), ((96, 64), (32, 96))])
def test_positions_for_images_of_another_size(old, new):
    """Such weights timm refuses: here their positions are resampled as those of a ViT."""
    _, tensors = reference_of(old)
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
    for name in ("pos_embed1", "pos_embed2", "pos_embed3"):
        positions = flatten(variables)[f"params/backbone/{name}"]
        before = torch.tensor(tensors[name])
        expected = layers.resample_abs_pos_embed(
            before.flatten(2).transpose(1, 2),
            positions.shape[1:3],
            old_size=before.shape[2:],
            num_prefix_tokens=0,
        )
        np.testing.assert_allclose(
            np.asarray(positions).reshape(expected.shape), expected.numpy(), rtol=0, atol=1e-6
        )


def test_names_are_timms_in_both_directions():
    _, tensors = reference_of((32, 64))
    bare = fz.models.get(NAME, input_shape=(32, 64, 3), **SMALL)
    model = with_reference(bare, tensors, source="random weights")
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == tensors.keys()
    for key, value in exported.items():
        np.testing.assert_array_equal(value, tensors[key])
