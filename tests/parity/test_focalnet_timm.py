"""FocalNet against timm: images of any size, names in both directions."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_exports, pair_of

from flaxzoo.models.registry import MODELS
from flaxzoo.verify import compare
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
focalnet = pytest.importorskip("timm.models.focalnet")

pytestmark = pytest.mark.family("focalnet")

RULES = MODELS.architecture("focalnet_tiny_srf").reference
every_kind = pytest.mark.parametrize(
    "kind", [pytest.param(kind, id=kind.name) for kind in FAMILIES["focalnet"].kinds]
)


def pair(kind):
    """Ours and timm's, small, with the same random weights, and these."""
    return pair_of(kind.name, kind.fields, kind.timm, create=kind.create)


@every_kind
@pytest.mark.parametrize("size", [(32, 48), (37, 30)])
def test_images_of_any_size(kind, size):
    model, reference, tensors = pair(kind)
    differences = compare(model, reference, synthetic_images((2, *size, 3), 0))
    assert max(found.relative for found in differences.values()) < 1e-5
    assert_exports(model, tensors)


@every_kind
def test_the_authors_files(kind):
    model, reference, tensors = pair(kind)
    files = {}
    for key, value in tensors.items():
        if ".modulation." in key or ".mlp." in key:
            layer = key.endswith((".f.weight", ".h.weight", ".proj.weight")) or ".fc" in key
            value = value[:, :, 0, 0] if layer and value.ndim == 4 else value
        key = key.replace("stem.", "patch_embed.").replace("layers.1.down", "layers.0.down")
        key = key.replace("_post.", ".").replace("modulation.norm", "modulation.ln")
        key = key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")
        files[key.replace("head.fc", "head")] = value
    ours = RULES.convert(files, model.module.backbone)
    theirs = focalnet.checkpoint_filter_fn(
        {key: torch.tensor(value) for key, value in files.items()}, reference
    )
    assert ours.keys() == theirs.keys() == tensors.keys()
    for key, value in ours.items():
        np.testing.assert_array_equal(value, theirs[key].numpy(), err_msg=key)
