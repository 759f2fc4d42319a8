"""VOLO against timm: other image sizes, poolings, names in both directions."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same, load_resized

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pytest.importorskip("timm.models.volo")
layers = pytest.importorskip("timm.layers")

pytestmark = pytest.mark.family("volo")

(KIND,) = FAMILIES["volo"].kinds


def reference_of(size, **options):
    """timm's of three small stages."""
    options |= {"num_classes": 5, "img_size": size, **KIND.timm}
    return KIND.create(KIND.name, **options).eval()


def model_of(size, **options):
    """Ours."""
    return fz.models.get(KIND.name, num_classes=5, input_shape=(*size, 3), **KIND.fields, **options)


@pytest.mark.parametrize(
    ("size", "pooling"), [((37, 50), "token"), ((55, 71), "avg"), ((48, 33), "")]
)
def test_images_that_are_not_of_whole_patches_and_poolings(size, pooling):
    reference = reference_of(size, global_pool=pooling)
    tensors = fill_reference(reference)
    head = fz.models.Head(5, pooling=pooling or None, token_labels=True)
    model = with_reference(model_of(size), tensors, source="random weights")
    model = fz.Model(model.module.clone(head=head), model.variables, model.spec)
    assert_same(model, reference, (*size, 3))
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == tensors.keys() | {
        key for key in reference.state_dict() if key.endswith("num_batches_tracked")
    }
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)


@pytest.mark.parametrize(("old", "new"), [((64, 64), (96, 112)), ((48, 80), (112, 96))])
def test_positions_for_images_of_another_size(old, new):
    """timm refuses such weights: here their positions are resampled as those of a ViT."""
    tensors = fill_reference(reference_of(old))
    model = model_of(new)
    model = load_resized(model, tensors, (*old, 3))
    before = torch.tensor(tensors["pos_embed"])
    expected = layers.resample_abs_pos_embed(
        before.flatten(1, 2),
        (new[0] // 16, new[1] // 16),
        old_size=before.shape[1:3],
        num_prefix_tokens=0,
    )
    positions = flatten(model.variables)["params/backbone/pos_embed"]
    np.testing.assert_allclose(
        np.asarray(positions).reshape(expected.shape), expected.numpy(), rtol=0, atol=1e-6
    )
