"""Visformer against timm: other stages and sizes, positions, names."""

import numpy as np
import pytest
from parity.pairs import assert_exports, assert_same, fill_whole, load_resized

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.verify import with_reference

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
    return reference, fill_whole(reference, gain=1)


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
    assert_same(model, reference, (*size, 3))


@pytest.mark.parametrize(("old", "new"), [((64, 64), (96, 128)), ((96, 64), (32, 96))])
def test_positions_for_images_of_another_size(old, new):
    """Such weights timm refuses: here their positions are resampled as those of a ViT."""
    _, tensors = reference_of(old)
    model = fz.models.get(NAME, input_shape=(*new, 3), **SMALL)
    model = load_resized(model, tensors, (*old, 3))
    for name in ("pos_embed1", "pos_embed2", "pos_embed3"):
        positions = flatten(model.variables)[f"params/backbone/{name}"]
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
    assert_exports(model, tensors)
