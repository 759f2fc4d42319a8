"""The moving average of the parameters (``ema_decay``)."""

import jax
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo.optimizers.averaging import AverageState


def small(**options):
    model = fz.models.get("mlp", input_shape=(4,), features=(8,), num_classes=3)
    return fz.create_train_state(model, optimizer="adamw", ema_decay=0.9, **options)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 4)).astype(np.float32), rng.integers(0, 3, 8).astype(np.int32)


@pytest.mark.parametrize("accumulate_steps", [1, 2])
@pytest.mark.parametrize("freeze", [None, "backbone"])
def test_the_average_is_the_recursion(accumulate_steps, freeze, batch):
    state = small(accumulate_steps=accumulate_steps, freeze=freeze, clip_norm=1.0)
    mean, updates = jax.tree.map(np.asarray, state.params), 0
    for call in range(12):
        state, _ = fz.train_step(state, batch)
        if (call + 1) % accumulate_steps == 0:
            decay = min(0.9, (1 + updates) / (10 + updates))
            updates += 1
            mean = jax.tree.map(lambda m, p, d=decay: d * m + (1 - d) * p, mean, state.params)
    evaluated = state.eval_variables["params"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), mean, evaluated)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), evaluated, state.params)
    assert moved["head"]["fc"]["kernel"]
    assert moved["backbone"]["dense_0"]["kernel"] is (freeze is None)


def test_frozen_parameters_have_no_average():
    state = small(freeze="backbone")
    found = [
        node
        for node in jax.tree.leaves(
            state.opt_state, is_leaf=lambda node: isinstance(node, AverageState)
        )
        if isinstance(node, AverageState)
    ]
    sizes = [leaf.size for leaf in jax.tree.leaves(found[0].mean)]
    assert sum(sizes) == sum(leaf.size for leaf in jax.tree.leaves(state.params["head"]))


def test_training_itself_is_as_without(batch):
    with_average = small()
    model = fz.models.get("mlp", input_shape=(4,), features=(8,), num_classes=3)
    without = fz.create_train_state(model, optimizer="adamw")
    for _ in range(3):
        with_average, _ = fz.train_step(with_average, batch)
        without, _ = fz.train_step(without, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
        with_average.params,
        without.params,
    )


def test_the_trainer_predicts_with_the_average(batch):
    model = fz.models.get("mlp", input_shape=(4,), features=(8,), num_classes=3)
    trainer = fz.Trainer(model, learning_rate=0.1, ema_decay=0.99)
    trainer.fit(batch, epochs=3, batch_size=4, progress=False)
    averaged = trainer.state.eval_variables
    np.testing.assert_allclose(
        trainer.predict(batch[0]), model.module.apply(averaged, batch[0]), rtol=1e-5, atol=1e-6
    )


def test_half_precision_averages_in_float32():
    tx = fz.optimizers.get("sgd", ema_decay=0.5)
    params = {"kernel": jax.numpy.ones((2,), jax.numpy.bfloat16)}
    state = tx.init(params)
    assert state.mean["kernel"].dtype == np.float32
    assert fz.optimizers.eval_params(state, params)["kernel"].dtype == jax.numpy.bfloat16


def test_config_round_trip():
    tx = fz.optimizers.get("adamw", ema_decay=0.99)
    assert fz.optimizers.from_config(tx.config) is tx


@pytest.mark.parametrize("value", [1.0, -0.1, float("nan")])
def test_out_of_range(value):
    with pytest.raises(ValueError, match=r"ema_decay must be a number in \[0, 1\)"):
        fz.optimizers.get("adam", ema_decay=value)


def test_two_averages_are_refused():
    with pytest.raises(ValueError, match="an average of its own"):
        fz.optimizers.get("schedule_free_adamw", ema_decay=0.9)
    base = fz.optimizers.get("schedule_free_adamw")
    with pytest.raises(ValueError, match="an average of its own"):
        fz.optimizers.as_optimizer(base, ema_decay=0.9)


def test_around_a_built_transformation(batch):
    model = fz.models.get("mlp", input_shape=(4,), features=(8,), num_classes=3)
    state = fz.create_train_state(model, optimizer=optax.sgd(0.1), ema_decay=0.5)
    state, _ = fz.train_step(state, batch)
    assert isinstance(state.opt_state, AverageState)
