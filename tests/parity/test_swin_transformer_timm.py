"""Swin against timm: tables for other windows, older files, sizes at call."""

import numpy as np
import pytest
from parity.pairs import load_into, outputs_of

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.errors import ShapeError
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.names import reference_name
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
swin = pytest.importorskip("timm.models.swin_transformer")

pytestmark = pytest.mark.family("swin_transformer")

NAME = "swin_tiny_patch4_window7_224"
SMALL = {"width": 8, "heads": (1, 2), "layers": (2, 1), "num_classes": 5}
SMALL_TIMM = {"embed_dim": 8, "num_heads": (1, 2), "depths": (2, 1), "num_classes": 5}


def reference_of(size, window, **options):
    """timm's with random weights, and these."""
    options = {"img_size": size, "window_size": window, **SMALL_TIMM, **options}
    reference = timm.create_model(NAME, **options)
    tensors = fill_reference(reference)
    return reference.eval(), tensors


def loaded(tensors, old, new, window, **fields):
    """Ours for other images and windows, with weights for old ones, and what is missing of it."""
    fields = {"window_size": window, **fields, **SMALL}
    model = fz.models.get(NAME, input_shape=(*new, 3), **fields)
    variables, missing = load_into(model, tensors, image_sizes=((*old, 3), (*new, 3)))
    return model.with_variables(variables), missing


def check(model, reference, shape=None):
    images = synthetic_images((2, *(shape or model.spec.input_shape)), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("old", "old_window", "new", "window"),
    [
        ((32, 32), 3, (64, 64), 5),
        ((32, 32), 4, (48, 40), 3),
        ((32, 32), 4, (32, 64), (4, 8)),
        ((32, 64), (4, 8), (64, 128), (4, 8)),
        ((64, 64), 7, (40, 24), 7),
    ],
)
def test_weights_for_windows_of_another_size(old, old_window, new, window):
    reference, tensors = reference_of(old, old_window)
    model, missing = loaded(tensors, old, new, window)
    assert missing == ()
    reference.set_input_size(new, window_size=window)
    check(model, reference)
    if old_window != (4, 8):
        # What timm makes of a file, whose windows it takes to be square.
        options = {"img_size": new, "window_size": window, **SMALL_TIMM}
        fresh = timm.create_model(NAME, **options).eval()
        state = {key: torch.tensor(value) for key, value in tensors.items()}
        fresh.load_state_dict(swin.checkpoint_filter_fn(state, fresh))
        check(model, fresh)


def test_weights_for_patches_of_another_size():
    reference, tensors = reference_of((32, 32), 4)
    model, missing = loaded(tensors, (32, 32), (96, 48), 3, patch_size=6)
    assert missing == ()
    reference.set_input_size((96, 48), patch_size=6, window_size=3)
    check(model, reference)


def test_windows_that_a_file_does_not_tell():
    _, tensors = reference_of((32, 64), (4, 8))
    with pytest.raises(ShapeError, match="105 relative positions in stage 0, .*window_size and"):
        loaded(tensors, (32, 64), (32, 64), (3, 5))


@pytest.mark.parametrize("fields", [{}, {"always_partition": True}])
def test_other_sizes_at_call(fields):
    size, window = (40, 24), ((4, 4), (3, 5))
    reference, tensors = reference_of(size, window, dynamic_img_size=True, **fields)
    fields = {"window_size": window, "dynamic_size": True, **fields}
    model = fz.models.get(NAME, input_shape=(*size, 3), **fields, **SMALL)
    model = with_reference(model, tensors, source="random weights")
    for shape in ((40, 24, 3), (32, 32, 3), (16, 60, 3)):
        check(model, reference, shape)


def test_names_are_timms_in_both_directions():
    _, tensors = reference_of((32, 48), 3)
    fields = {"window_size": 3, "input_shape": (32, 48, 3), **SMALL}
    model = with_reference(fz.models.get(NAME, **fields), tensors, source="random weights")
    reference = MODELS.architecture(NAME).reference
    assert sorted(reference_name(path, reference) for path in flatten(model.shapes())) == sorted(
        tensors
    )
    exported = model.to_torch_state_dict(as_numpy=True)
    for key, value in exported.items():
        np.testing.assert_array_equal(value, tensors[key])


def test_the_authors_files():
    reference, tensors = reference_of((32, 48), 3)
    fields = {"window_size": 3, "input_shape": (32, 48, 3), **SMALL}
    old = {
        key.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head"): value
        for key, value in tensors.items()
    }
    buffers = {
        "layers.0.blocks.1.attn_mask": np.zeros((12, 9, 9), np.float32),
        "layers.0.blocks.0.attn.relative_position_index": np.zeros((9, 9), np.int64),
    }
    check(
        with_reference(fz.models.get(NAME, **fields), {**old, **buffers}, source="old"), reference
    )
