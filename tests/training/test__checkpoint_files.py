"""What a checkpoint's folder holds, and what is left when a process dies or a disk is full."""

import contextlib
import json
import os
import resource
import shutil
import signal
import threading
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import CheckpointError, DataError
from flaxzoo.training import _checkpoint_files as files
from flaxzoo.training import checkpoint
from flaxzoo.training.checkpoint import Checkpoints, restore, saved_steps, state_arrays

DATA = (np.random.default_rng(0).random((8, 4), np.float32), np.arange(8) % 3)


def module():
    return fz.models.get("mlp", num_classes=3, input_shape=(4,), features=(2,))


@pytest.fixture(scope="module")
def state():
    return fz.create_train_state(module(), rng=1, optimizer="sgd")


def trainer(run_dir=None, **options):
    return fz.Trainer(module(), optimizer="sgd", run_dir=run_dir, **options)


def fit(one, *callbacks, epochs=1, **options):
    one.fit(DATA, batch_size=4, epochs=epochs, callbacks=callbacks, progress=False, **options)
    return one


def saved(state, directory, **scores):
    checkpoints = Checkpoints(directory, keep=None, asynchronous=False)
    for step, score in scores.items():
        checkpoints.save(state, int(step[1:]), {"run": "a"}, score=score)
    return checkpoints


# --- kills -----------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@contextlib.contextmanager
def killed_at(call, monkeypatch):
    """Ends the process, as it were, at the n-th change of the disk; nothing happens after it."""
    calls = 0

    def deadly(function, half_done=lambda *args: None):
        def wrapper(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                half_done(*args)
            if calls >= call:
                raise Killed
            return function(*args, **kwargs)

        return wrapper

    def half_deleted(path, *args):
        for inside in sorted(Path(path).glob("*"))[:1]:
            rmtree(inside, ignore_errors=True)

    rmtree = shutil.rmtree
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", deadly(rmtree, half_deleted))
        for name in ("rename", "replace", "mkdir", "unlink"):
            patched.setattr(Path, name, deadly(getattr(Path, name)))
        with contextlib.suppress(Killed):
            yield lambda: calls >= call


@pytest.fixture(scope="module")
def two_saved(state, tmp_path_factory):
    directory = tmp_path_factory.mktemp("two") / "c"
    saved(state, directory, s1=0.9, s2=0.1)
    return directory


@pytest.mark.parametrize("step", [2, 3], ids=["same step", "rotation"])
def test_a_kill_at_any_place_leaves_the_best_and_the_last(
    step, state, two_saved, tmp_path, monkeypatch
):
    later = state.replace(step=state.step + 1)
    for call in range(1, 50):
        directory = tmp_path / str(call) / "c"
        shutil.copytree(two_saved, directory)
        with killed_at(call, monkeypatch) as killed:
            checkpoints = Checkpoints(directory, keep=1, keep_best=1, asynchronous=False)
            checkpoints.save(later, step, {"run": "a", "note": "new"}, score=0.2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert restore(directory, state)[1]["score"] in (0.1, 0.2)
            for there in saved_steps(directory):
                folder = files.folder_of(directory, there)
                files.check_files(folder, files.read_meta(folder))
            checkpoints.begin("a", 3)
        checkpoints.close()
        assert os.listdir(directory.parent) == ["c"]
        assert {"1"} < set(os.listdir(directory)) <= {"1", "2", "3"}
        if not killed():
            assert restore(directory, state)[1]["score"] == 0.2
            break
    assert 8 < call < 49


def test_what_orbax_left_half_written_before_is_removed(state, tmp_path):
    saved(state, tmp_path, s1=None).close()
    (tmp_path / "2.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.begin("a", 1)
    checkpoints.close()
    assert os.listdir(tmp_path) == ["1"]


def test_a_signal_at_the_end_of_an_epoch_saves_nothing_twice(tmp_path):
    class Stop(fz.callbacks.ModelCheckpoint):
        def on_epoch_end(self, trainer, epoch, logs):
            super().on_epoch_end(trainer, epoch, logs)
            self.wait()
            self.inode = (tmp_path / "checkpoints" / "2").stat().st_ino
            os.kill(os.getpid(), signal.SIGTERM)

    stop = Stop()
    with pytest.raises(SystemExit):
        fit(trainer(tmp_path), stop, epochs=3)
    assert (tmp_path / "checkpoints" / "2").stat().st_ino == stop.inode
    assert fz.Trainer.load(tmp_path, which="best").step == 2


# --- one step, saved again -------------------------------------------------------------------


def test_the_same_step_is_saved_again_only_if_it_differs(state, tmp_path):
    checkpoints = saved(state, tmp_path, s1=0.5)
    inode = (tmp_path / "1").stat().st_ino
    # Without a score, as after a signal: it has one.
    checkpoints.save(state, 1, {"run": "a"})
    assert (tmp_path / "1").stat().st_ino == inode
    checkpoints.save(state, 1, {"run": "a", "note": "more"})
    assert (tmp_path / "1").stat().st_ino != inode
    assert restore(tmp_path, state)[1]["score"] == 0.5
    # As it was before there were digests.
    change(tmp_path / "1" / "meta" / "metadata", "sha256", ...)
    checkpoints.save(state, 1, {"run": "a"})
    assert restore(tmp_path, state)[1]["score"] == 0.5
    # Of other arrays nobody knows how good they are.
    checkpoints.save(state.replace(step=state.step + 1), 1, {"run": "a"})
    assert restore(tmp_path, state)[1]["score"] is None
    assert os.listdir(tmp_path) == ["1"]


def test_a_trainer_saves_its_run_within_a_fit(tmp_path):
    class Save(fz.callbacks.Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            trainer.save(trainer.run_dir)

    fit(trainer(tmp_path), Save(), fz.callbacks.ModelCheckpoint(), epochs=2)
    assert saved_steps(tmp_path / "checkpoints")[-1] == 4


def test_a_callback_saves_outside_of_a_fit(tmp_path):
    one, keep = fit(trainer(tmp_path)), fz.callbacks.ModelCheckpoint()
    assert keep.save(one) == tmp_path / "checkpoints" / "2"
    assert fz.Trainer.load(tmp_path).step == 2
    # It lets go of the directory.
    with pytest.warns(UserWarning, match="of another run"):
        fz.callbacks.ModelCheckpoint().save(fit(trainer(seed=1, run_dir=tmp_path)))


# --- damage ----------------------------------------------------------------------------------


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


def test_every_flipped_bit_is_told_with_its_file(state, tmp_path):
    saved(state, tmp_path / "c", s1=0.5)
    folder = tmp_path / "c" / "1"
    listed = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(listed) > 5
    for path in listed:
        for place in (0, 0.5, 0.99):
            before = path.read_bytes()
            flip(path, place)
            with pytest.raises(CheckpointError, match=rf"c/1.*{path.relative_to(folder)}"):
                restore(tmp_path / "c", state)
            path.write_bytes(before)
    listed[-1].unlink()
    with pytest.raises(CheckpointError, match=rf"{listed[-1].relative_to(folder)} is missing"):
        restore(tmp_path / "c", state)


def test_a_damaged_checkpoint_gives_way_to_the_next_good_one(state, tmp_path):
    saved(state, tmp_path, s1=0.1, s2=0.9, s3=0.5)
    flip(max((tmp_path / "3" / "state").rglob("*"), key=lambda p: p.stat().st_size * p.is_file()))
    with pytest.warns(UserWarning, match=r"3 is damaged: .*changed.*step 2 is taken instead"):
        assert restore(tmp_path, state)[1]["score"] == 0.9
    shutil.rmtree(tmp_path / "2" / "meta")
    with pytest.warns(UserWarning, match=r"2 is damaged: .*3 is damaged.*step 1 is taken instead"):
        assert restore(tmp_path, state, "best")[1]["score"] == 0.1
    # A step that was asked for has no other in its stead.
    with pytest.raises(CheckpointError, match="3 is damaged"):
        restore(tmp_path, state, 3)
    shutil.rmtree(tmp_path / "1")
    with pytest.raises(CheckpointError, match=r"3 is damaged: .*; .*2 is damaged"):
        restore(tmp_path, state)


def test_a_fragment_is_no_other_run(state, tmp_path):
    saved(state, tmp_path / "c", s1=0.1, s2=0.9)
    shutil.rmtree(tmp_path / "c" / "2" / "meta")
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    with pytest.warns(UserWarning, match=r"2 is damaged: .*it is now .*2\.damaged"):
        checkpoints.begin("a", 1)
    checkpoints.save(state, 2, {"run": "a"})
    checkpoints.close()
    assert os.listdir(tmp_path) == ["c"]
    assert sorted(os.listdir(tmp_path / "c")) == ["1", "2", "2.damaged"]


def test_a_run_keeps_its_past_and_sets_later_steps_apart(state, tmp_path):
    saved(state, tmp_path / "c", s1=0.9, s2=0.1, s3=0.2)
    checkpoints = Checkpoints(tmp_path / "c")
    with pytest.warns(UserWarning, match=r"of later steps than 1, .* in .*c\.1 \(2, 3\)"):
        checkpoints.begin("a", 1)
    checkpoints.close()
    assert saved_steps(tmp_path / "c") == [1]
    assert saved_steps(tmp_path / "c.1") == [2, 3]


@pytest.mark.filterwarnings("ignore:.*it is now .*4.damaged:UserWarning")
def test_a_resumed_run_says_what_it_goes_on_from(tmp_path):
    whole = fit(trainer(tmp_path / "whole"), epochs=3)
    keep = fz.callbacks.ModelCheckpoint(keep=2)
    fit(trainer(tmp_path / "cut"), keep, epochs=2)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "4" / "meta")
    resumed = trainer(tmp_path / "cut")
    with pytest.warns(UserWarning, match=r"4 is damaged: meta/metadata.*step 2 is taken instead"):
        fit(resumed, keep, epochs=3, resume=True)
    assert resumed.history == whole.history


# --- dtypes ----------------------------------------------------------------------------------


def test_a_run_comes_back_in_its_dtypes(tmp_path):
    model = module().init(0)
    half = model.with_variables(jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.variables))
    run = fz.Trainer(half, optimizer="adam", run_dir=tmp_path)
    fit(run, fz.callbacks.ModelCheckpoint())
    loaded = fz.Trainer.load(tmp_path)
    before, after = state_arrays(run.state), state_arrays(loaded.state)
    assert {str(x.dtype) for p, x in after.items() if "kernel" in p} == {"bfloat16"}
    for path, array in before.items():
        assert after[path].dtype == array.dtype, path
        np.testing.assert_array_equal(np.asarray(after[path]), np.asarray(array))


def test_double_precision_is_not_halved_in_silence(state, tmp_path):
    arrays = {path: np.array(x) for path, x in state_arrays(state).items()}
    path = "params/head/fc/kernel"
    files.write(tmp_path, 1, {**arrays, path: arrays[path].astype(np.float64)}, {})
    with pytest.warns(UserWarning, match=rf"{path} was saved in float64 .*jax_enable_x64"):
        restored, _ = restore(tmp_path, state)
    assert state_arrays(restored)[path].dtype == jnp.float32


def test_weights_that_are_not_finite_are_told(state, tmp_path):
    path = "params/head/fc/bias"
    head = {
        **state.params["head"],
        "fc": {**state.params["head"]["fc"], "bias": jnp.full(3, jnp.nan)},
    }
    diverged = state.replace(params={**state.params, "head": head})
    saved(diverged, tmp_path, s1=None)
    with pytest.warns(UserWarning, match=rf"1: {path} holds nan .*the run had diverged"):
        restore(tmp_path, state)
    with pytest.warns(UserWarning, match=rf"{path} holds nan"):
        fz.from_bytes(state, fz.to_bytes(diverged))


def test_bytes_carry_their_digest(state):
    data = fz.to_bytes(state)
    kernel = np.asarray(state.params["head"]["fc"]["kernel"]).tobytes()
    place = data.index(kernel)
    changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
    with pytest.raises(CheckpointError, match=r"serialised state is damaged: .*SHA-256"):
        fz.from_bytes(state, changed)


# --- full disks, threads, fields -------------------------------------------------------------


# Orbax closes its loop before its tasks have ended.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_leaves_the_old_checkpoint(state, tmp_path):
    checkpoints = saved(state, tmp_path, s1=0.5)
    large = state.replace(collections={"c": {"x": np.random.default_rng(0).random(20_000)}})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(
            DataError, match=rf"cannot write checkpoint {tmp_path}/1: File too large"
        ):
            checkpoints.save(large, 1, {"run": "a"})
        with pytest.raises(
            DataError, match=rf"cannot write checkpoint {tmp_path}/2: File too large"
        ):
            checkpoints.save(large, 2, {"run": "a"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert saved_steps(tmp_path) == [1]
    checkpoints.begin("a", 1)
    assert os.listdir(tmp_path) == ["1"]
    assert restore(tmp_path, state)[1]["score"] == 0.5


def test_a_failure_in_the_background_is_told_by_the_next_call(state, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(
            files, "write_json", lambda *args: (_ for _ in ()).throw(OSError(28, "full"))
        )
        checkpoints.save(state, 1, {})
        checkpoints._writer.join()
    with pytest.raises(DataError, match=r"cannot write checkpoint .*1: full"):
        checkpoints.save(state, 2, {})
    checkpoints.save(state, 2, {})
    checkpoints.close()
    assert os.listdir(tmp_path) == ["2"]


def test_what_is_being_written_when_the_interpreter_ends_is_waited_for(
    state, tmp_path, monkeypatch
):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 1, {})
    checkpoint._finish()
    assert os.listdir(tmp_path) == ["1"]
    monkeypatch.setattr(files, "write_json", lambda *args: 1 / 0)
    checkpoints.save(state, 2, {})
    with pytest.warns(UserWarning, match=r"cannot write checkpoint .*2: division by zero"):
        checkpoint._finish()


def test_two_trainers_in_two_threads(tmp_path):
    failures = []

    def train(name):
        try:
            keep = fz.callbacks.ModelCheckpoint(every_steps=1)
            fit(trainer(tmp_path / name, seed=ord(name)), keep, epochs=4)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=train, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for name in "ab":
        alone = fit(trainer(seed=ord(name)), epochs=4)
        both = state_arrays(alone.state), state_arrays(fz.Trainer.load(tmp_path / name).state)
        for path, array in both[0].items():
            np.testing.assert_array_equal(array, both[1][path])


def test_two_runs_in_one_directory_do_not_mix(tmp_path):
    class Other(fz.callbacks.Callback):
        def on_epoch_end(self, one, epoch, logs):
            with pytest.raises(DataError, match="another process is writing checkpoints to"):
                fit(trainer(tmp_path, seed=1), fz.callbacks.ModelCheckpoint())

    first = fit(trainer(tmp_path), Other(), fz.callbacks.ModelCheckpoint())
    assert fz.Trainer.load(tmp_path).run == first.run
    # A later run that has saved nothing has its settings there, but no checkpoint.
    fit(trainer(tmp_path, seed=1))
    with pytest.raises(CheckpointError, match=r"trainer\.json is of another run"):
        fz.Trainer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epoch", "2", r"2: meta/metadata: the entry 'epoch' must be a whole number, got '2'"),
        ("history", None, "'history' must be an object"),
        ("history", {"epochs": [0]}, "'history' is not understood .*metrics"),
        ("history", {"epochs": [0], "metrics": {"loss": []}}, "loss has 0 values for 1 epochs"),
        ("totals", ..., "the entry 'totals' is missing"),
    ],
)
def test_entries_of_meta_are_named(name, value, message, tmp_path):
    fit(trainer(tmp_path), fz.callbacks.ModelCheckpoint())
    path = tmp_path / "checkpoints" / "2" / "meta" / "metadata"
    change(path, name, value)
    with pytest.raises(CheckpointError, match=message):
        fz.Trainer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", None, r"trainer\.json: the entry 'seed' must be a whole number, got 'None'"),
        ("model", {"name": 3}, "'model' is not understood"),
        ("settings", {"loss": {"__kind__": "schedule"}}, r"'settings\.loss' is not understood"),
        ("inputs", {"shape": 3}, "'inputs' is not understood"),
        ("objects", ..., "the entry 'objects' is missing"),
        ("version", 99, "of a later format"),
    ],
)
def test_entries_of_trainer_json_are_named(name, value, message, tmp_path):
    trainer(tmp_path)._write_settings()
    (tmp_path / "checkpoints").mkdir()
    change(tmp_path / "trainer.json", name, value)
    with pytest.raises(CheckpointError, match=message):
        fz.Trainer.load(tmp_path)


def change(path, name, value):
    """Changes an entry of a document and takes its digest away, as one who edits it would."""
    document = json.loads(path.read_text())
    del document["document_sha256"]
    document[name] = value
    if value is ...:
        del document[name]
    path.write_text(json.dumps(document))
