"""ConViT against timm: other fields and image sizes."""

import numpy as np
import pytest
from parity.pairs import assert_exports, assert_same, load_resized

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytest.importorskip("timm.models.convit")
layers = pytest.importorskip("timm.layers")

pytestmark = pytest.mark.family("convit")

NAME = "convit_tiny"
SMALL = {"num_classes": 5, "depth": 2, "local_depth": 1}
SMALL_TIMM = {"num_classes": 5, "depth": 2, "local_up_to_layer": 1}


def reference_of(size, **options):
    """timm's with random weights, and these."""
    reference = timm.create_model(NAME, img_size=size, **{**SMALL_TIMM, **options}).eval()
    return reference, fill_reference(reference)


@pytest.mark.parametrize(
    ("fields", "options", "pooling"),
    [
        ({"positions": False, "qkv_bias": True}, {"use_pos_embed": False, "qkv_bias": True}, "avg"),
        ({"local_depth": 0}, {"local_up_to_layer": 0}, "token"),
    ],
)
def test_other_fields_poolings_and_sizes(fields, options, pooling):
    # Not of whole patches; a square of them, for which timm's positions are.
    reference, tensors = reference_of((37, 46), global_pool=pooling, **options)
    model = fz.models.get(NAME, input_shape=(37, 46, 3), **{**SMALL, **fields})
    model = with_reference(model, tensors, source="random weights")
    model = fz.Model(
        model.module.clone(head=model.module.head.clone(pooling=pooling)),
        model.variables,
        model.spec,
    )
    assert_same(model, reference, (37, 46, 3))
    assert_exports(model, tensors)


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
