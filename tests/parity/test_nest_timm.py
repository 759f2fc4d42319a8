"""NesT against timm: positions for other images."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_exports, assert_same, load_resized

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.verify import fill_reference, with_reference

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
    assert_same(model, reference, (56, 56, 3))
    assert_exports(model, tensors)


@pytest.mark.parametrize(("old", "new"), [(32, 56), (64, 40)])
def test_positions_for_images_of_another_size(old, new):
    """timm has the function, and looks for positions of other names than its own."""
    _, reference = pair("nest_tiny", old)
    tensors = fill_reference(reference)
    model, other = pair("nest_tiny", new)
    model = load_resized(model, tensors, (old, old, 3))
    for i in range(2):
        before, like = torch.tensor(tensors[f"levels.{i}.pos_embed"]), other.levels[i].pos_embed
        expected = nest.resize_pos_embed(before, like).detach().numpy()
        positions = flatten(model.variables)[f"params/backbone/levels_{i}/pos_embed"]
        np.testing.assert_allclose(positions, expected, rtol=0, atol=2e-6)
