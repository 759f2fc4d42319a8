"""DenseNet against timm: images of any size, other stems, torchvision's files, no classifier."""

import importlib

import numpy as np
import pytest
from parity.pairs import assert_same, outputs_of

import flaxzoo as fz
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")

pytestmark = pytest.mark.family("densenet")

SMALL = {"layers": (1, 2), "growth": 8, "bottleneck": 2}
SMALL_TIMM = {"block_config": (1, 2), "growth_rate": 8, "bn_size": 2}


@pytest.mark.parametrize(
    ("fields", "timms", "size"),
    [
        ({}, {}, (45, 70)),
        ({"anti_aliasing": "avg"}, {"aa_layer": torch.nn.AvgPool2d}, (64, 48)),
        ({"stem": "tiered"}, {"stem_type": "deep_tiered"}, (33, 50)),
        (
            {"anti_aliasing": "blur", "anti_alias_transitions": True},
            {"aa_layer": "blur", "aa_stem_only": False},
            (45, 70),
        ),
    ],
)
def test_images_of_any_size(fields, timms, size):
    if timms.get("aa_layer") == "blur":
        timms = {**timms, "aa_layer": importlib.import_module("timm.layers").BlurPool2d}
    elif "aa_layer" in timms:
        timms = {**timms, "aa_layer": lambda channels, stride, **_: torch.nn.AvgPool2d(stride)}
    reference = timm.create_model("densenet121", num_classes=5, **SMALL_TIMM, **timms).eval()
    tensors = fill_reference(reference)
    model = fz.models.get("densenet121", num_classes=5, **SMALL, **fields)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))


def test_features_without_a_classifier():
    reference = timm.create_model("densenetblur121d", num_classes=0, **SMALL_TIMM).eval()
    tensors = fill_reference(reference)
    model = fz.models.get("densenetblur121d", num_classes=0, **SMALL)
    model = with_reference(model, tensors, source="random weights")
    images = synthetic_images((2, 40, 40, 3), 0)
    expected = outputs_of(reference, images)
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_torchvision_s_old_files():
    """Files of before torchvision 0.3 have a dot in the names of layers."""
    backbone = fz.models.get("densenet121", **SMALL).module.backbone
    network = models.DenseNet(8, (1, 2), 16, bn_size=2, num_classes=5)
    state = {
        key.replace("norm1", "norm.1").replace("conv2", "conv.2") if "denselayer" in key else key: t
        for key, t in network.state_dict().items()
    }
    assert state.keys() != network.state_dict().keys()
    rules = MODELS.architecture("densenet121").reference
    assert rules.convert(state, backbone).keys() == network.state_dict().keys()
