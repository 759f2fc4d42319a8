"""The constraints that make test-lowest installs."""

import importlib.util
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts/lowest_versions.py"
    spec = importlib.util.spec_from_file_location("lowest_versions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_requirement_names_its_oldest_version(script):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = script.lowest(project, set(project["optional-dependencies"]))
    assert len(lines) > 20
    assert len({line.partition("==")[0] for line in lines}) == len(lines)


def test_oldest_versions(script):
    project = {
        "name": "zoo",
        "dependencies": ["jax>=0.8", "numpy>=2.1.3"],
        "optional-dependencies": {"a": ["ruff==1.2", "zoo[b]"], "b": ["h5py[x]>=3"]},
    }
    assert script.lowest(project, set()) == ["jax==0.8", "numpy==2.1.3"]
    assert script.lowest(project, {"a"}) == ["jax==0.8", "numpy==2.1.3", "ruff==1.2"]
    assert script.lowest(project, {"b"}) == ["h5py==3", "jax==0.8", "numpy==2.1.3"]
    with pytest.raises(ValueError, match="'tqdm' names no oldest version"):
        script.lowest({**project, "dependencies": ["tqdm"]}, set())
