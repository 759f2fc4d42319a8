import os
import signal
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import checkify

import flaxzoo as fz
from flaxzoo.data.batch import Batch
from flaxzoo.errors import DataError, ShapeError
from flaxzoo.training import compiled
from flaxzoo.training.batch_groups import Group, in_groups, one_of, size_of, take_rows

SHAPE = (8, 8, 1)


def mlp(**config):
    config = {"num_classes": 10, "input_shape": SHAPE, "features": (16,), **config}
    return fz.models.get("mlp", **config)


def assert_close(a, b, atol=1e-6):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=atol, rtol=1e-5)


def fit(data, steps_per_call, *, model=None, epochs=2, batch_size=16, callbacks=(), **options):
    fit_options = {k: options.pop(k) for k in ("steps_per_epoch", "resume") if k in options}
    trainer = fz.Trainer(
        model if model is not None else mlp(dropout=0.2), steps_per_call=steps_per_call, **options
    )
    trainer.fit(
        data,
        epochs=epochs,
        batch_size=batch_size,
        progress=False,
        callbacks=callbacks,
        **fit_options,
    )
    return trainer


class Calls(fz.callbacks.Callback):
    """Keeps what on_step_end sees."""

    def __init__(self, due=()):
        self.due = due
        self.steps, self.losses = [], []

    def on_step_end(self, trainer, step, metrics):
        assert trainer.step == step == int(trainer.state.step)
        self.steps.append(step)
        self.losses.append(metrics.compute()["loss"])

    def due_at(self, step):
        return step in self.due


@pytest.fixture(scope="module")
def single(digits):
    """Fifteen steps per epoch, one by one."""
    calls = Calls()
    return fit(digits[0], 1, callbacks=[calls]), calls


def test_train_steps_is_train_step_again_and_again(digits):
    train, _ = digits
    state = fz.create_train_state(mlp(dropout=0.2, norm="batch"), metrics=("accuracy",))
    batches = tuple(x[:96].reshape(3, 32, *x.shape[1:]) for x in train)
    kept = jax.tree.map(np.asarray, state)
    expected, total = state, fz.metrics.MetricCollection.empty()
    for batch in zip(*batches, strict=True):
        expected, metrics = fz.train_step(expected, batch)
        total = total.merge(metrics)
    found, metrics = fz.train_steps(state, batches)
    assert_close(found, expected)
    assert metrics.compute() == pytest.approx(total.compute(), rel=1e-5)
    assert int(found.step) == 3
    # The state of before stays usable, and mappings and device arrays do as well.
    assert_close(state, kept, atol=0)
    named = {"image": batches[0], "label": jnp.asarray(batches[1])}
    assert_close(fz.train_steps(state, named)[0], found)


def test_train_steps_weighs_examples(digits):
    train, _ = digits
    state = fz.create_train_state(mlp())
    weight = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.float32)
    images, labels = (x[:8].reshape(2, 4, *x.shape[1:]) for x in train)
    found, metrics = fz.train_steps(state, (images, labels, weight))
    expected, first = fz.train_step(state, (images[0], labels[0], weight[0]))
    expected, second = fz.train_step(expected, (images[1], labels[1], weight[1]))
    assert_close(found, expected)
    assert metrics.compute() == pytest.approx(first.merge(second).compute(), rel=1e-5)


def test_train_steps_refuses(digits):
    images, labels = (x[:8].reshape(2, 4, *x.shape[1:]) for x in digits[0])
    state = fz.create_train_state(mlp())
    with pytest.raises(ShapeError, match=r"arrays \[K, B, ...\].* got \[2, 4, 8, 8, 1\], \[8\]"):
        fz.train_steps(state, (images, labels.ravel()))
    with pytest.raises(ShapeError, match="the same K"):
        fz.train_steps(state, (images, labels[:1]))
    with pytest.raises(ShapeError, match="one batch at least"):
        fz.train_steps(state, (images[:0], labels[:0]))
    with pytest.raises(ShapeError, match="leading axes of a batch"):
        fz.train_steps(state, (images, labels[:, :3]))
    with pytest.raises(DataError, match="nan"):
        fz.train_steps(state, (images * np.nan, labels))
    with pytest.raises(DataError, match="10"):
        fz.train_steps(state, (images, labels + 10))
    with pytest.raises(DataError, match="no targets"):
        fz.train_steps(state, images)
    with pytest.raises(TypeError, match="create_train_state"):
        fz.train_steps(None, (images, labels))


class Growing(nn.Module):
    """Keeps one number more at each training step."""

    @nn.compact
    def __call__(self, x, *, train=False):
        seen = self.variable("cache", "seen", lambda: jnp.zeros(1))
        if train:
            seen.value = jnp.zeros(len(seen.value) + 1)
        return nn.Dense(10)(x.reshape(len(x), -1))


def test_a_state_that_changes_its_shape_is_refused(digits):
    images, labels = (x[:8].reshape(2, 4, *x.shape[1:]) for x in digits[0])
    state = fz.create_train_state(Growing(), inputs=images[0])
    with pytest.raises(ValueError, match=r"a step changes .*seen.*: use one step per call"):
        fz.train_steps(state, (images, labels))


@pytest.mark.parametrize("steps_per_call", [0, -1, 2.0, True, "4", None])
def test_bad_number_of_steps(steps_per_call):
    with pytest.raises(ValueError, match="steps_per_call must be an int of at least 1"):
        fz.Trainer(mlp(), steps_per_call=steps_per_call)


def test_fit_gives_the_numbers_of_single_steps(digits, single):
    one, ones = single
    before = compiled.fit_step._cache_size(), compiled.fit_steps._cache_size()
    calls = Calls()
    several = fit(digits[0], np.int64(4), callbacks=[calls])
    assert_close(several.state, one.state)
    for name, values in one.history.metrics.items():
        assert several.history[name] == pytest.approx(values, rel=1e-6)
    # Three groups of four and three single steps: nothing but the group is compiled.
    assert calls.steps == [4, 8, 12, 13, 14, 15, 19, 23, 27, 28, 29, 30]
    assert compiled.fit_step._cache_size() == before[0]
    assert compiled.fit_steps._cache_size() == before[1] + 1
    # Of one call the callbacks see the metrics of all its batches.
    assert calls.losses[0] == pytest.approx(np.mean(ones.losses[:4]), rel=1e-5)
    assert calls.losses[3] == pytest.approx(ones.losses[12], rel=1e-5)


def test_every_form_of_data(digits):
    train, _ = digits
    images, labels = train

    def source():
        return ((images[i : i + 16], labels[i : i + 16]) for i in range(0, 240, 16))

    expected = fit(source, 1).state
    for data in (
        source,
        list(source()),
        [jax.tree.map(jnp.asarray, batch) for batch in source()],
        [{"image": x, "label": y} for x, y in source()],
        fz.data.ArrayDataset(train, 16, shuffle=False),
    ):
        assert_close(fit(data, 4).state, expected)


def test_steps_per_epoch_over_the_data(digits):
    assert_close(
        fit(digits[0], 4, steps_per_epoch=10).state, fit(digits[0], 1, steps_per_epoch=10).state
    )


def test_a_short_last_batch(digits):
    train = tuple(x[:100] for x in digits[0])
    calls = Calls()
    # Filled up, it is like all others, and the end of a group.
    assert_close(fit(train, 7, callbacks=[calls]).state, fit(train, 1).state)
    assert calls.steps == [7, 14]
    # As it is, it cannot be in a group.
    batches = [tuple(x[i : i + 16] for x in train) for i in range(0, 100, 16)]
    mean = lambda logits, labels: optax.softmax_cross_entropy_with_integer_labels(  # noqa: E731
        logits, labels
    ).mean()
    calls = Calls()
    several = fit(batches, 3, loss=mean, callbacks=[calls])
    assert_close(several.state, fit(batches, 1, loss=mean).state)
    assert calls.steps == [3, 6, 7, 10, 13, 14]


def test_more_steps_than_an_epoch_has(digits):
    calls = Calls()
    fit(digits[0], 100, callbacks=[calls])
    assert calls.steps == [15, 30]


def test_a_callback_that_is_due_ends_a_call(digits, single):
    one, ones = single
    calls = Calls(due=(6, 7))
    several = fit(digits[0], 4, callbacks=[calls], epochs=1)
    assert calls.steps == [4, 5, 6, 7, 11, 15]
    assert calls.losses[2:4] == pytest.approx(ones.losses[5:7], rel=1e-5)
    assert several.history["loss"] == pytest.approx(one.history["loss"][:1], rel=1e-6)


def test_resumes_bitwise_in_mid_epoch(digits, tmp_path, assert_trees_equal):
    train, _ = digits

    class Crash(Calls):
        def on_step_end(self, trainer, step, metrics):
            super().on_step_end(trainer, step, metrics)
            if step > 24:
                raise RuntimeError("crash")

    def run(name, *callbacks, **options):
        saving = fz.callbacks.ModelCheckpoint(every_steps=6)
        return fit(
            train, 4, run_dir=tmp_path / name, callbacks=[saving, *callbacks], epochs=2, **options
        )

    calls = Calls()
    whole = run("whole", calls)
    assert {6, 12, 15, 18, 24, 30} <= set(calls.steps)
    crash, after = Crash(), Calls()
    with pytest.raises(RuntimeError, match="crash"):
        run("cut", crash)
    resumed = run("cut", after, resume=True)
    assert after.steps[0] > 24
    assert [s for s in crash.steps if s <= 24] + after.steps == calls.steps
    assert_trees_equal(resumed.state.params, whole.state.params)
    assert_trees_equal(resumed.state.opt_state, whole.state.opt_state)
    assert resumed.history == whole.history
    loaded = fz.Trainer.load(tmp_path / "whole")
    assert loaded.steps_per_call == 4
    assert fz.Trainer.load(tmp_path / "whole", steps_per_call=2).steps_per_call == 2
    assert_trees_equal(loaded.state.params, whole.state.params)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_a_call_is_resumed_bitwise(digits, tmp_path, number, assert_trees_equal):
    # Step 19 is in the middle of the second epoch, after its first call.
    class Interrupt(Calls):
        def on_step_end(self, trainer, step, metrics):
            super().on_step_end(trainer, step, metrics)
            if step == 19:
                os.kill(os.getpid(), number)

    whole, before, after = Calls(), Interrupt(), Calls()
    expected = fit(digits[0], 4, callbacks=[whole])
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(digits[0], 4, callbacks=[before], run_dir=tmp_path)
    resumed = fit(digits[0], 4, callbacks=[after], run_dir=tmp_path, resume=True)
    assert before.steps + after.steps == whole.steps
    assert_trees_equal(jax.tree.leaves(resumed.state), jax.tree.leaves(expected.state))
    assert resumed.history.metrics == expected.history.metrics


def test_a_callback_may_change_the_state_in_place(digits):
    def double(trainer, step, metrics):
        if step == 8:
            head = trainer.state.params["head"]["fc"]
            head["kernel"] = head["kernel"] * 2
            seen.append(np.array(head["kernel"]))
        elif step == 12:
            seen.append(np.array(trainer.state.params["head"]["fc"]["kernel"]))

    seen = []
    callback = fz.callbacks.LambdaCallback(on_step_end=double)
    fit(digits[0], 4, epochs=1, optimizer="sgd", learning_rate=0.0, callbacks=[callback])
    np.testing.assert_array_equal(*seen)


def test_stops_after_a_call(digits):
    stop = fz.callbacks.LambdaCallback(
        on_step_end=lambda trainer, step, metrics: setattr(trainer, "stop_training", step >= 6)
    )
    assert fit(digits[0], 4, callbacks=[stop]).step == 8


def test_nan_is_found(digits):
    images, labels = digits[0]
    callback = fz.callbacks.TerminateOnNaN()
    with pytest.warns(UserWarning, match="training stopped at step 4"):
        fit((images, labels), 4, optimizer="sgd", learning_rate=1e38, callbacks=[callback])
    assert callback.report.step == 4


@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_debug_nans_raises(digits, steps_per_call):
    def run():
        fit(digits[0], steps_per_call, optimizer="sgd", learning_rate=1e38)

    # What has been compiled outside donates its arguments, which are to be looked at again here.
    run()
    with fz.debug.nans(), pytest.raises(FloatingPointError, match="nan"):
        run()


def test_checkify_looks_into_the_steps(digits):
    images, labels = (x[:8].reshape(2, 4, *x.shape[1:]) for x in digits[0])
    state = fz.create_train_state(mlp())
    checked = jax.jit(checkify.checkify(fz.train_steps, errors=checkify.nan_checks))
    error, (found, _) = checked(state, (images, labels))
    assert error.get() is None
    assert_close(found, fz.train_steps(state, (images, labels))[0])
    # The second batch is the bad one.
    images = images.copy()
    images[1, 0] = np.nan
    error, _ = checked(state, (images, labels))
    assert "nan generated" in error.get()


@pytest.mark.parametrize("unit", ["step", "epoch"])
def test_gradual_unfreezing(digits, unit):
    def run(steps_per_call):
        when = 6 if unit == "step" else 1
        unfreeze = fz.callbacks.GradualUnfreezing({0: "backbone", when: None}, unit=unit)
        return fit(digits[0], steps_per_call, callbacks=[unfreeze])

    several, one = run(4), run(1)
    assert several.state.frozen == one.state.frozen == frozenset()
    assert_close(several.state.params, one.state.params)


def test_weights_and_a_filled_up_batch(digits):
    images, labels = (x[:100] for x in digits[0])
    data = (images, labels, np.linspace(0, 1, 100, dtype=np.float32))
    several, one = fit(data, 3), fit(data, 1)
    assert_close(several.state, one.state)
    assert several.history["loss"] == pytest.approx(one.history["loss"], rel=1e-6)


def test_a_cnn_with_batch_norm(digits):
    # Strides, pooling and running statistics inside the scan.
    cnn = fz.models.get("cnn", num_classes=10, input_shape=SHAPE, features=(4, 8), batch_norm=True)
    several, one = (fit(digits[0], k, model=cnn, epochs=1, batch_size=32) for k in (3, 1))
    assert_close(several.state.params, one.state.params, atol=1e-4)
    assert_close(several.state.batch_stats, one.state.batch_stats, atol=1e-4)


DEVICES = """
import jax, numpy as np, flaxzoo as fz
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

mesh = Mesh(np.array(jax.devices()), ("data",))
x = np.random.default_rng(0).normal(size=(5, 8, 4)).astype(np.float32)
y = (x[..., 0] > 0).astype(np.int32)
split = NamedSharding(mesh, P("data"))
batches = [jax.device_put((a, b), split) for a, b in zip(x, y)]
assert len(batches[0][0].devices()) == 2

def fit(k, data):
    model = fz.models.get("mlp", input_shape=(4,), features=(3,), num_classes=2)
    trainer = fz.Trainer(model, steps_per_call=k)
    trainer.build(x[0])
    trainer.state = jax.device_put(trainer.state, NamedSharding(mesh, P()))
    trainer.fit(data, epochs=2, progress=False)
    kernel = trainer.state.params["head"]["fc"]["kernel"]
    assert len(kernel.devices()) == 2, kernel.sharding
    assert trainer.step == 10
    return np.asarray(kernel)

one = fit(1, list(zip(x, y)))
for k in (1, 2):
    np.testing.assert_allclose(fit(k, batches), one, atol=1e-6)
np.testing.assert_allclose(fit(2, list(zip(x, y))), one, atol=1e-6)
"""


def test_several_devices():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    subprocess.run([sys.executable, "-c", DEVICES], check=True, env=environment)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate_steps": 3, "clip_norm": 1.0},
        {"freeze": "backbone"},
        {"freeze": "backbone", "freeze_batch_norm": True, "model": "batch"},
        {"optimizer": "schedule_free_adamw", "model": "batch"},
        {"augment": lambda key, batch: batch._replace(
            inputs=batch.inputs + 0.1 * jax.random.normal(key, batch.inputs.shape))},
    ],
    ids=["accumulate", "freeze", "freeze_norm", "averages", "augment"],
)  # fmt: skip
def test_every_kind_of_step(digits, options):
    model = mlp(norm="batch") if options.pop("model", None) else None
    several, one = (fit(digits[0], k, model=model, epochs=1, **options) for k in (5, 1))
    assert_close(several.state, one.state, atol=1e-5)


def test_an_autoencoder(digits):
    coder = fz.models.get("autoencoder", input_shape=SHAPE)
    several, one = (fit(digits[0][0], k, model=coder, epochs=1) for k in (5, 1))
    assert_close(several.state.params, one.state.params, atol=1e-5)


def test_in_groups():
    batches = [Batch(np.full((2, 3), i)) for i in range(7)] + [Batch(np.zeros((1, 3)))]
    items = list(in_groups(batches, 3, lambda done: done != 0))
    assert [size_of(item) for item in items] == [1, 3, 3, 1]
    assert isinstance(items[1], Group)
    np.testing.assert_array_equal(items[1].batch.inputs[:, 0, 0], [1, 2, 3])
    assert one_of(items[1].batch).inputs.shape == (2, 3)
    # From any place that it stops at, it goes on alike.
    rest = list(in_groups(batches[4:], 3, lambda done: True))
    assert [size_of(item) for item in rest] == [3, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.int64, bool])
def test_rows_are_taken_into_aligned_memory(dtype, rng):
    array = rng.integers(0, 2, (50, 3, 5)).astype(dtype)
    rows = rng.integers(0, 50, (2, 7))
    taken = take_rows(array, rows)
    np.testing.assert_array_equal(taken, array[rows])
    assert taken.dtype == dtype
    assert taken.ctypes.data % 64 == 0
    assert take_rows(array[:, :0], rows).shape == (2, 7, 0, 5)
