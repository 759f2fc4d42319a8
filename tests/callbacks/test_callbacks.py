from __future__ import annotations

import contextlib
import io
import json
import math
import os
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from flaxzoo import callbacks
from flaxzoo.callbacks import base
from flaxzoo.errors import ArgumentError, FlaxzooError, UnknownNameError
from flaxzoo.training.history import History


@struct.dataclass
class State:
    params: dict
    batch_stats: dict
    opt_state: tuple
    step: jax.Array


class Metrics(dict):
    """A stand-in for a metric collection: scalar arrays by name."""

    def compute(self):
        return {name: float(value) for name, value in self.items()}

    def merge(self, other):
        return Metrics({name: self[name] + other[name] for name in self})


jax.tree_util.register_pytree_node(
    Metrics, lambda m: (tuple(m.values()), tuple(m)), lambda k, v: Metrics(zip(k, v, strict=True))
)


class Trainer:
    def __init__(self, run_dir=None, **params):
        params = params or {"w": jnp.zeros(2)}
        self.state = State({"backbone": params}, {"mean": jnp.zeros(1)}, (), jnp.array(0))
        self.run_dir = run_dir
        self.stop_training = False
        self.step = 0
        self.epochs = 3
        self.steps_per_epoch = 2
        self.learning_rate = 0.5


def run_epochs(callback, trainer, values, name="val_loss", start=0):
    """Runs epochs with these values of a metric; returns the number of epochs run."""
    for epoch, value in enumerate(values, start):
        callback.on_epoch_begin(trainer, epoch)
        callback.on_epoch_end(trainer, epoch, {"loss": 1.0, name: value})
        if trainer.stop_training:
            break
    return epoch + 1


@pytest.mark.parametrize(
    ("kwargs", "values", "epochs"),
    [
        ({"patience": 0}, [3, 2, 2, 1], 3),
        ({"patience": 1}, [3, 2, 2, 1, 1, 1], 6),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.6, 2.4, 2.3, 2.2], 5),
        ({"patience": 1, "baseline": 1.0}, [3, 2, 0.5], 2),
        ({"patience": 0}, [3, math.nan, 1], 2),
        ({"patience": 0, "mode": "max"}, [1, 2, 3, 2, 5], 4),
        ({"patience": 0, "monitor": "val_accuracy"}, [0.1, 0.2, 0.15], 3),
    ],
)
def test_early_stopping(kwargs, values, epochs):
    callback, trainer = callbacks.EarlyStopping(**kwargs), Trainer()
    callback.on_train_begin(trainer)
    name = kwargs.get("monitor", "val_loss")
    assert run_epochs(callback, trainer, values, name) == epochs
    if trainer.stop_training:
        assert callback.stopped_epoch == epochs - 1
    callback.on_train_begin(trainer)
    assert callback.best is None


def test_early_stopping_restores_the_best_state():
    callback, trainer = callbacks.EarlyStopping(patience=5, restore_best=True), Trainer()
    callback.on_train_begin(trainer)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    for epoch, value in enumerate([3.0, 1.0, 2.0]):
        trainer.state = step(trainer.state)
        callback.on_epoch_end(trainer, epoch, {"val_loss": value})
    callback.on_train_end(trainer)
    np.testing.assert_array_equal(trainer.state.params["backbone"]["w"], [2, 2])
    np.testing.assert_array_equal(trainer.state.batch_stats["mean"], [2])
    assert int(trainer.state.step) == 3
    assert callback.best_epoch == 1
    trainer.state = step(trainer.state)  # The restored arrays may be donated in turn.
    callback.on_train_begin(trainer)
    callback.on_train_end(trainer)


def test_early_stopping_goes_on_after_a_resume():
    first, trainer = callbacks.EarlyStopping(patience=2, restore_best=True), Trainer()
    first.on_train_begin(trainer)
    run_epochs(first, trainer, [3.0, 1.0, 2.0])
    saved = json.loads(json.dumps(first.state_dict()))
    for order in ("before", "after"):
        second, trainer = callbacks.EarlyStopping(patience=2, restore_best=True), Trainer()
        if order == "before":
            second.load_state_dict(saved)
        second.on_train_begin(trainer)
        if order == "after":
            second.load_state_dict(saved)
        assert run_epochs(second, trainer, [2.0, 2.0, 2.0], start=3) == 5
        assert trainer.stop_training
        assert second.best_epoch == 1
        with pytest.warns(UserWarning, match="cannot restore epoch 1"):
            second.on_train_end(trainer)


def test_early_stopping_errors():
    with pytest.raises(callbacks.CallbackError, match=r"'quality' does not tell .* mode='max'"):
        callbacks.EarlyStopping("quality")
    with pytest.raises(ArgumentError, match="mode must be one of 'auto', 'min', 'max', got 'down'"):
        callbacks.EarlyStopping(mode="down")
    with pytest.raises(ArgumentError, match="patience must be an int of at least 0, got -1"):
        callbacks.EarlyStopping(patience=-1)
    with pytest.raises(ArgumentError, match="min_delta must be a finite number of at least 0"):
        callbacks.EarlyStopping(min_delta=-0.1)
    callback = callbacks.EarlyStopping("val_acc")
    with pytest.raises(UnknownNameError, match=r"'val_acc'.*: loss, val_accuracy\. Did you"):
        callback.on_epoch_end(Trainer(), 0, {"loss": 1.0, "val_accuracy": 1.0})
    with pytest.raises(UnknownNameError, match=r"metrics: loss\. Names with val_ need validation"):
        callback.on_epoch_end(Trainer(), 0, {"loss": 1.0})


def test_modes():
    for name in ("loss", "val_loss", "rmse", "perplexity", "mean_absolute_error"):
        assert callbacks.infer_mode(name) == "min", name
    larger = ("accuracy", "val_top_k_accuracy", "auc_pr", "r2", "f1", "fbeta", "cosine_similarity")
    for name in (*larger, "recall"):
        assert callbacks.infer_mode(name) == "max", name
    assert callbacks.infer_mode("learning_rate") is None


def read_csv(path):
    return path.read_text().splitlines()


def test_csv_logger(tmp_path):
    trainer, callback = Trainer(tmp_path / "run"), callbacks.CSVLogger()
    callback.on_train_begin(trainer)
    before = os.umask(0o027)
    callback.on_epoch_end(trainer, 0, {"loss": 0.1 + 0.2, "accuracy": 1})
    os.umask(before)
    assert (tmp_path / "run" / "history.csv").stat().st_mode & 0o777 == 0o640
    callback.on_epoch_end(trainer, 1, {"accuracy": np.float32(0.5), "loss": math.nan})
    callback.on_epoch_end(trainer, 2, {"loss": 1.0, "accuracy": 0.25, "val_loss": 2.0})
    callback.on_epoch_end(trainer, 3, {"loss": 1.0})
    assert read_csv(tmp_path / "run" / "history.csv") == [
        "epoch,loss,accuracy,val_loss",
        "0,0.30000000000000004,1.0,",
        "1,nan,0.5,",
        "2,1.0,0.25,2.0",
        "3,1.0,,",
    ]
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["history.csv"]


def test_csv_logger_resumes_and_starts_anew(tmp_path):
    path, trainer = tmp_path / "h.csv", Trainer()

    def run(start, stop):
        callback = callbacks.CSVLogger(path)
        callback.on_train_begin(trainer)
        for epoch in range(start, stop):
            callback.on_epoch_end(trainer, epoch, {"loss": float(10 * start + epoch)})

    run(0, 4)
    path.write_text(path.read_text() + "4,0.")  # The run died in the middle of a row.
    run(2, 4)
    assert read_csv(path) == ["epoch,loss", "0,0.0", "1,1.0", "2,22.0", "3,23.0"]
    run(0, 1)
    assert read_csv(path) == ["epoch,loss", "0,0.0"]


def test_csv_logger_errors(tmp_path):
    with pytest.raises(callbacks.CallbackError, match="CSVLogger has nowhere to write"):
        callbacks.CSVLogger().on_train_begin(Trainer())
    (tmp_path / "file").write_text("")
    callback = callbacks.CSVLogger(tmp_path / "file" / "h.csv")
    callback.on_train_begin(Trainer())
    with pytest.raises(FlaxzooError, match=r"cannot write .*h\.csv: "):
        callback.on_epoch_end(Trainer(), 0, {"loss": 1.0})


def test_learning_rate_monitor():
    trainer, logs = Trainer(), {"loss": 1.0}
    callbacks.LearningRateMonitor().on_epoch_end(trainer, 0, logs)
    assert logs == {"loss": 1.0, "learning_rate": 0.5}
    trainer.learning_rate, logs = None, {}
    callbacks.LearningRateMonitor().on_epoch_end(trainer, 0, logs)
    assert logs == {}


def test_lambda_callback():
    calls = []
    hooks = [n for n in vars(callbacks.Callback) if n.startswith("on_")]
    callback = callbacks.LambdaCallback(
        **{name: lambda *a, name=name: calls.append((name, *a)) for name in hooks}
    )
    arguments = {
        "on_train_begin": ("t",),
        "on_train_end": ("t",),
        "on_epoch_begin": ("t", 1),
        "on_epoch_end": ("t", 1, {}),
        "on_step_end": ("t", 1, Metrics()),
        "on_validation_end": ("t", 1, {}),
    }
    for name in hooks:
        getattr(callback, name)(*arguments[name])
    assert calls == [(name, *arguments[name]) for name in hooks]
    callbacks.LambdaCallback().on_epoch_end(None, 0, {})
    with pytest.raises(callbacks.CallbackError, match="on_step_end must be a function, got 3"):
        callbacks.LambdaCallback(on_step_end=3)
    with pytest.raises(TypeError, match="on_batch_end"):
        callbacks.LambdaCallback(on_batch_end=print)


def steps(callback, trainer, losses, *, params=None):
    """Runs one epoch of these batch losses; params maps a step to the parameters after it."""
    callback.on_train_begin(trainer)
    for step, loss in enumerate(losses, 1):
        new = (params or {}).get(step)
        if new is not None:
            trainer.state = trainer.state.replace(params=new)
        callback.on_step_end(trainer, step, Metrics(loss=jnp.float32(loss), n=jnp.int32(1)))
        if trainer.stop_training:
            return step
    callback.on_epoch_end(trainer, 0, {"loss": float(np.mean(losses))})
    return len(losses)


def quiet(call, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **kwargs)


def test_terminate_on_nan_lets_good_training_pass():
    callback, trainer = callbacks.TerminateOnNaN(), Trainer()
    assert steps(callback, trainer, [1.0, 2.0, 3.0]) == 3
    assert callback.report is None
    assert not trainer.stop_training


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_terminate_on_nan_names_metric_and_step(value):
    callback, trainer = callbacks.TerminateOnNaN(), Trainer()
    with pytest.warns(UserWarning, match=r"stopped at step 2: loss is (nan|inf); all parameters"):
        assert steps(callback, trainer, [1.0, value, 1.0, 1.0]) == 3
    assert callback.report.step == 2
    assert set(callback.report.metrics) == {"loss"}
    assert callback.report.groups == ()


def test_terminate_on_nan_reads_the_last_step_at_the_epochs_end():
    callback, trainer = callbacks.TerminateOnNaN(), Trainer()
    quiet(steps, callback, trainer, [1.0, math.nan])
    assert callback.report.step == 2
    assert trainer.stop_training


def test_terminate_on_nan_names_the_parameter_group():
    good = {"conv_0": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}, "conv_1": {"bias": jnp.ones(1)}}
    bad = {**good, "conv_1": {"bias": jnp.array([jnp.nan])}}
    trainer = Trainer(**good)
    callback = callbacks.TerminateOnNaN(raise_error=True)
    with pytest.raises(FloatingPointError, match="step 2: parameters are not finite in") as caught:
        steps(callback, trainer, [1, 1, math.nan], params={2: {"backbone": bad, "head": good}})
    assert isinstance(caught.value, FlaxzooError)
    assert caught.value.report.groups == ("backbone/conv_1",)
    assert trainer.stop_training
    callback = callbacks.TerminateOnNaN(check_params=False)
    trainer.stop_training = False
    quiet(steps, callback, trainer, [1, 1, math.nan, 1])
    assert callback.report.step == 3
    assert callback.report.groups == ()


def test_terminate_on_nan_looks_at_the_validation_loss():
    callback, trainer = callbacks.TerminateOnNaN(), Trainer()
    callback.on_train_begin(trainer)
    callback.on_step_end(trainer, 7, Metrics(loss=jnp.float32(1)))
    quiet(callback.on_epoch_end, trainer, 0, {"loss": 1.0, "val_loss": math.nan})
    assert callback.report.step == 7
    assert "val_loss is nan" in str(callback.report)


def test_terminate_on_nan_ignores_infinities_that_a_metric_keeps():
    class Minimum(Metrics):
        def compute(self):
            return {"loss": 1.0}

    jax.tree_util.register_pytree_node(
        Minimum,
        lambda m: (tuple(m.values()), tuple(m)),
        lambda k, v: Minimum(zip(k, v, strict=True)),
    )
    callback, trainer = callbacks.TerminateOnNaN(), Trainer()
    callback.on_train_begin(trainer)
    for step in (1, 2):
        callback.on_step_end(trainer, step, Minimum(low=jnp.float32(math.inf)))
    callback.on_epoch_end(trainer, 0, {"loss": 1.0})
    assert callback.report is None


def test_terminate_on_nan_compiles_once():
    from flaxzoo.callbacks import nonfinite

    nonfinite._finite_flags.clear_cache()
    steps(callbacks.TerminateOnNaN(), Trainer(), [1.0] * 5)
    assert nonfinite._finite_flags._cache_size() == 1


def test_progress_table():
    out, trainer = io.StringIO(), Trainer()
    callback = callbacks.ProgressBar(file=out)
    callback.on_train_begin(trainer)
    for epoch in range(2):
        callback.on_epoch_begin(trainer, epoch)
        callback.on_step_end(trainer, epoch + 1, Metrics(loss=jnp.float32(1)))
        callback.on_epoch_end(trainer, epoch, {"loss": 1.25, "learning_rate": 1e-5})
    callback.on_epoch_begin(trainer, 2)
    callback.on_epoch_end(trainer, 2, {"loss": 1.25, "val_loss": math.nan})
    callback.on_train_end(trainer)
    lines = out.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0].split() == ["epoch", "seconds", "loss", "learning_rate"]
    assert lines[1].split()[::2] == ["1/3", "1.2500"]
    assert lines[1].split()[3] == "1.00e-05"
    assert len({len(line) for line in lines[:3]}) == 1
    assert lines[3].split()[-1] == "val_loss"
    assert lines[4].split()[-1] == "nan"


def test_progress_bar_shows_running_sums(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    with contextlib.redirect_stderr(screen):
        callback, trainer = callbacks.ProgressBar(interval=0.0, table=False), Trainer()
        callback.on_train_begin(trainer)
        callback.on_epoch_begin(trainer, 0)
        for step in (1, 2):
            callback.on_step_end(trainer, step, Metrics(loss=jnp.float32(step)))
        callback.on_train_end(trainer)
    shown = screen.getvalue()
    assert "epoch 1/3" in shown
    assert "2/2" in shown
    assert "loss=1" in shown


def test_bar_is_off_without_a_terminal(capsys):
    callback, trainer = callbacks.ProgressBar(table=False), Trainer()
    callback.on_epoch_begin(trainer, 0)
    callback.on_step_end(trainer, 1, Metrics(loss=jnp.float32(1)))
    callback.on_epoch_end(trainer, 0, {"loss": 1.0})
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_module_names():
    for name in callbacks.__all__:
        assert getattr(callbacks, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        _ = callbacks.Nope
    assert callbacks.Callback().state_dict() == {}


def test_a_callback_for_progress_takes_the_default_ones_place():
    class Dots(callbacks.Callback):
        role = "progress"

    assert [type(c) for c in base.CallbackList((), ["progress"])._all] == [callbacks.ProgressBar]
    assert [type(c) for c in base.CallbackList(Dots(), ["progress"])._all] == [Dots]
    assert base.CallbackList([Dots(), callbacks.ProgressBar(bar=False)])._all[1].bar is False


def test_what_saves_the_run_comes_after_the_history():
    calls = []

    class Saving(callbacks.Callback):
        saves_run = True

        def on_epoch_end(self, trainer, epoch, logs):
            calls.append(("saving", list(trainer.history)))

        def checkpoint_directory(self, trainer):
            return "here"

    class Adding(callbacks.Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            calls.append(("adding", list(trainer.history)))

    trainer = SimpleNamespace(history=History())
    called = base.CallbackList([Saving(), Adding()])
    called.epoch_end(trainer, 0, {"loss": 1.0})
    assert calls == [("adding", []), ("saving", ["loss"])]
    assert called.checkpoint_directory(trainer) == "here"
    assert called.interrupted(trainer) is None
    assert not called.watches_steps
    steps = callbacks.LambdaCallback(on_step_end=print)
    assert base.CallbackList([Saving(), steps]).watches_steps
    assert not base.CallbackList(callbacks.ModelCheckpoint()).watches_steps
    assert base.CallbackList(callbacks.ModelCheckpoint(every_steps=2)).watches_steps


def test_methods_that_nothing_calls_or_that_take_other_arguments_are_refused():
    class Batches(callbacks.Callback):
        def on_batch_end(self, batch, logs=None):
            """As in Keras."""

    class Epochs(callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            """As in Keras."""

    class Fine(callbacks.Callback):
        def on_epoch_end(self, trainer, epoch, logs, extra=None):
            """Takes what it gets."""

        def on_click(self):
            """Somebody's own."""

    base.CallbackList([Fine(), callbacks.LambdaCallback(on_step_end=print)])
    with pytest.raises(
        FlaxzooError, match=r"Batches.on_batch_end is called by nothing. 'on_batch_"
    ):
        base.CallbackList([Batches()])
    with pytest.raises(
        FlaxzooError, match=r"Epochs.on_epoch_end must take \(trainer, epoch, logs\)"
    ):
        base.CallbackList([Epochs()])
    for wrong, said in ((callbacks.CSVLogger, "make one, CSVLogger"), ("csv", "has classes")):
        with pytest.raises(TypeError, match=said):
            base.CallbackList([wrong])
