import sys
from pathlib import Path

# Tests are imported by path, and share what lies beside them.
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pytest
from _commands import run_dir

import flaxzoo as fz
from flaxzoo.cli import train as train_module


@pytest.fixture(autouse=True)
def no_extras(request, monkeypatch):
    """Plots and logs take longer than the training; the tests that look at them ask for them."""
    if "extras" not in request.fixturenames:
        monkeypatch.setattr(train_module, "_installed", lambda module: False)


@pytest.fixture
def extras():
    """For tests that want plots and logs."""


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    return run_dir(tmp_path_factory, "--lr", "0.01")


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Three held-out digits as PNG files, and what they show."""
    image = pytest.importorskip("PIL.Image")
    directory = tmp_path_factory.mktemp("png")
    images, labels = fz.data.load_digits()[1]
    paths = [str(directory / f"{i}.png") for i in range(3)]
    for path, pixels in zip(paths, images, strict=False):
        image.fromarray((pixels[..., 0] * 255).round().astype(np.uint8)).save(path)
    return paths, labels[:3]
