"""NesT against timm: positions for other images."""

import numpy as np
import pytest
from conformance.families import FAMILIES

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.pretrained import Weights, load
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
nest = pytest.importorskip("timm.models.nest")

pytestmark = pytest.mark.family("nest")

KINDS = {kind.name: kind for kind in FAMILIES["nest"].kinds}


def pair(name, size):
    """Ours and timm's of two levels."""
    kind = KINDS[name]
    model = fz.models.get(name, num_classes=50, input_shape=(size, size, 3), **kind.fields)
    return model, kind.create(name, num_classes=50, img_size=size, **kind.timm).eval()


@pytest.mark.parametrize("name", list(KINDS))
def test_larger_blocks(name):
    model, reference = pair(name, 56)
    tensors = fill_reference(reference)
    model = with_reference(model, tensors, source="random weights")
    differences = compare(model, reference, synthetic_images((2, 56, 56, 3), 0))
    assert max(difference.relative for difference in differences.values()) < 1e-5
    exported = model.to_torch_state_dict(as_numpy=True)
    assert exported.keys() == tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)


@pytest.mark.parametrize(("old", "new"), [(32, 56), (64, 40)])
def test_positions_for_images_of_another_size(old, new):
    """timm has the function, and looks for positions of other names than its own."""
    _, reference = pair("nest_tiny", old)
    tensors = fill_reference(reference)
    model, other = pair("nest_tiny", new)
    variables, missing = load(
        model.shapes(),
        Weights(tensors, "memory", ours=False),
        model.module,
        name="nest_tiny",
        reference=MODELS.architecture("nest_tiny").reference,
        image_sizes=((old, old, 3), (new, new, 3)),
    )
    assert missing == ()
    for i in range(2):
        before, like = torch.tensor(tensors[f"levels.{i}.pos_embed"]), other.levels[i].pos_embed
        expected = nest.resize_pos_embed(before, like).detach().numpy()
        positions = flatten(variables)[f"params/backbone/levels_{i}/pos_embed"]
        np.testing.assert_allclose(positions, expected, rtol=0, atol=2e-6)
