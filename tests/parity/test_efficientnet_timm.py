"""EfficientNet against timm, beside what is certified: dilated stages, epsilons, drop path."""

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.verify import compare, fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

pytestmark = pytest.mark.family("efficientnet")

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")


@pytest.mark.parametrize("stride", [16, 8])
@pytest.mark.parametrize("name", ["mobilenetv2_035", "test_efficientnet"])
def test_dilated_stages(name, stride):
    reference = timm.create_model(name, output_stride=stride)
    model = fz.models.get(name, output_stride=stride)
    model = with_reference(model, fill_reference(reference), source="the same")
    differences = compare(model, reference, synthetic_images((1, 64, 96, 3), 0))
    assert max(difference.relative for difference in differences.values()) < 1e-5
    timms = timm.create_model(name, output_stride=stride, features_only=True)
    ours = model.module.backbone.reductions()
    assert list(ours.values()) == timms.feature_info.reduction()
    with torch.no_grad():
        maps = timms(torch.zeros(1, 3, 64, 96))
    shapes = [
        (leaf.shape[-1], *leaf.shape[1:3])
        for leaf in model.feature_maps(synthetic_images((1, 64, 96, 3), 0)).values()
    ]
    assert shapes == [tuple(leaf.shape[1:]) for leaf in maps]


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "tf_efficientnet_lite0", "efficientnet_b1_pruned", "mixnet_s"]
)
def test_epsilon_and_padding(name):
    reference = timm.create_model(name)
    backbone = fz.models.get(name).module.backbone
    assert (backbone.norm_epsilon or 1e-5) == reference.bn1.eps
    assert reference.bn1.momentum == 0.1
    assert (backbone.padding == "SAME") == (type(reference.conv_stem).__name__ == "Conv2dSame")


def test_fbnet_s_epsilon_is_that_of_its_weights():
    assert fz.models.get("fbnetc_100").module.backbone.norm_epsilon == 1e-3


def test_drop_path_grows_as_timm_s():
    reference = timm.create_model("mobilenetv2_035", drop_path_rate=0.3)
    rates = {
        name.removesuffix(".drop_path"): module.drop_prob
        for name, module in reference.named_modules()
        if name.endswith("drop_path") and hasattr(module, "drop_prob")
    }
    parts = fz.models.get("mobilenetv2_035", drop_path=0.3).module.backbone.parts()
    ours = {
        part.name.replace("blocks_", "blocks.").replace("_", "."): part.run.keywords["drop_path"]
        for part in parts
        if part.name.startswith("blocks")
    }
    assert rates
    for name, rate in ours.items():
        # timm makes no module for a rate of zero.
        assert rates.get(name, 0.0) == pytest.approx(rate), name
    np.testing.assert_allclose(max(ours.values()), 0.3 * 16 / 17)
