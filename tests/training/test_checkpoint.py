import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import CheckpointError, DataError
from flaxzoo.training.checkpoint import (
    Checkpoints,
    export_safetensors,
    from_bytes,
    restore,
    saved_steps,
    state_arrays,
    to_bytes,
)

SHAPE = (8, 8, 1)


def mlp(features=(16,)):
    return fz.models.get("mlp", num_classes=10, input_shape=SHAPE, features=features, dropout=0.2)


@pytest.fixture
def state(digits):
    train, _ = digits
    state = fz.create_train_state(mlp(), rng=1)
    for _ in range(2):
        state, _ = fz.train_step(state, (train[0][:32], train[1][:32]))
    return state


def test_round_trip(state, tmp_path, assert_trees_equal):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    checkpoints.save(state, 2, {"note": "x"})
    checkpoints.close()
    fresh = fz.create_train_state(mlp(), rng=7)
    restored, meta = restore(tmp_path / "c", fresh)
    assert_trees_equal(restored, state)
    assert meta["note"] == "x"


def test_the_best_and_the_last_are_kept(digits, tmp_path):
    train, _ = digits
    trainer = fz.Trainer(mlp(), run_dir=tmp_path)
    scores = iter([0.3, 0.9, 0.1, 0.2])
    callbacks = [
        fz.callbacks.LambdaCallback(
            on_epoch_end=lambda t, epoch, logs: logs.update(val_score=next(scores))
        ),
        fz.callbacks.ModelCheckpoint(monitor="val_score", keep=2, keep_best=1),
    ]
    trainer.fit(train, epochs=4, callbacks=callbacks, progress=False)
    assert saved_steps(tmp_path / "checkpoints") == [16, 24, 32]
    best = fz.Trainer.load(tmp_path, which="best")
    assert best.step == 16
    assert best.history["val_score"] == [0.3, 0.9]
    assert fz.Trainer.load(tmp_path).step == 32
    assert fz.Trainer.load(tmp_path, which=24).step == 24
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5; it has 16, 24, 32"):
        fz.Trainer.load(tmp_path, which=5)


def test_checkpoints_of_another_run_are_set_aside(digits, tmp_path):
    train, _ = digits

    def run(epochs, trainer=None):
        trainer = trainer or fz.Trainer(mlp(), run_dir=tmp_path)
        callbacks = [fz.callbacks.ModelCheckpoint(keep_best=0)]
        trainer.fit(train, epochs=epochs, callbacks=callbacks, progress=False)
        return trainer

    run(3)
    with pytest.warns(UserWarning, match=r"held checkpoints of another run; .*checkpoints\.1"):
        shorter = run(1)
    assert saved_steps(tmp_path / "checkpoints") == [8]
    assert saved_steps(tmp_path / "checkpoints.1") == [24]
    # Going on with the same trainer moves nothing.
    run(1, shorter)
    assert saved_steps(tmp_path / "checkpoints") == [16]
    # Nor is an explicit save skipped because another trainer was as far.
    other = fz.Trainer(mlp(), seed=1)
    other.fit(train, epochs=2, progress=False)
    with pytest.warns(UserWarning, match=r"another run"):
        other.save(tmp_path)
    loaded = fz.Trainer.load(tmp_path)
    np.testing.assert_array_equal(loaded.history["loss"], other.history["loss"])


def test_resume_from_the_last_step_of_an_epoch(digits, tmp_path):
    """A checkpoint between the last step and the end of the epoch keeps the epoch's metrics."""
    train, _ = digits

    class Stop(fz.callbacks.Callback):
        def on_step_end(self, trainer, step, metrics):
            if step == 8:
                raise RuntimeError("crash")

    def trainer(name):
        return fz.Trainer(mlp(), run_dir=tmp_path / name)

    whole = trainer("whole")
    whole.fit(train, epochs=2, progress=False)
    cut = trainer("cut")
    with pytest.raises(RuntimeError, match="crash"):
        cut.fit(
            train,
            epochs=2,
            callbacks=[fz.callbacks.ModelCheckpoint(every_steps=4), Stop()],
            progress=False,
        )
    resumed = trainer("cut")
    resumed.fit(train, epochs=2, progress=False, resume=True)
    assert resumed.history == whole.history


def test_bytes_and_safetensors(state, tmp_path, assert_trees_equal):
    data = to_bytes(state)
    assert_trees_equal(from_bytes(fz.create_train_state(mlp(), rng=7), data), state)
    with pytest.raises(CheckpointError, match="the bytes are not a serialised state"):
        from_bytes(state, data[:100])
    with pytest.raises(CheckpointError, match="of another shape"):
        from_bytes(fz.create_train_state(mlp((17,))), data)
    path = tmp_path / "weights.safetensors"
    export_safetensors(state, path)
    model = fz.models.get(
        "mlp", num_classes=10, input_shape=SHAPE, features=(16,), dropout=0.2, pretrained=path
    )
    assert_trees_equal(model.variables["params"], state.params)


def listing(directory):
    return sorted(
        (str(p.relative_to(directory)), p.stat().st_size) for p in Path(directory).rglob("*")
    )


def test_a_damaged_checkpoint(state, tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    path = checkpoints.save(state, 2, {})
    checkpoints.close()
    data = max(
        (p for p in (path / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    before = listing(tmp_path)
    with pytest.raises(CheckpointError, match=r"checkpoint .*c/2 is damaged"):
        restore(tmp_path / "c", state)
    assert listing(tmp_path) == before
    (path / "meta" / "metadata").write_text("{")
    with pytest.raises(CheckpointError, match=r"c/2 is damaged: meta/metadata"):
        restore(tmp_path / "c", state)


def test_a_checkpoint_of_another_model(state, tmp_path):
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(state, 2, {})
    checkpoints.close()
    before = listing(tmp_path)
    with pytest.raises(
        CheckpointError,
        match=r"does not fit this model.*of another shape: params/backbone/dense_0",
    ):
        restore(tmp_path / "c", fz.create_train_state(mlp((17,))))
    with pytest.raises(
        CheckpointError, match=r"does not fit this optimizer.*missing from the file: opt_state"
    ):
        restore(tmp_path / "c", fz.create_train_state(mlp(), optimizer="adagrad"))
    assert listing(tmp_path) == before


def test_a_foreign_directory(state, tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        restore(tmp_path, state)
    (tmp_path / "3").mkdir()
    with pytest.raises(CheckpointError, match="is not a flaxzoo checkpoint"):
        restore(tmp_path, state)
    (tmp_path / "3" / "meta").mkdir()
    (tmp_path / "3" / "meta" / "metadata").write_text(json.dumps({"format": "other"}))
    with pytest.raises(CheckpointError, match="is not a flaxzoo checkpoint"):
        restore(tmp_path, state)


def test_an_unwritable_directory(state, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to"):
        Checkpoints(tmp_path / "file" / "c").save(state, 1, {})


def test_resumed_from_mid_epoch_is_bitwise_the_same(digits, tmp_path, assert_trees_equal):
    train, test = digits
    data = (train[0][:200], train[1][:200])

    def run(run_dir, stop_after=None, resume=False):
        trainer = fz.Trainer(mlp(), optimizer="adamw", seed=5, run_dir=run_dir)
        callbacks = [fz.callbacks.EarlyStopping(patience=50), fz.callbacks.ModelCheckpoint()]
        if stop_after is not None:
            callbacks.append(Interrupt(stop_after))
        trainer.fit(
            data,
            epochs=4,
            batch_size=32,
            validation_data=test,
            callbacks=callbacks,
            progress=False,
            resume=resume,
        )
        return trainer

    whole = run(tmp_path / "whole")
    # 7 steps an epoch: in the middle of the second.
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_after=10)
    assert saved_steps(tmp_path / "cut" / "checkpoints")[-1] == 10
    resumed = run(tmp_path / "cut", resume=True)
    assert_trees_equal(state_arrays(resumed.state), state_arrays(whole.state))
    assert resumed.history == whole.history


class Interrupt(fz.callbacks.Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer, step, metrics):
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


SCRIPT = textwrap.dedent(
    """
    import sys
    import flaxzoo as fz

    run_dir, resume = sys.argv[1], sys.argv[2] == "resume"
    train, test = fz.data.load_digits()
    train = (train[0][:330], train[1][:330])
    model = fz.models.get("mlp", input_shape=(8, 8, 1), features=(16,), dropout=0.2)
    trainer = fz.Trainer(model, optimizer="adamw", seed=5, run_dir=run_dir)

    class Slow(fz.callbacks.Callback):
        def on_step_end(self, trainer, step, metrics):
            if len(sys.argv) > 3 and step == 9:
                print("ready", flush=True)
                import time
                while not trainer.stop_training:
                    time.sleep(0.01)
                    if getattr(self, "waited", 0) > 3000:
                        sys.exit(3)
                    self.waited = getattr(self, "waited", 0) + 1
                    import signal
                    if Slow.hit:
                        break

    # The handler of fit runs between bytecodes of the wait; note that it has.
    Slow.hit = False
    from flaxzoo.training import interrupts
    original = interrupts.StopRequest.handle

    def handle(self, number, frame):
        original(self, number, frame)
        Slow.hit = True

    interrupts.StopRequest.handle = handle
    trainer.fit(train, epochs=3, batch_size=50, validation_data=test, resume=resume,
                callbacks=[fz.callbacks.ModelCheckpoint(every_steps=4), Slow()], progress=False)
    fz.training_state = trainer.state
    from flaxzoo.training.checkpoint import to_bytes
    open(run_dir + ".bin", "wb").write(to_bytes(trainer.state))
    """
)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a process that trains."""
    script = tmp_path_factory.mktemp("script") / "train.py"
    script.write_text(SCRIPT)

    def run(*arguments):
        return subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture(scope="module")
def uninterrupted(start, tmp_path_factory):
    """The state at the end of a run that nothing stopped, as bytes."""
    directory = tmp_path_factory.mktemp("whole") / "whole"
    process = start(directory, "fresh")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return directory.with_suffix(".bin").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_process_resumes_bitwise(number, start, uninterrupted, tmp_path):
    process = start(tmp_path / "cut", "fresh", "wait")
    assert process.stdout.readline() == "ready\n"
    if number == signal.SIGKILL:
        # No handler runs; the checkpoint of step 8 is being written in the background.
        deadline = time.time() + 60
        while 8 not in saved_steps(tmp_path / "cut" / "checkpoints") and time.time() < deadline:
            time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    expected = {
        signal.SIGTERM: 128 + signal.SIGTERM,
        signal.SIGINT: 130,
        signal.SIGKILL: -signal.SIGKILL,
    }[number]
    assert process.returncode in (expected, -number), err
    saved = saved_steps(tmp_path / "cut" / "checkpoints")
    if number == signal.SIGKILL:
        assert saved[-1] == 8
    else:
        assert saved[-1] == 9
        assert f"Stopped by {number.name}. Step 9 is saved in" in out
    process = start(tmp_path / "cut", "resume")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert (tmp_path / "cut.bin").read_bytes() == uninterrupted


def test_flax_serialization_works_on_the_state(state, assert_trees_equal):
    from flax import serialization

    data = serialization.to_bytes(state)
    fresh = fz.create_train_state(mlp(), rng=9)
    assert_trees_equal(jax.tree.map(np.asarray, serialization.from_bytes(fresh, data)), state)


def test_the_best_of_a_resumed_run_is_kept(digits, tmp_path):
    train, _ = digits
    scores = iter([0.9, 0.1, 0.2, 0.3])

    def fit(epochs, resume):
        trainer = fz.Trainer(mlp(), run_dir=tmp_path)
        callbacks = [
            fz.callbacks.LambdaCallback(
                on_epoch_end=lambda t, epoch, logs: logs.update(val_score=next(scores))
            ),
            fz.callbacks.ModelCheckpoint(monitor="val_score", every_steps=4),
        ]
        trainer.fit(train, epochs=epochs, callbacks=callbacks, progress=False, resume=resume)
        return trainer

    fit(2, resume=False)
    trainer = fit(4, resume=True)
    assert saved_steps(tmp_path / "checkpoints") == [8, 32]
    assert fz.Trainer.load(tmp_path, which="best").step == 8
    assert fz.Trainer.load(tmp_path).history == trainer.history
    # An explicit save adds to the run's own checkpoints.
    trainer.save(tmp_path)
    assert saved_steps(tmp_path / "checkpoints") == [8, 32]
    assert fz.Trainer.load(tmp_path, which="best").step == 8


def test_resume_from_a_directory_of_the_callbacks(digits, tmp_path):
    train, _ = digits

    def fit(epochs):
        trainer = fz.Trainer(mlp())
        callbacks = [fz.callbacks.ModelCheckpoint(directory=tmp_path / "elsewhere")]
        trainer.fit(train, epochs=epochs, callbacks=callbacks, progress=False, resume=True)
        return trainer

    fit(1)
    assert fit(2).history.epochs == [0, 1]
    assert saved_steps(tmp_path / "elsewhere") == [16]


def test_a_stopped_run_stays_stopped(digits, tmp_path):
    train, _ = digits

    def fit():
        trainer = fz.Trainer(mlp(), run_dir=tmp_path)
        callbacks = [
            fz.callbacks.EarlyStopping("loss", patience=0, min_delta=100.0),
            fz.callbacks.ModelCheckpoint(),
        ]
        trainer.fit(train, epochs=9, callbacks=callbacks, progress=False, resume=True)
        return trainer

    assert fit().history.epochs == [0, 1]
    assert fit().history.epochs == [0, 1]


def test_a_checkpoint_of_another_device_is_read_here(tmp_path):
    script = tmp_path / "save.py"
    script.write_text(
        "import jax, sys, flaxzoo as fz\n"
        "from flaxzoo.training.checkpoint import Checkpoints\n"
        "with jax.default_device(jax.devices()[1]):\n"
        "    model = fz.models.get('mlp', input_shape=(4,), features=(3,))\n"
        "    state = fz.create_train_state(model)\n"
        "checkpoints = Checkpoints(sys.argv[1])\n"
        "checkpoints.save(state, 1, {})\n"
        "checkpoints.close()\n"
    )
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, str(script), str(tmp_path / "c")], check=True, env=environment)
    state = fz.create_train_state(fz.models.get("mlp", input_shape=(4,), features=(3,)), rng=3)
    restored, _ = restore(tmp_path / "c", state)
    kernel = restored.params["backbone"]["dense_0"]["kernel"]
    assert kernel.devices() == {jax.devices()[0]}
    assert not np.array_equal(kernel, state.params["backbone"]["dense_0"]["kernel"])
