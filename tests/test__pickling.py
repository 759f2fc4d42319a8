"""Models, states and trainers go through pickle, copy and cloudpickle, into other processes."""

import copy
import functools
import pickle
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo._pickling import packed, unpacked

X = np.random.default_rng(0).random((8, 4), np.float32)
Y = np.arange(8) % 3


def again(value):
    return pickle.loads(pickle.dumps(value))


def mlp(**config):
    return fz.models.get("mlp", num_classes=3, input_shape=(4,), features=(5,), **config)


class Net(nn.Module):
    """Fields hold what initialisers are made by, and a function of JAX's under jit."""

    kernel: object = jax.nn.initializers.he_normal()
    activation: object = nn.silu

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, kernel_init=self.kernel)(self.activation(x))


def squared(outputs, targets):
    return (outputs - targets) ** 2


def test_functions_that_others_make():
    he = unpacked(packed(jax.nn.initializers.he_normal()))
    expected = jax.nn.initializers.he_normal()(jax.random.key(0), (4, 4))
    np.testing.assert_array_equal(he(jax.random.key(0), (4, 4)), expected)
    for function in (jnp.tanh, nn.relu, nn.gelu, jax.nn.softmax, np.tanh, squared, nn.Dense):
        assert unpacked(packed(function)) is function
    tx = optax.chain(optax.clip(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 10)))
    tx = optax.multi_transform({"a": tx, "b": optax.set_to_zero()}, {"x": "a", "y": "b"})
    params = {"x": jnp.ones(2), "y": jnp.ones(2)}
    results = [t.update(params, t.init(params), params)[0] for t in (tx, unpacked(packed(tx)))]
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_a_function_that_holds_itself_and_has_defaults():
    def countdown(n, *, step=1):
        return [n, *countdown(n - step, step=step)] if n > 0 else []

    assert unpacked(packed(countdown))(3) == [3, 2, 1]
    wrapped = functools.wraps(squared)(lambda a, b=2: a + b)
    copied = unpacked(packed(wrapped))
    assert (copied(1), copied.__name__, copied.__wrapped__) == (3, "squared", squared)


def test_what_cannot_be_pickled_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    scope = {}
    exec("f = lambda outputs, targets: (outputs - targets) ** 2", scope)
    model = mlp().init(0)
    for value in (
        fz.create_train_state(model, loss=scope["f"]),
        fz.Trainer(model, loss=scope["f"]),
        fz.losses.as_loss(scope["f"]),
    ):
        with pytest.raises(pickle.PicklingError, match=r"'<lambda>'.*def.*cloudpickle.*save"):
            pickle.dumps(value)
    with pytest.raises(pickle.PicklingError, match="compiled function.*save"):
        packed(jax.jit(lambda x: x))
    # Copies share their functions.
    loss = fz.losses.as_loss(scope["f"])
    for trainer in (fz.Trainer(model, loss=scope["f"]), fz.Trainer(model, loss=loss)):
        for copied in (copy.deepcopy(trainer), copy.copy(trainer)):
            assert copied.state.loss.function is scope["f"]
            assert copied.state is not trainer.state
    assert copy.copy(trainer.state).params is trainer.state.params
    assert copy.copy(model).variables is not None


@pytest.mark.parametrize(
    "model",
    [
        lambda: mlp(activation=nn.relu),
        lambda: fz.Model(Net(), spec=mlp().spec),
        lambda: fz.Model(nn.Sequential([nn.Dense(4), nn.silu, nn.Dense(3)]), spec=mlp().spec),
    ],
    ids=["zoo", "own", "sequential"],
)
@pytest.mark.parametrize("how", [again, copy.deepcopy])
def test_models(model, how, assert_trees_equal):
    model = model()
    assert how(model).variables is None
    model = model.init(0)
    other = how(model)
    assert_trees_equal(other.variables, model.variables)
    assert other.spec == model.spec
    np.testing.assert_array_equal(other(X), model(X))
    # Not the same arrays.
    before, after = (jax.tree.leaves(m.variables)[0] for m in (model, other))
    assert before.unsafe_buffer_pointer() != after.unsafe_buffer_pointer()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"freeze": "backbone"},
        {"learning_rate": {"*": 1e-3, "head": 1e-2}, "clip_norm": 1.0, "freeze": "backbone"},
        {"optimizer": optax.adam(1e-3)},
        {"optimizer": optax.adamw, "learning_rate": 1e-3},
        {"learning_rate": fz.schedules.get("cosine", total_steps=9), "loss": "huber"},
        {"loss": squared, "metrics": ["mae"]},
    ],
    ids=["adam", "frozen", "rates", "optax", "factory", "schedule", "function"],
)
def test_states(options, assert_trees_equal):
    soft = "loss" in options
    batch = (X, np.eye(3, dtype=np.float32)[Y] if soft else Y)
    state, _ = fz.train_step(fz.create_train_state(mlp().init(0), **options), batch)
    copies = again(state), copy.deepcopy(state)
    expected, metrics = fz.train_step(state, batch)
    for other in copies:
        other, found = fz.train_step(other, batch)
        jax.tree.map(
            np.testing.assert_array_equal, jax.tree.leaves(other), jax.tree.leaves(expected)
        )
        assert found.compute() == metrics.compute()
    if options.keys() <= {"freeze", "clip_norm", "learning_rate"}:
        # What is made by names is the same object again, and compiled steps are shared.
        assert jax.tree.structure(copies[0]) == jax.tree.structure(state)


@pytest.mark.parametrize("how", [again, copy.deepcopy])
def test_trainers(how, tmp_path):
    trainer = fz.Trainer(mlp(), optimizer="adamw", metrics=["accuracy"], run_dir=tmp_path)
    # Before there is a state as well.
    assert how(trainer).state is None
    trainer.fit((X, Y), epochs=2, batch_size=4, progress=False)
    other = how(trainer)
    assert (other.step, other.history.to_json()) == (4, trainer.history.to_json())
    histories = [
        t.fit((X, Y), epochs=1, batch_size=4, progress=False).to_json() for t in (trainer, other)
    ]
    assert histories[0] == histories[1]
    jax.tree.map(np.testing.assert_array_equal, trainer.state.params, other.state.params)


def test_a_subclass_keeps_what_it_adds():
    class_ = type("Other", (fz.Trainer,), {"__module__": __name__})
    globals()["Other"] = class_
    trainer = Other(mlp().init(0))  # noqa: F821
    trainer.note = "mine"
    assert (type(again(trainer)), again(trainer).note) == (class_, "mine")


@pytest.mark.filterwarnings("ignore:cosine_similarity is 1")
def test_every_loss():
    for name in fz.losses.list():
        try:
            loss = fz.losses.get(name)
        except fz.errors.UnknownArgumentError:
            continue
        assert repr(again(loss)) == repr(loss)


def test_schedules_and_metrics():
    for name in fz.schedules.list():
        options = {"total_steps": 9} if fz.schedules.needs_total_steps(name) else {}
        try:
            schedule = fz.schedules.get(name, **options)
        except (fz.errors.FlaxzooError, ValueError):
            continue
        assert float(again(schedule)(3)) == float(schedule(3))
    metric = fz.metrics.get("f1", average="macro", num_classes=3)
    assert again(metric) == metric


def test_cloudpickle():
    cloudpickle = pytest.importorskip("cloudpickle")
    model = mlp().init(0)
    other = pickle.loads(cloudpickle.dumps(model))
    np.testing.assert_array_equal(other(X), model(X))
    scope = {}
    exec("f = lambda outputs, targets: ((outputs - targets) ** 2).mean(-1)", scope)
    state = fz.create_train_state(model, loss=scope["f"])
    batch = (X, np.eye(3, dtype=np.float32)[Y])
    losses = [fz.train_step(s, batch)[1].compute() for s in (state, again(state))]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_spawned_worker_takes_a_model_and_a_trainer(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(
        """if True:
        import multiprocessing, numpy as np
        import flaxzoo as fz
        def work(args):
            model, trainer, x = args
            return np.asarray(model(x)), trainer.predict(x), trainer.step
        if __name__ == "__main__":
            x = np.random.default_rng(0).random((4, 6), np.float32)
            model = fz.models.get("mlp", num_classes=3, input_shape=(6,), features=(5,)).init(0)
            trainer = fz.Trainer(model)
            trainer.fit((x, np.arange(4) % 3), batch_size=2, progress=False)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                (outputs, predicted, step), = pool.map(work, [(model, trainer, x)])
            np.testing.assert_array_equal(outputs, model(x))
            np.testing.assert_array_equal(predicted, trainer.predict(x))
            assert step == 2
        """
    )
    subprocess.run([sys.executable, script], check=True, timeout=120)
