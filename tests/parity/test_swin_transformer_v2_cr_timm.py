"""Swin V2 (CR) against timm: windows and images of other sizes, and older files."""

import numpy as np
import pytest
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
swin = pytest.importorskip("timm.models.swin_transformer_v2_cr")

pytestmark = pytest.mark.family("swin_transformer_v2_cr")

NAME = "swinv2_cr_tiny_ns_224"
SMALL = {"layers": (2, 1), "width": 24, "heads": (1, 2), "num_classes": 50}
SMALL_TIMM = {"depths": (2, 1), "embed_dim": 24, "num_heads": (1, 2), "num_classes": 50}


@pytest.mark.parametrize(
    ("size", "fields"),
    [
        ((64, 96), {}),
        ((52, 70), {"window_ratio": 4}),
        ((64, 96), {"window_size": (5, 3)}),
        ((40, 40), {"window_size": 16, "always_partition": True}),
    ],
)
def test_windows_and_images(size, fields):
    reference = timm.create_model(NAME, img_size=size, **SMALL_TIMM, **fields).eval()
    tensors = fill_reference(reference)
    model = fz.models.get(NAME, input_shape=(*size, 3), **SMALL, **fields)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == reference.state_dict().keys()
    for key, value in exported.items():
        np.testing.assert_array_equal(value, tensors[key], err_msg=key)


def test_images_of_another_size_than_the_model_s():
    reference = timm.create_model(NAME, img_size=64, dynamic_img_size=True, **SMALL_TIMM).eval()
    tensors = fill_reference(reference)
    model = fz.models.get(NAME, input_shape=(64, 64, 3), dynamic_size=True, **SMALL)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (44, 72, 3))


def test_older_files():
    reference = timm.create_model(NAME, img_size=64, **SMALL_TIMM)
    tensors = fill_reference(reference)
    scales = [key for key in tensors if key.endswith("logit_scale")]
    older = {key.replace("head.fc.", "head."): value for key, value in tensors.items()}
    older |= {key.replace("logit_scale", "tau"): np.exp(-older.pop(key)) for key in scales}
    theirs = swin.checkpoint_filter_fn(
        {key: torch.tensor(value) for key, value in older.items()}, reference
    )
    model = fz.models.get(NAME, input_shape=(64, 64, 3), **SMALL)
    exported = with_reference(model, older, source="a file").to_torch_state_dict(as_numpy=True)
    assert exported.keys() == theirs.keys()
    for key, value in exported.items():
        np.testing.assert_allclose(value, theirs[key].numpy(), rtol=1e-6, atol=1e-6, err_msg=key)
