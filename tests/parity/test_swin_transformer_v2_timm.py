"""Swin V2 against timm: other windows and sizes, older files."""

import numpy as np
import pytest
from parity.pairs import outputs_of

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.names import reference_name
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("swin_transformer_v2")

NAME = "swinv2_tiny_window8_256"
SMALL = {"width": 8, "heads": (1, 2), "layers": (2, 1), "num_classes": 5}
SMALL_TIMM = {"embed_dim": 8, "num_heads": (1, 2), "depths": (2, 1), "num_classes": 5}


def reference_of(size, window, **options):
    """timm's with random weights, and these."""
    options = {"img_size": size, "window_size": window, **SMALL_TIMM, **options}
    reference = timm.create_model(NAME, **options)
    tensors = fill_reference(reference)
    return reference.eval(), tensors


def check(model, reference, shape=None):
    images = synthetic_images((2, *(shape or model.spec.input_shape)), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("new", "window", "trained"),
    [((64, 48), 5, None), ((32, 64), (4, 6), (3, 2)), ((40, 24), 7, (6, 3))],
)
def test_weights_for_windows_of_another_size(new, window, trained):
    options = {} if trained is None else {"pretrained_window_sizes": trained}
    reference, tensors = reference_of((32, 32), 4, **options)
    fields = {"input_shape": (*new, 3), "window_size": window, **options, **SMALL}
    model = with_reference(fz.models.get(NAME, **fields), tensors, source="random weights")
    reference.set_input_size(new, window_size=window)
    check(model, reference)


def test_other_sizes_at_call():
    reference, tensors = reference_of((40, 24), 3, dynamic_img_size=True)
    fields = {"input_shape": (40, 24, 3), "window_size": 3, "dynamic_size": True, **SMALL}
    model = with_reference(fz.models.get(NAME, **fields), tensors, source="random weights")
    for shape in ((40, 24, 3), (32, 28, 3)):
        check(model, reference, shape)


def test_names_are_timms_in_both_directions():
    reference, tensors = reference_of((32, 48), 3)
    fields = {"window_size": 3, "input_shape": (32, 48, 3), **SMALL}
    model = with_reference(fz.models.get(NAME, **fields), tensors, source="random weights")
    rules = MODELS.architecture(NAME).reference
    assert sorted(reference_name(path, rules) for path in flatten(model.shapes())) == sorted(
        tensors
    )
    exported = model.to_torch_state_dict(as_numpy=True)
    for key, value in exported.items():
        np.testing.assert_array_equal(value, tensors[key])
    # The authors' files: their stages end where timm's begin, and they hold what timm computes.
    old = {
        key.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head"): value
        for key, value in tensors.items()
    }
    old["layers.0.blocks.1.attn_mask"] = np.zeros((12, 9, 9), np.float32)
    old["layers.0.blocks.0.attn.relative_coords_table"] = np.zeros((1, 5, 5, 2), np.float32)
    check(with_reference(fz.models.get(NAME, **fields), old, source="an old file"), reference)
