"""timm's own checkpoints from a Hub on loopback: the same logits, in both libraries."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import timm
import torch

import flaxzoo as fz

NAME, TAG = "test_resnet", "r160_in1k"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    path = Path(__file__).parent.parent / "weights" / "hub_server.py"
    spec = importlib.util.spec_from_file_location("hub_server", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    with module.HubServer({}) as server:
        server.patch(monkeypatch, tmp_path / "hf")
        yield server, module


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pytorch_model.bin"])
def test_a_repository_that_timm_wrote(hub, tmp_path, safe):
    server, module = hub
    torch.manual_seed(0)
    theirs = timm.create_model(NAME, pretrained=False).eval()
    timm.models.save_for_hf(theirs, tmp_path / "repo", safe_serialization=safe)
    files = {p.name: p.read_bytes() for p in (tmp_path / "repo").iterdir()}
    config = json.loads(files["config.json"])
    assert config["architecture"] == NAME
    server.repos[f"timm/{NAME}.{TAG}"] = module.Repo(files)
    images = np.random.default_rng(0).normal(size=(2, 96, 80, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    sources = [f"hf:timm/{NAME}.{TAG}"] + ([True] if safe else [])
    for source in sources:
        ours = fz.models.get(NAME, pretrained=source)
        worst = np.abs(np.asarray(ours(images)) - expected).max() / np.abs(expected).max()
        assert worst <= 1e-5
    back = ours.to_torch_state_dict()
    theirs.load_state_dict(back, strict=True)
    features = fz.models.get(NAME, pretrained=f"hf:timm/{NAME}.{TAG}", num_classes=0)
    with torch.inference_mode():
        pooled = theirs.forward_head(
            theirs.forward_features(torch.from_numpy(images.transpose(0, 3, 1, 2))), pre_logits=True
        ).numpy()
    np.testing.assert_allclose(
        features(images), pooled, rtol=1e-4, atol=1e-5 * np.abs(pooled).max()
    )
    assert jax.tree.leaves(features.variables["params"].get("head", {})) == []
