"""A model's folder: the whole old model or the whole new one, and no damage in silence."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._files import locked, sole_writer
from flaxzoo.errors import CheckpointError, DataError
from flaxzoo.weights import read_tensors, save_variables

SAVES = ("save", "save_pretrained")


@pytest.fixture(scope="module")
def models():
    """Two models of the same shapes, whose first class's name says which it is."""
    made = [
        fz.models.get("mlp", input_shape=(3,), features=(4,), num_classes=2).init(i) for i in (0, 1)
    ]
    return [
        dataclasses.replace(m, spec=dataclasses.replace(m.spec, classes=(f"{i}", "other")))
        for i, m in enumerate(made)
    ]


def which(model, models):
    """The number of a model that was loaded; fails for a mixture."""
    number = int(model.spec.classes[0])
    for leaf, wanted in zip(
        *(jax.tree.leaves(m.variables) for m in (model, models[number])), strict=True
    ):
        np.testing.assert_array_equal(leaf, wanted)
    return number


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


class Stopped(BaseException):
    """As a kill, but for what the interpreter still does: nothing, here."""


@pytest.mark.parametrize("save", SAVES)
def test_a_save_that_stops_anywhere_leaves_one_model_and_the_next_cleans_up(
    tmp_path, models, save, monkeypatch
):
    """At each renaming, flush and removal, with what is removed on the way out left in place."""
    seen, stop = [], 0

    def stopping(function):
        def call(*args, **kwargs):
            if stopped:
                return None
            seen.append(function.__name__)
            if len(seen) == stop:
                stopped.append(True)
                raise Stopped
            return function(*args, **kwargs)

        return call

    results = []
    for stop in range(1, 12):
        directory, stopped = tmp_path / str(stop), []
        getattr(models[0], save)(directory)
        seen.clear()
        with monkeypatch.context() as patched:
            for owner, name in ((Path, "replace"), (Path, "unlink"), (os, "fsync")):
                patched.setattr(owner, name, stopping(getattr(owner, name)))
            try:
                getattr(models[1], save)(directory)
            except Stopped:
                pass
            else:
                break
        results.append(which(fz.Model.from_pretrained(directory), models))
        assert results[-1] == which(fz.models.get("mlp", pretrained=directory), models)
        getattr(models[1], save)(directory)
        assert set(files(directory)) == {"config.json", "model.safetensors"}
        assert which(fz.Model.from_pretrained(directory), models) == 1
    assert results == sorted(results), "the new model stays"
    assert {0, 1} == set(results)
    assert len(results) >= 5


KILLED = """
import os, signal, sys, pathlib
import flaxzoo as fz
old, new = (fz.Model.from_pretrained(sys.argv[i]) for i in (1, 2))
real, count = os.replace, 0
def replace(self, target):
    global count
    count += 1
    if count == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, target)
pathlib.Path.replace = replace
getattr(new, sys.argv[5])(sys.argv[3])
"""


@pytest.mark.slow
def test_a_killed_process_leaves_one_model(tmp_path, models):
    for i, model in enumerate(models):
        model.save(tmp_path / f"m{i}")
    directory = tmp_path / "d"
    for place, expected in ((2, 0), (3, 1)):
        models[0].save(directory)
        arguments = [tmp_path / "m0", tmp_path / "m1", directory, place, SAVES[place % 2]]
        command = [sys.executable, "-c", KILLED, *map(str, arguments)]
        assert subprocess.run(command, timeout=120).returncode == -9
        assert len(files(directory)) > 2
        assert which(fz.Model.from_pretrained(directory), models) == expected
    models[0].save(directory)
    assert set(files(directory)) == {"config.json", "model.safetensors"}


@pytest.mark.slow
def test_a_disk_that_is_full_keeps_the_old_model(tmp_path, models):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    big = fz.models.get("mlp", input_shape=(64,), features=(512,), num_classes=2).init(0)
    try:
        for save in SAVES:
            getattr(models[0], save)(disk / save)
            before = files(disk / save)
            with pytest.raises(DataError, match=f"{save}/model.safetensors: No space left"):
                getattr(big, save)(disk / save)
            assert files(disk / save) == before
            assert which(fz.Model.from_pretrained(disk / save), models) == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_a_run_or_an_extraction_holds_is_written(tmp_path, models, monkeypatch):
    monkeypatch.setattr("flaxzoo.weights.folders._PATIENCE", 0.05)
    with sole_writer(tmp_path, "features"):
        models[0].save(tmp_path)
        models[1].save(tmp_path)
    assert which(fz.Model.load(tmp_path), models) == 1
    with (
        locked(tmp_path / "config.json"),
        pytest.raises(DataError, match=f"another process is writing a model to {tmp_path}"),
    ):
        models[0].save(tmp_path)
    assert set(files(tmp_path)) == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: path.symlink_to("absent"), lambda path: path.symlink_to("/dev/zero")],
    ids=["fifo", "dangling", "device"],
)
def test_whatever_has_the_name_of_the_configuration_is_replaced(tmp_path, models, make):
    make(tmp_path / "config.json")
    models[1].save(tmp_path)
    assert which(fz.Model.load(tmp_path), models) == 1
    assert not (tmp_path / "config.json").is_symlink()


def test_threads_that_write_the_first_model(tmp_path, models):
    for k in range(5):
        directory = tmp_path / str(k)
        threads = [threading.Thread(target=m.save, args=(directory,)) for m in models * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert which(fz.Model.load(directory), models) in (0, 1)
        assert set(files(directory)) == {"config.json", "model.safetensors"}


def test_threads_that_write_and_read_at_once_see_whole_models(tmp_path, models):
    models[0].save(tmp_path)
    failures, read, stop = [], [0], threading.Event()

    def guard(function):
        try:
            function()
        except BaseException as error:
            failures.append(error)

    def write(number):
        for k in range(15):
            getattr(models[number], SAVES[k % 2])(tmp_path)

    def look():
        while not stop.is_set():
            which(fz.Model.from_pretrained(tmp_path), models)
            read[0] += 1

    writers = [threading.Thread(target=guard, args=(lambda i=i: write(i),)) for i in (0, 1)]
    reader = threading.Thread(target=guard, args=(look,))
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert not failures, failures[0]
    assert read[0] > 0
    assert set(files(tmp_path)) == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("save", SAVES)
def test_no_flipped_bit_loads_in_silence(tmp_path, models, save):
    getattr(models[0], save)(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 40).astype(int):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        for read in (fz.Model.from_pretrained, read_tensors):
            with pytest.raises(CheckpointError, match=str(tmp_path)):
                read(tmp_path)
        with pytest.raises(CheckpointError, match=str(tmp_path)):
            fz.models.get("mlp", pretrained=tmp_path)


def test_a_flipped_bit_in_a_lone_file_is_told(tmp_path):
    path = tmp_path / "w.safetensors"
    save_variables(path, {"params": {"a": np.arange(100.0, dtype=np.float32)}})
    whole = path.read_bytes()
    for place in range(len(whole) - 400, len(whole), 37):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=r"w\.safetensors: damaged, or replaced .* its tens"
        ):
            read_tensors(path)


@pytest.mark.parametrize("save", SAVES)
def test_weights_of_another_model_and_an_edited_configuration_are_told(tmp_path, models, save):
    for i, model in enumerate(models):
        getattr(model, save)(tmp_path / str(i))
    os.replace(tmp_path / "0" / "model.safetensors", tmp_path / "1" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1/model.safetensors: damaged, or replaced"):
        fz.Model.from_pretrained(tmp_path / "1")
    getattr(models[0], save)(tmp_path / "1")
    config = tmp_path / "1" / "config.json"
    config.write_text(config.read_text().replace('"other"', '"another"'))
    with pytest.warns(UserWarning, match="its config.json is not what flaxzoo wrote"):
        model = fz.Model.from_pretrained(tmp_path / "1")
    assert model.spec.classes == ("0", "another")


def test_folders_without_digests_load_as_before(tmp_path, models, recwarn):
    for save in SAVES:
        directory = tmp_path / save
        getattr(models[0], save)(directory)
        document = json.loads((directory / "config.json").read_text())
        section = document if save == "save" else document["flaxzoo"]
        del section["weights_sha256"], section["document_sha256"]
        (directory / "config.json").write_text(json.dumps(document))
        assert which(fz.Model.from_pretrained(directory), models) == 0
    assert not recwarn.list


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "a FIFO, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "a device, not a file"),
        (
            lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), 3 << 30),
            "refused: it has",
        ),
    ],
    ids=["fifo", "endless", "huge"],
)
def test_what_is_no_file_is_refused_at_once(tmp_path, models, make, message):
    models[0].save(tmp_path)
    (tmp_path / "config.json").unlink()
    make(tmp_path / "config.json")
    for read in (fz.Model.load, fz.Model.from_pretrained):
        with pytest.raises(
            CheckpointError, match=f"{tmp_path}: its config.json cannot .*{message}"
        ):
            read(tmp_path)


def test_a_weight_file_that_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    (tmp_path / "w.npz").symlink_to("/dev/zero")
    for name, message in (("w.pth", "a FIFO"), ("w.npz", "a device")):
        with pytest.raises(
            CheckpointError, match=f"{name}: cannot be read .*{message}, not a file"
        ):
            fz.models.get("mlp", pretrained=tmp_path / name)


def test_a_digest_that_is_none_is_told(tmp_path, models):
    models[0].save(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    del document["document_sha256"]
    document["weights_sha256"] = "../../elsewhere"
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"weights_sha256 '../../elsewhere', which is no"):
        fz.Model.load(tmp_path)


def test_the_packaged_weights_carry_a_digest():
    folder = resources.files("flaxzoo.weights") / "digits"
    for file in folder.iterdir():
        assert b'"tensors_sha256"' in file.read_bytes()[:4096], file
