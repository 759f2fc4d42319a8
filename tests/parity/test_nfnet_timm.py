"""Networks without norms against timm: images of odd sides, dilated stages, features."""

import pytest
from conformance.families import FAMILIES

import flaxzoo as fz
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

timm = pytest.importorskip("timm")

pytestmark = pytest.mark.family("nfnet")

KINDS = {kind.name: kind for kind in FAMILIES["nfnet"].kinds}


@pytest.mark.parametrize(
    ("name", "stride"), [("dm_nfnet_f0", 8), ("nf_regnet_b0", 16), ("nf_seresnet26", 8)]
)
def test_dilated_stages_and_images_of_any_size(name, stride):
    kind = KINDS[name]
    reference = timm.create_model(name, num_classes=4, output_stride=stride, **kind.timm).eval()
    tensors = fill_reference(reference, **MODELS.architecture(name).reference.random)
    options = {"output_stride": stride, "input_shape": (45, 70, 3), **kind.fields}
    model = fz.models.get(name, num_classes=4, **options)
    model = with_reference(model, tensors, source="random weights")
    found = compare(model, reference, synthetic_images((2, 45, 70, 3), 0))
    assert max(difference.relative for difference in found.values()) < 1e-5
