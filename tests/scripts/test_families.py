"""Which families a change can touch: what scripts/families.py prints for make's lanes."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("families", ROOT / "scripts/families.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(script):
    return script.families()


def test_families_are_the_files_that_register(files):
    assert {"cnn", "lstm", "mlp", "resnet", "resnest"} <= set(files)
    assert not {"registry", "backbone", "classifier", "heads", "__init__"} & set(files)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("src/flaxzoo/models/cnn.py", {"cnn"}),
        ("tests/models/test_cnn.py", {"cnn"}),
        ("tests/models/test_resnest.py", {"resnest"}),
        ("docs/training.md", set()),
        ("docs/models.md", set()),
        ("docs/vit.md", {"vision_transformer"}),
        ("docs/swin.md", {"swin_transformer", "swin_transformer_v2"}),
        ("README.md", set()),
    ],
)
def test_a_change_of_one_family_is_one_s(script, files, path, names):
    assert script.touched([path], files) == names


@pytest.mark.parametrize(
    "path",
    [
        "src/flaxzoo/training/steps.py",
        "src/flaxzoo/models/backbone.py",
        "src/flaxzoo/removed_just_now.py",
        "tests/conftest.py",
        "pyproject.toml",
    ],
)
def test_what_all_share_touches_all(script, files, path):
    assert script.touched([path], files) == set(files)


def test_a_layer_touches_its_importers(script, files):
    """resnest is made of resnet's blocks; neither is the LSTM's."""
    touched = script.touched(["src/flaxzoo/models/resnet.py"], files)
    assert {"resnet", "resnest"} <= touched
    assert "mlp" not in touched
    assert script.touched(["src/flaxzoo/models/cnn.py", "docs/data.md"], files) == {"cnn"}


def test_a_lot_is_drawn_from_the_others(script, files, monkeypatch):
    monkeypatch.setattr(script, "changed_since", lambda base: ["src/flaxzoo/models/cnn.py"])
    assert script.choose("main", lot=0, seed="a") == ["cnn"]
    drawn = {tuple(script.choose("main", lot=2, seed=str(seed))) for seed in range(20)}
    assert all("cnn" in names and len(names) == 3 for names in drawn)
    assert len(drawn) > 3
    assert script.choose("main", lot=2, seed="a") == script.choose("main", lot=2, seed="a")
    assert script.choose("main", lot=99, seed="a") == sorted(files)


def test_an_unknown_base_is_every_family(script, files):
    assert script.changed_since("no-such-branch") is None
    assert script.choose("no-such-branch", lot=0, seed="a") == sorted(files)


def test_changes_are_read_from_git(script, monkeypatch, tmp_path):
    def git(*arguments):
        options = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *options, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(script, "ROOT", tmp_path)
    git("init", "-b", "main")
    (tmp_path / "a.txt").write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    assert script.changed_since("main") is None
    git("checkout", "-b", "other")
    (tmp_path / "a.txt").write_text("2")
    (tmp_path / "b.txt").write_text("new")
    assert script.changed_since("main") == ["a.txt", "b.txt"]
