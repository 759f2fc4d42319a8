import ast
import hashlib
import json
import os
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._files import (
    as_path,
    differing_files,
    digest_of_arrays,
    file_sha256,
    folder_sha256,
    locked,
    read_json,
    sole_writer,
    temporary_file,
    write_atomically,
    write_json,
    write_text,
)
from flaxzoo.errors import CheckpointError, DataError

pytest.importorskip("fcntl")

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


def test_what_is_written_follows_the_umask_which_nobody_touches(tmp_path, monkeypatch):
    before = os.umask(0o027)
    with monkeypatch.context() as patched:
        patched.setattr(os, "umask", lambda mask: pytest.fail("the umask is the whole process's"))
        write_text(tmp_path / "deep" / "a.txt", "a")
    os.umask(before)
    assert (tmp_path / "deep" / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(temporary):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match=r"cannot write .*a.txt: No space left on device"):
        write_atomically(path, full)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_next_write_removes_what_a_killed_one_left_and_no_other_file(tmp_path):
    (tmp_path / ".a.txt.0123456789abcdef.tmp").write_text("half")
    (tmp_path / ".b.txt.0123456789abcdef.tmp").write_text("another file's")
    (tmp_path / ".a.txt.original").write_text("a user's")
    with temporary_file(tmp_path / "a.txt") as alive:
        write_text(tmp_path / "a.txt", "new")
        assert alive.exists(), "somebody is writing it"
        kept = {alive.name, ".b.txt.0123456789abcdef.tmp", ".a.txt.original", "a.txt"}
        assert set(os.listdir(tmp_path)) == kept
    assert not alive.exists()


def test_many_threads_write_one_file(tmp_path):
    path, failures = tmp_path / "a.txt", []

    def write(text):
        try:
            for _ in range(5):
                write_text(path, text * 1000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert os.listdir(tmp_path) == ["a.txt"]
    assert path.read_text() in [text * 1000 for text in "abcd"]


def test_a_lock_is_waited_for_and_no_longer_than_asked(tmp_path):
    with locked(tmp_path), pytest.raises(BlockingIOError), locked(tmp_path, seconds=0.01):
        pass
    with locked(tmp_path):
        pass


def test_the_digest_of_arrays_is_of_names_dtypes_shapes_and_values_alone():
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": jnp.ones(2, jnp.bfloat16)}
    digest = digest_of_arrays(arrays)
    swapped = {"a": arrays["a"], "b": np.asfortranarray(arrays["b"]).astype(">f4")}
    assert digest_of_arrays(swapped) == digest
    others = (
        {"b": arrays["b"], "c": arrays["a"]},
        {**arrays, "b": arrays["b"].reshape(3, 2)},
        {**arrays, "b": arrays["b"].astype(np.int32)},
        {**arrays, "b": arrays["b"] + 1},
        {**arrays, "c": np.zeros((0, 3))},
    )
    assert digest not in [digest_of_arrays(other) for other in others]


def test_a_json_file_comes_back_and_a_changed_one_is_told(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": (1, 2.5), "a": {"ä": None}}, indent=2)
    assert read_json(path, error=DataError) == {"b": [1, 2.5], "a": {"ä": None}}
    document = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(document.items()))))
    assert read_json(path, error=DataError)["b"] == [1, 2.5], "the layout is nobody's business"
    path.write_text(path.read_text().replace("2.5", "2.6"))
    with pytest.raises(CheckpointError, match=r"a.json is not what flaxzoo .* 'document_sha256'"):
        read_json(path, error=CheckpointError)
    with pytest.warns(UserWarning, match="here is not what flaxzoo wrote"):
        assert read_json(path, error=DataError, label="here", edited=True)["b"] == [1, 2.6]
    document.pop("document_sha256")
    path.write_text(json.dumps(document))
    assert read_json(path, error=DataError)["b"] == [1, 2.5], "one without a digest, as before"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: os.mkfifo(path), "a FIFO, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, not a file"),
        (lambda path: path.mkdir(), "a directory, not a file"),
        (lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 5 << 30), "5,368,709,120"),
        (lambda path: path.write_bytes(b"\xff{"), "not readable as JSON"),
        (lambda path: path.write_text("[" * 100_000), "not readable as JSON"),
        (lambda path: path.write_text("[1]"), "holds no JSON object"),
    ],
    ids=["none", "fifo", "endless", "directory", "huge", "bytes", "deep", "list"],
)
def test_what_is_no_json_file_is_refused_at_once(tmp_path, make, message):
    path = tmp_path / "a.json"
    make(path)
    with pytest.raises(CheckpointError, match=f"^{path}.*{message}"):
        read_json(path, error=CheckpointError)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: fz.images.load_image(path, 3),
        lambda path: fz.data.TextVectorizer(vocabulary=path),
        lambda path: fz.data.mnist.read_idx(path),
        fz.data.TextVectorizer.load,
        fz.data.TablePreparation.load,
    ],
    ids=["image", "vocabulary", "idx", "vectorizer", "table"],
)
def test_readers_of_data_refuse_what_is_no_file_at_once(tmp_path, read):
    (tmp_path / "endless").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "fifo")
    for name, kind in (("endless", "a device"), ("fifo", "a FIFO")):
        with pytest.raises(DataError, match=f"{name}.*it is {kind}, not a file"):
            read(tmp_path / name)
