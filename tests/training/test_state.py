"""States by Flax's constructor and from the shape of an example."""

from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from clu import metrics as clu_metrics
from flax.core import freeze
from flax.training import train_state

import flaxzoo as fz
from flaxzoo.errors import ArgumentError, ShapeError, UninitializedError

BATCH = np.linspace(0, 1, 24, dtype=np.float32).reshape(6, 4), np.arange(6) % 2


class Net(nn.Module):
    """Has statistics."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(3)(x))
        return nn.Dense(2)(x)


@flax.struct.dataclass
class Metrics(clu_metrics.Collection):
    accuracy: clu_metrics.Accuracy
    loss: clu_metrics.Average.from_output("loss")


@pytest.fixture(scope="module")
def variables():
    return Net().init(jax.random.key(0), BATCH[0])


def create(variables, **options):
    options = {"tx": optax.sgd(0.1), "params": variables["params"], **options}
    return fz.TrainState.create(apply_fn=Net().apply, **options)


def test_flaxs_constructor_makes_what_create_train_state_makes(variables, assert_trees_equal):
    tx = optax.sgd(0.1)
    expected = fz.create_train_state(fz.Model(Net(), variables), optimizer=tx)
    for state in (
        create(variables, tx=tx, batch_stats=variables["batch_stats"]),
        create(variables, tx=tx, params=variables),
        create(variables, tx=tx, params=freeze(variables)),
    ):
        assert_trees_equal(state, expected)
    new, metrics = fz.train_step(state, BATCH)
    assert set(metrics.compute()) == {"loss"}
    assert int(new.step) == 1
    assert not np.array_equal(
        new.batch_stats["BatchNorm_0"]["mean"], state.batch_stats["BatchNorm_0"]["mean"]
    )


def test_a_subclass_has_fields_of_its_own(variables):
    class State(fz.TrainState):
        temperature: Any = None

    state = State.create(
        apply_fn=Net().apply, params=variables, tx="adam", temperature=2.0, metrics=["accuracy"]
    )
    new, metrics = fz.train_step(state, BATCH)
    assert isinstance(new, State)
    assert float(new.temperature) == 2.0
    assert set(metrics.compute()) == {"loss", "accuracy"}


@pytest.mark.parametrize("metrics", [Metrics, Metrics.empty()])
def test_a_collection_of_clu_has_its_own_names(variables, metrics):
    ours = create(variables, params=variables, metrics=["accuracy"])
    state = create(variables, params=variables, metrics=metrics)
    new, values = fz.train_step(state, BATCH)
    expected = fz.train_step(ours, BATCH)[1].compute()
    assert values.compute() == pytest.approx(expected)
    half = [fz.eval_step(new, tuple(x[rows] for x in BATCH)) for rows in (slice(2), slice(2, 6))]
    assert half[0].merge(half[1]).compute() == pytest.approx(fz.eval_step(new, BATCH).compute())


def test_what_a_state_lacks_is_said(variables):
    with pytest.raises(TypeError, match=r"apply_fn must be the apply of a flax.linen.Module"):
        fz.TrainState.create(apply_fn=lambda v, x: x, params={}, tx=optax.sgd(0.1))
    with pytest.raises(UninitializedError, match="Net needs the collection 'batch_stats'"):
        fz.train_step(create(variables), BATCH)
    flaxs = train_state.TrainState.create(
        apply_fn=Net().apply, params=variables["params"], tx=optax.sgd(0.1)
    )
    with pytest.raises(TypeError, match=r"TrainState of Flax: flaxzoo.TrainState.create\("):
        fz.train_step(flaxs, BATCH)
    for field in ("loss", "rng"):
        with pytest.raises(ValueError, match=f"the state has no {field}: make it with"):
            fz.eval_step(create(variables, params=variables).replace(**{field: None}), BATCH)


def test_a_module_takes_the_shape_of_an_example(assert_trees_equal):
    state = fz.create_train_state(Net(), input_shape=(4,))
    assert_trees_equal(state, fz.create_train_state(Net(), inputs=BATCH[0]))
    with pytest.raises(ArgumentError, match="inputs and input_shape say the same"):
        fz.create_train_state(Net(), inputs=BATCH[0], input_shape=(4,))
    with pytest.raises(ArgumentError, match=r"for a single one write \(4,\)"):
        fz.create_train_state(Net(), input_shape=4)
    with pytest.raises(ShapeError, match="or input_shape= to create_train_state"):
        fz.create_train_state(Net())
