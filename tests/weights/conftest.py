import importlib.util
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def hub_server():
    """The module ``hub_server``: tests are imported by path, so it is too."""
    spec = importlib.util.spec_from_file_location(
        "hub_server", Path(__file__).parent / "hub_server.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """A running Hub without repositories, that this process uses with an empty cache."""
    with hub_server.HubServer() as server:
        server.patch(monkeypatch, tmp_path / "hf")
        yield server


@pytest.fixture
def filled(hub, hub_server):
    """A Hub with a repository: 10,240 bytes as its weights, and a config."""
    config = {
        "architecture": "resnet18",
        "num_classes": 1000,
        "pretrained_cfg": {"crop_pct": 0.95},
    }
    hub.repos["timm/resnet18.a1_in1k"] = hub_server.Repo(
        {"model.safetensors": bytes(range(256)) * 40, "config.json": json.dumps(config).encode()}
    )
    return hub


@pytest.fixture
def impatient(monkeypatch):
    """huggingface_hub without its pauses between attempts, which add up to half a minute."""
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None, time=time.time))
