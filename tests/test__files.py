import ast
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._files import as_path, differing_files, file_sha256, folder_sha256, sole_writer
from flaxzoo.errors import DataError

SOURCE = Path(fz.__file__).parent


def test_digests_of_a_folder_name_the_files_that_differ(tmp_path):
    (tmp_path / "d").mkdir()
    for name, content in (("a", b"1"), ("d/b", b"2"), ("d/c", b"")):
        (tmp_path / name).write_bytes(content)
    digests = folder_sha256(tmp_path)
    assert digests["a"] == file_sha256(tmp_path / "a") == hashlib.sha256(b"1").hexdigest()
    assert list(digests) == ["a", "d/b", "d/c"]
    assert differing_files(tmp_path, digests) == []
    (tmp_path / "d" / "b").write_bytes(b"3")
    (tmp_path / "d" / "c").unlink()
    (tmp_path / "later").write_bytes(b"")
    assert differing_files(tmp_path, digests) == [
        "d/b has changed since it was written",
        "d/c is missing",
    ]


def test_a_directory_has_one_writer(tmp_path):
    with (
        sole_writer(tmp_path / "d", "features"),
        pytest.raises(DataError, match="another process is writing features to .*d"),
        sole_writer(tmp_path / "d", "features"),
    ):
        pass
    with sole_writer(tmp_path / "d", "features"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write to"), sole_writer(tmp_path / "file", "x"):
        pass


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield tmp_path / "home"
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_tilde_is_the_home_directory(home):
    assert as_path("~/x") == home / "x"
    assert as_path(Path("~/x")) == home / "x"
    assert as_path("a~/~x") == Path("a~/~x")
    assert as_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_models_and_runs_are_written_to_the_home_directory(home):
    model = fz.models.get("mlp", num_classes=2, input_shape=(3,), features=(2,)).init(0)
    model.save("~/model")
    model.save_pretrained("~/pretrained")
    assert {p.name for p in home.iterdir()} == {"model", "pretrained"}
    fz.Model.load("~/model")
    fz.Model.from_pretrained("~/pretrained")
    options = {"num_classes": 2, "input_shape": (3,), "features": (2,)}
    fz.models.get("mlp", pretrained="~/model/model.safetensors", **options)
    trainer = fz.Trainer(model, run_dir="~/run")
    trainer.fit(
        (np.ones((4, 3), np.float32), np.array([0, 1, 0, 1])),
        batch_size=4,
        callbacks=[
            fz.callbacks.ModelCheckpoint("~/checkpoints"),
            fz.callbacks.CSVLogger("~/table.csv"),
        ],
        progress=False,
    )
    trainer.save("~/run")
    assert fz.Trainer.load("~/run").run_dir == home / "run"
    assert {"run", "checkpoints", "table.csv"} <= {p.name for p in home.iterdir()}


def test_data_are_read_from_the_home_directory(home):
    from PIL import Image

    for name in ("cat", "dog"):
        (home / "pictures" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(home / "pictures" / name / "1.png")
    (home / "table.csv").write_text("file,label\ncat/1.png,cat\ndog/1.png,dog\n")
    assert len(fz.data.ImageFolder("~/pictures", size=4).files) == 2
    assert len(fz.data.ImageCSV("~/table.csv", "~/pictures", size=4).files) == 2
    with pytest.raises(DataError, match=f"{home}/absent"):
        fz.data.load_mnist("~/absent")


def path_arguments():
    """Functions of the package with the arguments of theirs that take paths."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                annotated = {a.arg: ast.unparse(a.annotation) for a in arguments if a.annotation}
                names = {name for name, kind in annotated.items() if "PathLike" in kind}
                if names:
                    yield file, node, names


def test_every_argument_that_takes_a_path_knows_the_home_directory():
    plain = []
    for file, function, names in path_arguments():
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Path", "open"):
                read = {ast.unparse(argument) for argument in node.args}
                plain += [f"{file.name}:{node.lineno}: {name}" for name in names & read]
    assert [line for line in plain if not line.startswith("_files.py")] == []
