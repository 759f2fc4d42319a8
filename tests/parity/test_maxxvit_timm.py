"""CoAtNet and MaxViT against timm: tables for other images, older files, names."""

import numpy as np
import pytest
from parity.pairs import load_resized, outputs_of

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.errors import ShapeError
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.names import reference_name
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
maxxvit = pytest.importorskip("timm.models.maxxvit")

pytestmark = pytest.mark.family("maxxvit")

SMALL = {"layers": (1, 1), "widths": (16, 32), "stem_widths": (8, 8), "head_dim": 16}
SMALL_TIMM = {
    "depths": (1, 1),
    "embed_dim": (16, 32),
    "stem_width": (8, 8),
    "transformer_dim_head": 16,
}
# One of each kind of table: of maps, of windows and grids, and in MaxViT's own order.
KINDS = {
    "coatnet_bn_0_rw_224": ({"blocks": ("conv", "transformer")}, {"block_type": ("C", "T")}),
    "maxvit_tiny_rw_224": (
        {"blocks": ("max", "max"), "partition_ratio": 16},
        {"block_type": ("M", "M"), "transformer_partition_ratio": 16},
    ),
    "maxvit_tiny_tf_224": (
        {"blocks": ("max", "max"), "partition_ratio": 16, "head_width": 32},
        {"block_type": ("M", "M"), "transformer_partition_ratio": 16, "head_hidden_size": 32},
    ),
}


def reference_of(name, size, **options):
    """timm's with random weights, and these."""
    options = {"img_size": size, "num_classes": 5, **SMALL_TIMM, **KINDS[name][1], **options}
    reference = timm.create_model(name, **options)
    tensors = fill_reference(reference)
    return reference.eval(), tensors


def ours(name, size, **fields):
    """Our model, without variables."""
    fields = {"num_classes": 5, **SMALL, **KINDS[name][0], **fields}
    return fz.models.get(name, input_shape=(*size, 3), **fields)


def loaded(name, tensors, old, new, **fields):
    """Ours for other images, with weights for old ones."""
    model = ours(name, new, **fields)
    return load_resized(model, tensors, (*old, 3))


def check(model, reference):
    images = synthetic_images((2, *model.spec.input_shape), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("new", [(64, 64), (64, 96)])
def test_weights_for_images_of_another_size(name, new):
    _, tensors = reference_of(name, (32, 32))
    model = loaded(name, tensors, (32, 32), new)
    options = {"img_size": new, "num_classes": 5, **SMALL_TIMM, **KINDS[name][1]}
    fresh = timm.create_model(name, **options).eval()
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    fresh.load_state_dict(maxxvit.checkpoint_filter_fn(state, fresh))
    check(model, fresh)


def test_windows_and_grids_of_another_size():
    name, size = "maxvit_tiny_rw_224", (32, 64)
    reference, tensors = reference_of(name, (32, 32))
    model = loaded(name, tensors, (32, 32), size, window_size=(4, 2), grid_size=(2, 8))
    reference.set_input_size(size, window_size=(4, 2), grid_size=(2, 8))
    check(model, reference)


def test_windows_that_a_file_does_not_tell():
    name = "maxvit_tiny_rw_224"
    _, tensors = reference_of(name, (32, 64))
    with pytest.raises(ShapeError, match="21 relative positions, which is that of no square"):
        loaded(name, tensors, (32, 64), (64, 64))


@pytest.mark.parametrize("name", KINDS)
def test_names_are_timms_in_both_directions(name):
    _, tensors = reference_of(name, (32, 48))
    model = with_reference(ours(name, (32, 48)), tensors, source="random weights")
    reference = MODELS.architecture(name).reference
    counters = {key for key in tensors if key.endswith("num_batches_tracked")}
    assert {reference_name(path, reference) for path in flatten(model.shapes())} == (
        set(tensors) - counters
    )
    exported = model.to_torch_state_dict(as_numpy=True)
    for key in set(tensors) - counters:
        np.testing.assert_array_equal(exported[key], tensors[key])


@pytest.mark.parametrize("name", KINDS)
def test_files_with_convolutions_for_layers_and_layers_for_convolutions(name):
    reference, tensors = reference_of(name, (32, 48))
    old = {
        key: value[:, :, None, None]
        if value.ndim == 2 and key.endswith((".qkv.weight", ".proj.weight"))
        else value[:, :, 0, 0]
        if value.ndim == 4 and value.shape[2:] == (1, 1) and ".attn." in key
        else value
        for key, value in tensors.items()
    }
    assert any(value.shape != tensors[key].shape for key, value in old.items())
    check(with_reference(ours(name, (32, 48)), old, source="old"), reference)
