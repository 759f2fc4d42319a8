import functools
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo.errors import ArgumentError, UnknownArgumentError, UnknownNameError
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.stages import depths_of
from flaxzoo.training.freezing import freeze
from flaxzoo.training.param_groups import group_rates
from flaxzoo.training.rates import layer_decay_rates, rate_entries

RNG = np.random.default_rng(0)
PARAMS = {
    "backbone": {
        "conv_0": {"kernel": RNG.normal(size=(3, 2)), "bias": RNG.normal(size=2)},
        "conv_1": {"kernel": RNG.normal(size=(2, 2))},
    },
    "head": {"fc": {"kernel": RNG.normal(size=(2, 3)), "bias": RNG.normal(size=3)}},
}
PARAMS = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), PARAMS)
GRADS = [
    jax.tree.map(lambda x: jnp.asarray(RNG.normal(size=x.shape), jnp.float32), PARAMS)
    for _ in range(3)
]
LABELS = {
    "backbone": {"conv_0": {"kernel": "b", "bias": "b"}, "conv_1": {"kernel": "b"}},
    "head": {"fc": {"kernel": "h", "bias": "h"}},
}


def run(tx, grads=GRADS):
    """The parameters after one update per gradient."""

    @jax.jit
    def go(params):
        state = tx.init(params)
        for g in grads:
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return params

    return go(PARAMS)


def close(a, b, rtol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7), a, b)


RATES = {"*": 1e-2, "head": 1e-1}


@pytest.mark.parametrize(
    ("name", "options"),
    [("adamw", {"weight_decay": 0.1}), ("sgd", {"momentum": 0.9}), ("lion", {"b1": 0.8})],
)
def test_each_group_is_optimized_by_itself(name, options):
    everywhere = {"weight_decay_mask": lambda params: jax.tree.map(lambda _: True, params)}
    factory = getattr(optax, name)
    theirs = {"b": factory(1e-2, **options), "h": factory(1e-1, **options)}
    ours = group_rates(name, PARAMS, RATES, **options, **everywhere)
    close(run(ours), run(optax.multi_transform(theirs, LABELS)))


def test_the_rate_is_all_that_differs():
    """Groups of one rate are the plain optimizer; of two, the updates scale."""
    plain = run(fz.optimizers.get("adam", learning_rate=1e-2), GRADS[:1])
    same = run(group_rates("adam", PARAMS, {"*": 1e-2, "head": 1e-2}), GRADS[:1])
    close(plain, same)
    double = run(group_rates("adam", PARAMS, {"*": 1e-2, "head": 2e-2}), GRADS[:1])
    moved = jax.tree.map(lambda a, b: a - b, plain["head"], PARAMS["head"])
    twice = jax.tree.map(lambda a, b: a - b, double["head"], PARAMS["head"])
    close(jax.tree.map(lambda x: 2 * x, moved), twice, rtol=1e-3)
    close(double["backbone"], plain["backbone"])


def test_clipping_is_by_the_norm_over_all_groups():
    tx = group_rates("sgd", PARAMS, RATES, clip_norm=0.5)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(GRADS[0])))
    rates = jax.tree.map(lambda label: {"b": 1e-2, "h": 1e-1}[label], LABELS)
    expected = jax.tree.map(lambda p, g, r: p - r * g * 0.5 / norm, PARAMS, GRADS[0], rates)
    close(run(tx, GRADS[:1]), expected)


def test_a_factory_of_ones_own_is_told_when_it_is_divided():
    def clipped(learning_rate):
        return optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(learning_rate))

    with pytest.warns(UserWarning, match="'clipped' is not one of .* each of 2 groups"):
        tx = group_rates(clipped, PARAMS, {"*": 1.0, "head": 2.0})
    after = run(tx, GRADS[:1])
    for group, rate in (("backbone", 1.0), ("head", 2.0)):
        moved = jax.tree.map(lambda a, b: a - b, after[group], PARAMS[group])
        assert float(optax.tree.norm(moved)) == pytest.approx(0.5 * rate, rel=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group_rates(clipped, PARAMS, {"*": 1.0, "head": 1.0})
        group_rates("sgd", PARAMS, RATES, clip_norm=0.5)
        group_rates(optax.sgd, PARAMS, RATES, clip_norm=0.5)


def test_what_is_frozen_is_not_in_the_norm():
    tx = freeze(group_rates("sgd", PARAMS, RATES, clip_norm=0.5), PARAMS, "*/conv_0")
    kept = {"c": GRADS[0]["backbone"]["conv_1"], "h": GRADS[0]["head"]}
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(kept)))
    after = run(tx, GRADS[:1])
    before, gradient = (t["backbone"]["conv_1"]["kernel"] for t in (PARAMS, GRADS[0]))
    close(after["backbone"]["conv_1"]["kernel"], before - 1e-2 * gradient * 0.5 / norm)
    np.testing.assert_array_equal(
        after["backbone"]["conv_0"]["bias"], PARAMS["backbone"]["conv_0"]["bias"]
    )


def test_groups_accumulate_and_average_in_step():
    tx = group_rates("sgd", PARAMS, RATES, accumulate_steps=2, ema_decay=0.5)
    state = tx.init(PARAMS)
    assert isinstance(state, optax.MultiStepsState)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *GRADS[:2])
    once = run(group_rates("sgd", PARAMS, RATES), [mean])
    close(run(tx, GRADS[:2]), once)
    _, state = tx.update(GRADS[0], state, PARAMS)
    _, state = tx.update(GRADS[1], state, PARAMS)
    # The first update weighs the average by min(0.5, 1 / 10).
    expected = jax.tree.map(lambda p, q: 0.1 * p + 0.9 * q, PARAMS, once)
    close(fz.optimizers.eval_params(state, once), expected)


def test_schedules_and_their_names():
    schedule = fz.schedules.get("linear", peak_value=1.0, end_value=0.0, total_steps=4)
    tx = group_rates(
        "sgd",
        PARAMS,
        {"*": 0.5, "head": schedule, "*/conv_1": "linear"},
        schedule_options={"peak_value": 2.0, "end_value": 0.0},
        total_steps=4,
    )
    after = run(tx)
    total = jax.tree.map(lambda *g: g[0] + 0.75 * g[1] + 0.5 * g[2], *GRADS)
    close(after["head"], jax.tree.map(lambda p, g: p - g, PARAMS["head"], total["head"]), 1e-5)
    kernel, gradient = (t["backbone"]["conv_1"]["kernel"] for t in (PARAMS, total))
    close(after["backbone"]["conv_1"]["kernel"], kernel - 2 * gradient, 1e-5)
    assert tx.learning_rate(2) == 0.5


def test_which_entry_counts():
    paths = ["backbone/conv_0/kernel", "backbone/conv_0/bias", "head/kernel"]
    found = rate_entries(paths, {"*": 1, "backbone": 2, "*/bias": 3})
    assert list(found.values()) == ["backbone", "*/bias", "*"]
    assert rate_entries(paths, {"backbone": 2, "*/bias": 3, "*": 1}) == found
    assert set(rate_entries(paths, {"!head": 1})) == set(paths[:2])
    with pytest.raises(ValueError, match=r"'\*/bias' is for nothing.*general ones first"):
        rate_entries(paths, {"*/bias": 3, "backbone": 2})
    with pytest.raises(UnknownNameError, match=r"learning_rate 'hed' matches.*'head'"):
        rate_entries(paths, {"hed": 1})
    with pytest.raises(TypeError, match="a pattern must be text, got 0"):
        rate_entries(paths, {0: 1})
    with pytest.raises(ValueError, match="no entries"):
        rate_entries(paths, {})


@pytest.mark.parametrize(
    ("optimizer", "rates", "error", "match"),
    [
        ("sgd", {"head": 0.1}, UnknownNameError, r"no entry for backbone/conv_0.*add '\*'"),
        ("sgd", {"*": -1.0}, ArgumentError, r"learning_rate\['\*'\] must be a finite number"),
        ("sgd", {"*": None}, ArgumentError, r"learning_rate\['\*'\] must be a finite number"),
        ("sgd", {"*": "cosinee"}, UnknownNameError, "unknown schedule 'cosinee'"),
        (optax.sgd(0.1), {"*": 0.1}, UnknownArgumentError, "pass a name or a factory"),
        ("dpsgd", {"*": 0.1, "head": 1.0}, ValueError, "it takes one learning rate"),
    ],
)
def test_errors(optimizer, rates, error, match):
    private = {"l2_norm_clip": 1.0, "noise_multiplier": 0.1, "seed": 0}
    options = private if optimizer == "dpsgd" else {}
    with pytest.raises(error, match=match):
        group_rates(optimizer, PARAMS, rates, **options)


def test_equal_rates_give_the_same_optimizer():
    def make():
        return group_rates("adam", PARAMS, dict(RATES), clip_norm=1.0)

    assert make() is make()
    assert make() is not group_rates("adam", PARAMS, RATES)


@pytest.fixture(scope="module")
def model():
    config = {"input_shape": (6,), "features": (5, 4), "num_classes": 3, "norm": "batch"}
    return fz.models.get("mlp", **config).init()


def test_layer_decay_by_stage(model):
    rates = layer_decay_rates(model, 0.1, 0.5)
    assert rates == {
        "backbone/dense_0": 0.025,
        "backbone/norm_0": 0.025,
        "backbone/dense_1": 0.05,
        "backbone/norm_1": 0.05,
        "head": 0.1,
    }
    schedule = fz.schedules.get("linear", peak_value=1.0, end_value=0.0, total_steps=4)
    assert layer_decay_rates(model, schedule, 0.5)["backbone/dense_1"](2) == 0.25
    with pytest.raises(ValueError, match=r"layer_decay must be a number in \(0, 1\], got 1.5"):
        layer_decay_rates(model, 0.1, 1.5)
    with pytest.raises(ValueError, match="learning_rate must be a finite number of at least 0"):
        layer_decay_rates(model, -0.1, 0.5)


def test_layer_decay_of_a_resnet():
    rates = layer_decay_rates(fz.models.get("resnet18"), 1.0, 0.9)
    assert rates["head"] == 1.0
    assert rates["backbone/layer4_1"] == pytest.approx(0.9)
    assert rates["backbone/layer4_0"] == pytest.approx(0.81)
    # Eight blocks, the stem and the head.
    assert rates["backbone/conv1"] == rates["backbone/bn1"] == pytest.approx(0.9**9)


class Normed(Backbone):
    """Patches, a layer that belongs with the next, and a norm that belongs with the head."""

    @nn.nowrap
    def parts(self):
        for name in ("embed", "down", "block"):
            depth = "block" if name == "down" else None
            yield Part(name, functools.partial(nn.Dense, 3), takes="vectors", depth=depth)
        yield Part("norm", nn.LayerNorm, takes="vectors", depth="head")


def test_stages_of_one_depth_have_one_rate():
    net = fz.Model(fz.Classifier(Normed(), fz.models.Head(2))).init(0, np.ones((1, 3)))
    assert depths_of(net.module) == {
        "embed": "embed",
        "down": "block",
        "block": "block",
        "norm": "head",
        "head": "head",
    }
    assert layer_decay_rates(net, 1.0, 0.5) == {
        "backbone/embed": 0.25,
        "backbone/down": 0.5,
        "backbone/block": 0.5,
        "backbone/norm": 1.0,
        "head": 1.0,
    }
    lstm = fz.Classifier(fz.models.LSTM(num_classes=2), fz.models.Head(2))
    assert list(depths_of(lstm).values()) == ["l0", "backbone/head", "head"]
    rest = fz.transfer.slice_model(net, start="block")
    assert list(depths_of(rest.module).values()) == ["block", "head", "head"]


def test_layer_decay_in_a_state(model):
    """Plain SGD moves each stage by its share of the gradient."""
    options = {"optimizer": "sgd", "learning_rate": 0.1}
    grads = jax.tree.map(jnp.ones_like, model.variables["params"])
    state = fz.create_train_state(model, layer_decay=0.5, freeze="*/bias", **options)
    after = state.apply_gradients(grads=grads).params
    moved = jax.tree.map(lambda a, b: a - b, state.params, after)
    for group, rate in layer_decay_rates(model, 0.1, 0.5).items():
        part = functools.reduce(lambda tree, key: tree[key], group.split("/"), moved)
        for path, leaf in jax.tree_util.tree_flatten_with_path(part)[0]:
            frozen = path[-1].key == "bias"
            np.testing.assert_allclose(leaf, 0.0 if frozen else rate, atol=1e-7)
    with pytest.raises(UnknownArgumentError, match="layer_decay decays one learning rate"):
        fz.create_train_state(model, learning_rate={"*": 0.1}, layer_decay=0.5)
    with pytest.raises(UnknownArgumentError, match="needs a learning rate to decay"):
        fz.create_train_state(model, optimizer=optax.sgd(0.1), layer_decay=0.5)
    own = fz.create_train_state(model, optimizer="adam", layer_decay=0.5)
    assert own.optimizer.learning_rate(0) == pytest.approx(
        fz.optimizers.default_learning_rate("adam")
    )


def test_rates_of_what_is_frozen_may_be_left_out(model):
    rates = {"head": 0.1}
    state = fz.create_train_state(model, learning_rate=rates, freeze="backbone")
    assert state.optimizer.learning_rate(0) == pytest.approx(0.1)
    with pytest.raises(UnknownNameError, match="no entry for backbone/dense_0/bias"):
        fz.create_train_state(model, learning_rate=rates, freeze="backbone/dense_1")


def test_a_trainer_tells_its_rates(model, tmp_path):
    rates = {"*": "cosine", "head": 0.5, "backbone/dense_1": 0.25}
    trainer = fz.Trainer(
        model,
        optimizer="sgd",
        learning_rate=rates,
        schedule_options={"peak_value": 0.125},
        freeze="backbone/norm_*",
    )
    data = (RNG.normal(size=(8, 6)).astype(np.float32), np.arange(8) % 3)
    logged = fz.callbacks.LearningRateMonitor()
    trainer.fit(data, epochs=2, batch_size=4, callbacks=[logged], progress=False)
    assert trainer.learning_rate == 0.5
    assert trainer.group_learning_rates["*"] == pytest.approx(0, abs=1e-6)
    assert trainer.history["learning_rate/*"][0] == pytest.approx(0.0625)
    assert trainer.history["learning_rate"] == [0.5, 0.5]
    kinds = {layer.path: layer.kind for layer in trainer.summary().layers}
    assert kinds["head"] == "Head (rate 0.5)"
    assert kinds["backbone/dense_1"] == "Dense (rate 0.25)"
    assert kinds["backbone/norm_0"] == "BatchNorm (frozen)"
    assert kinds["backbone"] == "MLP (partly frozen)"
    trainer.save(tmp_path)
    loaded = fz.Trainer.load(tmp_path)
    assert loaded.group_learning_rates == trainer.group_learning_rates
    assert loaded.state.tx is trainer.state.tx
    assert "head: 0.5" in trainer.hyperparameters()["learning_rate"]


def test_a_trainer_with_layer_decay(model, tmp_path):
    trainer = fz.Trainer(model, learning_rate=0.1, layer_decay=0.5)
    assert trainer.learning_rate == pytest.approx(0.1)
    assert trainer.group_learning_rates == {}
    kinds = {layer.path: layer.kind for layer in trainer.summary().layers}
    assert kinds["backbone/dense_0"] == "Dense (rate 0.025)"
    assert kinds["backbone"] == "MLP"
    trainer.save(tmp_path)
    assert fz.Trainer.load(tmp_path).state.tx is trainer.state.tx
    for value in (2.0, "x"):
        with pytest.raises(ArgumentError, match="layer_decay must be"):
            fz.Trainer(fz.models.get("mlp"), layer_decay=value)


def test_numbers_on_the_device_are_numbers(model):
    """A sweep over an array of rates compiles no more than one over a list."""

    def make(rate, decay):
        return fz.create_train_state(
            model, optimizer="adamw", learning_rate=rate, weight_decay=decay
        )

    state = make(jnp.float32(0.5), jnp.float32(0.25))
    assert state.groups is make(0.5, 0.25).groups
    rates = {"*": jnp.float32(0.5)}
    assert make(rates, 0.25).groups is make({"*": 0.5}, 0.25).groups
