"""BEiT against timm: tables for images of another size, names."""

import numpy as np
import pytest
from parity.pairs import load_resized, outputs_of

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.names import reference_name
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
beit = pytest.importorskip("timm.models.beit")

pytestmark = pytest.mark.family("beit")

NAME = "beit_base_patch16_224"
SMALL = {"num_classes": 5, "depth": 1}


def reference_of(size):
    """timm's with random weights, and these."""
    reference = timm.create_model(NAME, img_size=size, **SMALL)
    tensors = fill_reference(reference)
    return reference.eval(), tensors


def check(model, reference):
    images = synthetic_images((2, *model.spec.input_shape), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((64, 64), (96, 112)),
        ((64, 64), (48, 32)),
        ((64, 64), (64, 80)),
        ((64, 32), (32, 64)),
        ((48, 80), (112, 96)),
    ],
)
def test_weights_for_images_of_another_size(old, new):
    reference, tensors = reference_of(old)
    model = fz.models.get(NAME, input_shape=(*new, 3), **SMALL)
    model = load_resized(model, tensors, (*old, 3))
    reference.set_input_size(new)
    check(model, reference)
    if old[0] == old[1]:
        # What timm makes of a file, whose size it does not know.
        fresh = timm.create_model(NAME, img_size=new, **SMALL).eval()
        state = {key: torch.tensor(value) for key, value in tensors.items()}
        fresh.load_state_dict(beit.checkpoint_filter_fn(state, fresh))
        check(model, fresh)


@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_pooling(pooling):
    options = {"global_pool": pooling, "img_size": (32, 48), **SMALL}
    reference = timm.create_model(NAME, use_fc_norm=pooling == "avg", **options).eval()
    tensors = fill_reference(reference)
    head = None if pooling == "avg" else pooling
    fields = {"pooling": head, "fc_norm": False} if head else {}
    model = fz.models.get(NAME, input_shape=(32, 48, 3), **fields, **SMALL)
    check(with_reference(model, tensors, source="random weights"), reference)


def test_names_are_timms_in_both_directions():
    _, tensors = reference_of((32, 48))
    bare = fz.models.get(NAME, input_shape=(32, 48, 3), **SMALL)
    model = with_reference(bare, tensors, source="random weights")
    reference = MODELS.architecture(NAME).reference
    assert sorted(reference_name(path, reference) for path in flatten(model.shapes())) == sorted(
        tensors
    )
    exported = model.to_torch_state_dict(as_numpy=True)
    for key, value in exported.items():
        np.testing.assert_array_equal(value, tensors[key])
    # Old files hold what timm computes.
    old = {**tensors, "blocks.0.attn.relative_position_index": np.zeros((7, 7), np.int64)}
    with_reference(bare, old, source="an old file")
