"""The plan of a run on eight devices: ``test_sharding.py`` runs it."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import flaxzoo as fz
from flaxzoo._meshes import with_auto_axes
from flaxzoo.training import sharding_rules
from flaxzoo.training.collectives import collectives

DATA = np.zeros((64, 32), np.float32), np.zeros(64, np.int32)


@pytest.fixture(autouse=True)
def small_leaves_divide(monkeypatch):
    monkeypatch.setattr(sharding_rules, "MIN_SIZE", 64)


def trainer(**options):
    model = fz.models.get("mlp", num_classes=8, features=(64, 64), input_shape=(32,))
    return fz.Trainer(model, optimizer="adam", learning_rate=1e-3, **options)


def on_first(tree):
    """Bytes of a tree that lie on the first device."""
    shards = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(tree)]
    return sum(shard.nbytes for shard in shards)


@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_the_plan_is_what_lies_on_each_device(sharding):
    run = trainer(devices="all", sharding=sharding)
    plan = run.plan(DATA, batch_size=64, compiled=True)
    assert (plan.devices, plan.mesh, plan.batch, plan.per_device_batch) == (8, {"data": 8}, 64, 8)
    state = run.build()
    assert plan.bytes["parameters"] == on_first(state.params)
    assert plan.bytes["optimizer"] == on_first(state.opt_state)
    assert plan.bytes["batch"] == (64 * 32 + 64) * 4 // 8
    alone = trainer().plan(DATA, batch_size=64)
    assert plan.bytes["activations"] == alone.bytes["activations"] / 8
    whole, part = alone.bytes["parameters"], plan.bytes["parameters"]
    small = 4 * sum(np.prod(p.shape) for p in plan.parameters if not any(p.divided))
    assert part == (whole if sharding == "replicated" else (whole - small) / 8 + small)


def test_a_batch_that_the_devices_do_not_divide_is_filled_up():
    plan = trainer(devices="all").plan(DATA, batch_size=30, compiled=True)
    assert (plan.batch, plan.per_device_batch) == (32, 4)
    # Inputs, labels and the weights of what fills it up.
    assert plan.bytes["batch"] == (32 * 32 + 32 + 32) * 4 // 8
    assert trainer(devices="all").plan(batch_size=30).batch == 32


def test_data_parallel_steps_sum_gradients_once():
    """Twice the parameters, but for one share of eight: a ring's all-reduce."""
    plan = trainer(devices="all").plan(DATA, batch_size=64, compiled=True)
    assert {one.kind for one in plan.traffic} == {"all-reduce"}
    sent = sum(one.sent for one in plan.traffic)
    gradients = 2 * 7 / 8 * plan.bytes["gradients"]
    # Metrics are a few numbers more.
    assert gradients <= sent <= gradients + 200


def test_fsdp_steps_fetch_what_is_divided():
    plan = trainer(devices="all", sharding="fsdp").plan(DATA, batch_size=64, compiled=True)
    assert "all-gather" in {one.kind for one in plan.traffic}
    assert "divided along data" in str(plan)
    assert "all-gather" in str(plan)


def test_operations_of_programs_are_those_that_they_must_be():
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    auto = with_auto_axes(mesh)

    def of(function, inputs, outputs, *shapes):
        def lie(*axes):
            return jax.sharding.NamedSharding(auto, PartitionSpec(*axes))

        places = [lie(*axes) for axes in inputs]
        jitted = jax.jit(function, in_shardings=places, out_shardings=lie(*outputs))
        arrays = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
        return [
            (o.kind, o.size, o.devices, o.count)
            for o in collectives(jitted.lower(*arrays).compile())
        ]

    x, w = (16, 32), (32, 64)
    assert of(lambda x: x.sum(0), [("data",)], (), x) == [("all-reduce", 128, 4, 1)]
    assert of(lambda x: x * 2, [("data",)], (), x) == [("all-gather", 2048, 4, 1)]
    assert of(lambda x: x * 2, [(("data", "model"),)], (), x) == [("all-gather", 2048, 8, 1)]
    product = of(lambda x, w: x @ w, [("data", "model"), ("model",)], ("data",), x, w)
    assert product == [("all-reduce", 1024, 2, 1)]

    def loop(x, w):
        return jax.lax.scan(lambda c, _: (jax.numpy.tanh(c @ w) @ w.T, None), x, length=5)[0]

    assert of(loop, [("data",), (None, "model")], ("data",), x, w) == [("all-reduce", 512, 2, 5)]
