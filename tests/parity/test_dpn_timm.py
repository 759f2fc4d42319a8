"""DPN against timm: images of any size, and what is activated how."""

import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("dpn")

KINDS = {kind.name: kind for kind in FAMILIES["dpn"].kinds}


def close(name, size, num_classes=5, **changes):
    """Compares maps, features and logits of images ``[H, W]``."""
    kind = KINDS[changes.pop("kind", name)]
    reference = timm.create_model(name, num_classes=num_classes, **kind.timm).eval()
    model = fz.models.get(name, num_classes=num_classes, **kind.fields)
    model = with_reference(model, fill_reference(reference), source="random weights")
    assert_same(model, reference, (*size, 3))
    return reference


@pytest.mark.parametrize("name", list(KINDS))
def test_images_of_any_size(name):
    reference = close(name, (45, 70))
    norms = [m for m in reference.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}
    # What timm passes for the last norm is what the stem has; blocks keep theirs.
    network = fz.models.get(name).module.backbone
    act = {"silu": torch.nn.SiLU, "relu": torch.nn.ReLU}[network.activation]
    assert isinstance(reference.features[0].bn.act, act)
    assert isinstance(reference.features[-1].bn.act, act)
    assert isinstance(reference.features[2].c1x1_a.bn.act, torch.nn.ReLU)
