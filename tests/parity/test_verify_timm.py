"""``flaxzoo verify`` with timm: that it passes what is the same, and what it says of the rest."""

from __future__ import annotations

import flax.linen as nn
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import flaxzoo as fz
from flaxzoo.cli import main
from flaxzoo.errors import CheckpointError, ShapeError, UnknownNameError
from flaxzoo.verify import compare, fill_reference, load_reference, verify
from flaxzoo.weights import hub, pretrained
from flaxzoo.weights.synthetic import synthetic_images

STAGES = ["stem", "layer1", "layer2", "layer3", "layer4", "features", "logits"]
IMAGES = synthetic_images((2, 64, 64, 3))


@pytest.fixture
def weights(pair, tmp_path):
    """A file of a small network with seven classes."""
    path = tmp_path / "model.safetensors"
    save_file(pair("test_resnet")[1].state_dict(), path)
    return path


def test_random_weights(capsys):
    assert main(["verify", "test_resnet", "--size", "64", "--seed", "3", "--batch", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"test_resnet against timm {timm.__version__}: random weights (seed 3), "
        "images [1, 64, 64, 3]"
    )
    assert [line.split()[0] for line in lines[2:-1]] == STAGES
    assert lines[-1].startswith("the same")


def test_indices_of_timm_s_code_are_neither_drawn_nor_missed():
    module = torch.nn.BatchNorm1d(3)
    module.register_buffer("places", torch.tensor([2, 0, 1]))
    tensors = fill_reference(module)
    assert set(tensors) == {"weight", "bias", "running_mean", "running_var"}
    np.testing.assert_array_equal(module.places, [2, 0, 1])
    np.testing.assert_array_equal(module.weight.detach(), tensors["weight"])
    with pytest.raises(CheckpointError, match="bias"):
        load_reference(module, {"weight": tensors["weight"]}, source="half of them")


def test_a_difference_is_the_exit_code(capsys):
    assert main(["verify", "test_resnet", "--size", "64", "--tolerance", "1e-12"]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("different: ")


def test_a_file(weights, tmp_path, capsys):
    report = verify("test_resnet", weights, size=64)
    assert report.ok
    assert report.weights == str(weights)
    assert report.differences["logits"].shape == (2, 7)
    torch.save({"state_dict": timm.create_model("test_resnet").state_dict()}, tmp_path / "w.pth")
    assert verify("test_resnet", tmp_path / "w.pth", size=64).ok
    assert main(["verify", "resnet18", "--weights", str(weights)]) == 1
    assert "does not fit 'resnet18'" in capsys.readouterr().err


def test_weights_of_ours(weights, tmp_path):
    fz.models.get("test_resnet", pretrained=weights).save(tmp_path / "saved")
    assert verify("test_resnet", tmp_path / "saved", size=64).ok


def test_pretrained_weights(tmp_path, monkeypatch):
    path, asked = tmp_path / "model.safetensors", []
    # As many classes as the catalogue says.
    save_file(timm.create_model("test_resnet").state_dict(), path)
    monkeypatch.setattr(hub, "download", lambda repo, *args, **kw: asked.append(repo) or path)
    assert verify("test_resnet.r160_in1k", size=64).ok
    assert verify("test_resnet", True, size=64).ok
    assert set(asked) == {"timm/test_resnet.r160_in1k"}


def test_a_file_is_read_once(weights, monkeypatch):
    files = []
    real = pretrained.read_tensors
    monkeypatch.setattr(
        pretrained, "read_tensors", lambda path, **kw: files.append(path) or real(path, **kw)
    )
    assert verify("test_resnet", weights, size=64).ok
    assert files == [weights]


def test_weights_of_a_backbone_alone(tmp_path):
    """As timm's fcmae tags are, whose files have neither the head's norm nor a classifier."""
    state = timm.create_model("test_convnext2").state_dict()
    save_file(
        {k: v for k, v in state.items() if not k.startswith("head.")}, tmp_path / "w.safetensors"
    )
    report = verify("test_convnext2", tmp_path / "w.safetensors", size=64)
    assert report.ok
    assert report.differences["features"].shape[0] == 2


def test_older_files_are_converted_by_timm_itself(tmp_path):
    """With DINO's mask token, and the first kernel as a matrix, as ViT's first files had it."""
    state = timm.create_model("test_vit").state_dict()
    state["mask_token"] = torch.zeros(1, 1, 64)
    kernel = state["patch_embed.proj.weight"]
    state["patch_embed.proj.weight"] = kernel.reshape(len(kernel), -1)
    save_file(state, tmp_path / "w.safetensors")
    assert verify("test_vit", tmp_path / "w.safetensors").ok


def test_weights_of_another_number_of_channels(tmp_path):
    path = tmp_path / "grey.safetensors"
    grey = timm.create_model("test_resnet", in_chans=1).state_dict()
    save_file(grey, path)
    with pytest.raises(CheckpointError, match=r"grey\.safetensors.*conv1"):
        verify("test_resnet", path)


def test_weights_that_timm_does_not_take():
    tensors = {"fc.weight": np.zeros((5, 96), np.float32), "other.bias": np.zeros(3, np.float32)}
    reference = timm.create_model("test_resnet")
    with pytest.raises(
        CheckpointError, match=r"^here does not fit timm's model.*conv1\.0"
    ) as caught:
        load_reference(reference, tensors, source="here")
    assert "only in the file: other.bias" in str(caught.value)
    assert "fc.weight: file [5, 96], expected [1000, 96]" in str(caught.value)


def test_counters_that_old_files_lack(weights, tmp_path):
    state = {k: v for k, v in load_file(weights).items() if "num_batches" not in k}
    save_file(state, tmp_path / "old.safetensors")
    assert verify("test_resnet", tmp_path / "old.safetensors", size=64).ok


def test_sizes_that_timm_does_not_take(capsys):
    with pytest.raises(ShapeError, match=r"does not take images \[2, 80, 80, 3\]"):
        verify("resnetaa50", size=80)


def test_names_that_timm_lacks(monkeypatch):
    monkeypatch.setattr(timm, "is_model", lambda name: False)
    with pytest.raises(UnknownNameError, match=f"timm {timm.__version__}.* has no 'resnet18'"):
        verify("resnet18")


def failed(model, reference):
    return [k for k, d in compare(model, reference, IMAGES).items() if not d.relative <= 1e-5]


class OtherEpsilon(nn.BatchNorm):
    """Flax's BatchNorm with an epsilon a little off."""

    momentum: float = 0.9
    epsilon: float = 2e-5


def test_mistakes_show_where_they_are(pair):
    model, reference = pair("test_resnet")
    assert failed(model, reference) == []

    backbone = model.module.backbone
    wrong = model.module.clone(backbone=backbone.clone(norm=OtherEpsilon))
    assert failed(fz.Model(wrong, model.variables), reference) == STAGES

    # The two mean the same at initialisation, where nothing would show.
    blurred = model.module.clone(backbone=backbone.clone(anti_aliasing="avg"))
    assert failed(fz.Model(blurred, model.variables), reference) == STAGES[1:]

    with torch.no_grad():
        reference.fc.bias[0] += 0.01
    assert failed(model, reference) == STAGES[-1:]
    with torch.no_grad():
        reference.layer3[0].conv2.weight[:2] += 0.01
    assert failed(model, reference) == STAGES[3:]


def test_the_reference_keeps_its_mode_and_statistics(pair):
    model, reference = pair("test_resnet")
    reference.train()
    before = reference.bn1.running_mean.clone()
    assert failed(model, reference) == []
    assert reference.training
    np.testing.assert_array_equal(reference.bn1.running_mean.numpy(), before.numpy())
