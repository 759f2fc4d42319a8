"""GCViT against timm: its images, names, windows of another size."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same, load_resized

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
pytest.importorskip("timm.models.gcvit")
layers = pytest.importorskip("timm.layers")

pytestmark = pytest.mark.family("gcvit")

KINDS = {kind.name: kind for kind in FAMILIES["gcvit"].kinds}
NAME = "gcvit_xxtiny"


def pair(name, size=(32, 48)):
    """Ours and timm's of two stages."""
    kind = KINDS[name]
    model = fz.models.get(name, num_classes=50, input_shape=(*size, 3), **kind.fields)
    return model, kind.create(name, num_classes=50, img_size=size, **kind.timm).eval()


@pytest.mark.parametrize(("name", "size"), [(NAME, (48, 32)), ("gcvit_small", (32, 48))])
def test_the_same_numbers_and_names(name, size):
    model, reference = pair(name, size)
    tensors = fill_reference(reference, gain=1.0)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == reference.state_dict().keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)


@pytest.mark.parametrize(("old", "new"), [((32, 32), (48, 64)), ((32, 48), (64, 48))])
def test_biases_for_images_of_another_size(old, new):
    """timm has the function, but does not call it for this family."""
    tensors = fill_reference(pair(NAME, old)[1])
    model, reference = pair(NAME, new)
    model = load_resized(model, tensors, (*old, 3))
    exported = model.to_torch_state_dict(as_numpy=True)
    for key, value in reference.state_dict().items():
        expected = torch.tensor(tensors[key])
        if key.endswith("table"):
            windows = model.module.backbone.windows()[int(key.split(".")[1])]
            former = (windows[0] * old[0] // new[0], windows[1] * old[1] // new[1])
            expected = layers.resize_rel_pos_bias_table(
                expected, windows, tuple(value.shape), old_window_size=former
            )
        np.testing.assert_allclose(exported[key], expected.numpy(), atol=1e-6, err_msg=key)
