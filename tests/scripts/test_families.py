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
        ("src/flaxzoo/models/catalog/cnn.json", {"cnn"}),
        ("src/flaxzoo/models/catalog/vgg.certificates.json", {"vgg"}),
        ("src/flaxzoo/models/catalog/index.json", set()),
        ("tests/conformance/shapes/cnn.json", {"cnn"}),
        ("tests/training/test_state.py", set()),
    ],
)
def test_a_change_of_one_family_is_one_s(script, files, path, names):
    assert script.touched([path], files) == names
    assert script.own([path], files) == names


@pytest.mark.parametrize(
    "path",
    [
        "tests/conformance/test_files.py",
        "src/flaxzoo/training/steps.py",
        "src/flaxzoo/models/backbone.py",
        "src/flaxzoo/removed_just_now.py",
        "tests/conftest.py",
        "pyproject.toml",
    ],
)
def test_what_all_share_touches_all(script, files, path):
    assert script.touched([path], files) == set(files)
    assert not script.own([path], files)


def test_a_layer_touches_its_importers(script, files):
    """resnest is made of resnet's blocks; neither is the LSTM's."""
    touched = script.touched(["src/flaxzoo/models/resnet.py"], files)
    assert {"resnet", "resnest"} <= touched
    assert "mlp" not in touched
    assert script.touched(["src/flaxzoo/models/cnn.py", "docs/data.md"], files) == {"cnn"}


@pytest.fixture
def change(script, monkeypatch):
    """Sets which paths a change is said to be of."""

    def of(*paths):
        monkeypatch.setattr(script, "changed_since", lambda base: ("HEAD", list(paths)))

    return of


def test_a_lot_is_drawn_from_the_others(script, files, change):
    change("src/flaxzoo/models/cnn.py")
    assert script.choose("main", most=0, lot=0, seed="a") == ["cnn"]
    drawn = [script.choose("main", most=9, lot=2, seed=str(seed)) for seed in range(20)]
    assert all("cnn" in names and len(names) == 3 for names in drawn)
    assert len(set(map(tuple, drawn))) > 3
    assert drawn[0] == script.choose("main", most=9, lot=2, seed="0")
    assert script.choose("main", most=9, lot=999, seed="a") == sorted(files)


def test_of_many_families_some_are_drawn_and_its_own_come_first(script, files, change):
    change("src/flaxzoo/models/cnn.py", "src/flaxzoo/models/backbone.py", "docs/vit.md")
    assert script.choose("main", most=0, lot=2, seed="a") == sorted(files)
    drawn = [script.choose("main", most=5, lot=2, seed=str(seed)) for seed in range(20)]
    assert all({"cnn", "vision_transformer"} < set(names) for names in drawn)
    assert {len(names) for names in drawn} == {5}
    assert len(set(map(tuple, drawn))) > 15


def test_a_row_of_the_table_is_its_family_s(script, files, change, monkeypatch):
    before = (ROOT / script.TABLE).read_text("utf-8")
    monkeypatch.setattr(script, "git", lambda *arguments: before)
    change(script.TABLE)
    everything = {"most": 0, "lot": 0, "seed": "a"}
    assert script.choose("main", **everything) == []
    row = next(line for line in before.splitlines() if '"conv_autoencoder"' in line)
    before = before.replace(row, row.replace("(4, 6)", "(4, 7)"))
    assert script.choose("main", **everything) == ["autoencoder"]
    before = before.replace("CLASSES = 3", "CLASSES = 4")
    assert script.choose("main", **everything) == sorted(files)


def test_an_unknown_base_may_be_any_family(script, files):
    assert script.changed_since("no-such-branch") is None
    assert script.choose("no-such-branch", most=0, lot=0, seed="a") == sorted(files)
    assert len(script.choose("no-such-branch", most=7, lot=0, seed="a")) == 7


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
    start, paths = script.changed_since("main")
    assert paths == ["a.txt", "b.txt"]
    assert script.git("show", f"{start}:a.txt") == "1"
