"""Every ResNet and ResNeSt against timm: names, shapes and what they compute.

Weights and BatchNorm statistics are random, images small and of odd sizes.
"""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from parity.pairs import outputs_of
from safetensors.torch import save_file
from timm.models import adapt_input_conv

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import compare
from flaxzoo.weights.names import adapt_channels, from_reference, to_reference
from flaxzoo.weights.synthetic import synthetic_images

pytestmark = pytest.mark.family("resnet", "resnest")

MODULES = ("resnet", "resnest")
THEIRS = {name for module in MODULES for name in timm.list_models(module=module)}
VARIANTS = sorted(
    name
    for name in fz.models.list()
    if MODELS.architecture(name).family.rpartition(".")[2] in MODULES
)
# In full depth; all others, the fast ResNeSts among them, with few blocks, below.
FULL = (
    "resnest14d",
    "resnest50d",
    "resnet18",
    "resnet50",
    "resnet50d",
    "resnext50_32x4d",
    "seresnet50",
    "wide_resnet50_2",
)
# A stage with a block that has no projection, besides the first ones that have.
FEW = (1, 2, 1, 1)
IMAGES = synthetic_images((2, 75, 50, 3))
# At sizes such as those above, where a stage's input is odd, timm's average anti-aliasing fails:
# the branch rounds down and the shortcut up. Here it is odd before the first pooling alone.
AVERAGED = synthetic_images((2, 65, 97, 3))


def of_few_blocks():
    """One name for each way in which variants differ other than by depth, save those in FULL."""
    found = {}
    for name in (*FULL, *VARIANTS):
        found.setdefault(fz.models.get(name, layers=FEW).module, name)
    return sorted(set(found.values()) - set(FULL))


def images_for(model):
    return AVERAGED if model.module.backbone.anti_aliasing == "avg" else IMAGES


def check(differences):
    assert list(differences)[-2:] == ["features", "logits"]
    assert len(differences) == 7
    far = {k: d.relative for k, d in differences.items() if not d.relative <= 1e-5}
    assert not far


def test_every_variant_of_timm_s_is_here():
    assert set(VARIANTS) == THEIRS
    assert len(VARIANTS) == 89


@pytest.mark.parametrize("name", VARIANTS)
def test_state_dict(name):
    """Names and shapes of the whole state dict, and strict loading both ways."""
    with torch.device("meta"):
        reference = timm.create_model(name)
    theirs = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    expected = flatten(fz.models.get(name, input_shape=(64, 64, 3)).shapes())
    rules = MODELS.architecture(name).reference

    # One byte per number: the values play no part.
    ours = to_reference({k: np.zeros(v.shape, np.int8) for k, v in expected.items()}, rules)
    assert {key: value.shape for key, value in ours.items()} == theirs
    state = {k: torch.empty(v.shape, device="meta") for k, v in ours.items()}
    reference.load_state_dict(state, strict=True)

    tensors = {key: np.broadcast_to(np.int8(0), shape) for key, shape in theirs.items()}
    loaded = from_reference(expected, tensors, rules, source="timm")
    assert {k: v.shape for k, v in loaded.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize("name", FULL)
def test_full_depth(pair, name):
    check(compare(*pair(name), IMAGES))


@pytest.mark.parametrize("name", of_few_blocks())
def test_few_blocks(pair, name):
    model, reference = pair(name, layers=FEW)
    check(compare(model, reference, images_for(model)))


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("resnest14d", 8),
        ("resnest50d_4s2x40d", 16),
        ("resnet18", 8),
        ("resnet50", 8),
        ("resnet50", 16),
        ("resnet50d", 8),
        ("resnet50d", 16),
        ("resnetaa50d", 8),
        ("resnetblur18", 8),
        ("resnetrs50", 16),
        ("senet154", 8),
    ],
)
def test_output_stride(pair, name, output_stride):
    model, reference = pair(name, layers=FEW, output_stride=output_stride)
    images = images_for(model)
    found = compare(model, reference, images)
    check(found)
    rows = images.shape[1]
    assert found["layer4"].shape[1] in (rows // output_stride, -(-rows // output_stride))


@pytest.mark.parametrize(("name", "in_channels"), [("resnet18", 1), ("resnet26d", 4)])
def test_input_channels(pair, name, in_channels):
    images = synthetic_images((2, 64, 51, in_channels))
    check(compare(*pair(name, layers=FEW, in_channels=in_channels), images))


@pytest.mark.parametrize("pooling", ["max", "avg+max"])
def test_pooling(pair, pooling):
    check(compare(*pair("test_resnet", pooling=pooling), IMAGES))


@pytest.mark.parametrize("shape", [(1, 32, 32), (1, 33, 97), (3, 64, 65)])
def test_sizes(pair, shape):
    check(compare(*pair("test_resnet"), synthetic_images((*shape, 3))))


@pytest.mark.parametrize("name", ["test_resnet", "resnet18"])
def test_the_public_calls_give_the_same(pair, name):
    """``compare`` runs backbone and head by themselves; these are what users call."""
    model, reference = pair(name)
    x = torch.from_numpy(IMAGES.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        logits, maps = reference(x).numpy(), reference.forward_intermediates(x)[1]
        reference.reset_classifier(0)
        features = reference(x).numpy()
    headless = fz.models.get(name, num_classes=0).with_variables(
        {kind: {"backbone": tree["backbone"]} for kind, tree in model.variables.items()}
    )
    pyramid = fz.models.get(name, features=True).with_variables(headless.variables)
    for found in (model.feature_maps(IMAGES), pyramid(IMAGES)):
        for ours, theirs in zip(found.values(), maps, strict=True):
            close(ours, theirs.permute(0, 2, 3, 1).numpy())
    close(model(IMAGES), logits)
    close(headless(IMAGES), features)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 7])
def test_kernels_for_other_channels(channels):
    kernel = np.random.default_rng(0).normal(size=(5, 3, 7, 7)).astype(np.float32)
    theirs = adapt_input_conv(channels, torch.from_numpy(kernel)).numpy()
    np.testing.assert_allclose(adapt_channels(kernel, channels), theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "in_channels"), [("resnet18", 4), ("resnet10t", 1)])
def test_pretrained_for_other_channels_and_classes(pair, tmp_path, name, in_channels):
    """A whole pretrained file, loaded by each library's own way into a changed model."""
    path = tmp_path / "model.safetensors"
    save_file(pair(name, num_classes=1000)[1].state_dict(), path)
    reference = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
        in_chans=in_channels,
        num_classes=0,
    ).eval()
    model = fz.models.get(name, pretrained=path, in_channels=in_channels, num_classes=0)
    images = synthetic_images((2, 64, 51, in_channels))
    theirs = outputs_of(reference, images)
    close(model(images), theirs)
