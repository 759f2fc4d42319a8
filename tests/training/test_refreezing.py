import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.errors import ArgumentError, CallbackError, CheckpointError, UnknownNameError
from flaxzoo.training.checkpoint import Checkpoints, restore
from flaxzoo.training.refreezing import refreeze, unfreezing_schedule

RNG = np.random.default_rng(0)
DATA = (RNG.normal(size=(24, 6)).astype(np.float32), np.arange(24) % 3)


@pytest.fixture(scope="module")
def model():
    config = {"input_shape": (6,), "features": (5, 4), "num_classes": 3}
    return fz.models.get("mlp", norm="batch", dropout=0.2, **config).init()


def gradients(state, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), state.params)


@jax.jit
def _apply(state, grads):
    return state.apply_gradients(grads=grads)


def steps(state, seeds):
    """The state after a step on random gradients per seed, the same ones in every run."""
    for seed in seeds:
        state = _apply(state, gradients(state, seed))
    return state


def part(state, group):
    return {k: np.asarray(v) for k, v in flatten(state.params).items() if k.startswith(group)}


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


SCHEDULE = fz.schedules.get("linear", peak_value=0.1, end_value=0.0, total_steps=10)


def test_groups_are_made_where_something_asks_for_them(model):
    plain = fz.create_train_state(model, learning_rate=1e-3)
    assert plain.groups is None
    assert plain.tx is plain.optimizer
    assert plain.tx is fz.optimizers.get("adam", learning_rate=1e-3)
    assert refreeze(plain, "backbone").groups is not None
    assert refreeze(refreeze(plain, "backbone")).groups is not None
    assert fz.create_train_state(model, freeze="backbone").groups is not None
    assert fz.create_train_state(model, learning_rate={"*": 1e-3}).groups is not None
    with pytest.raises(ValueError, match="replaced by hand"):
        refreeze(plain.replace(tx=optax.adam(1e-3)), "backbone")


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        ("adamw", {"learning_rate": SCHEDULE, "weight_decay": 0.0}),
        (optax.adam(SCHEDULE), {}),
        (optax.inject_hyperparams(optax.adam)(learning_rate=SCHEDULE), {}),
        (fz.optimizers.get("adam", learning_rate=SCHEDULE, ema_decay=0.5), {}),
    ],
    ids=["by name", "built", "injected", "from get"],
)
@pytest.mark.filterwarnings("ignore:optimizer .* is not one of")
def test_adam_goes_on_and_begins_anew(model, optimizer, options):
    before = fz.create_train_state(model, optimizer=optimizer, freeze="backbone", **options)
    before = steps(before, range(3))
    state = steps(refreeze(before, freeze_until="dense_1"), [3])
    # What began to train takes the first step of a fresh Adam, at the rate of update 3.
    fresh = optax.adam(SCHEDULE(3))
    group = part(before, "backbone/dense_1")
    grads = {k: g for k, g in flatten(gradients(before, 3)).items() if k in group}
    updates, _ = fresh.update(grads, fresh.init(group), group)
    for key, update in updates.items():
        np.testing.assert_allclose(part(state, key)[key] - group[key], update, atol=1e-6)
    # What went on takes the step of the run that was left alone.
    equal(part(state, "head"), part(steps(before, [3]), "head"))
    equal(part(state, "backbone/dense_0"), part(before, "backbone/dense_0"))
    # And another later one leaves both cohorts as they are.
    later = steps(refreeze(state, None), [4, 5])
    equal(part(later, "head"), part(steps(before, [3, 4, 5]), "head"))
    equal(part(later, "backbone/dense_1"), part(steps(state, [4, 5]), "backbone/dense_1"))
    assert not np.array_equal(
        part(later, "backbone/dense_0")["backbone/dense_0/kernel"],
        part(state, "backbone/dense_0")["backbone/dense_0/kernel"],
    )


def test_freezing_again_drops_the_state(model):
    state = steps(fz.create_train_state(model, optimizer="adam"), range(2))
    frozen = refreeze(state, "backbone")
    head = sum(leaf.size for leaf in jax.tree.leaves(state.params["head"]))
    assert sum(leaf.size for leaf in jax.tree.leaves(frozen.opt_state)) == 1 + 2 * head
    after = steps(frozen, [2, 3])
    equal(part(after, "backbone"), part(state, "backbone"))
    equal(part(after, "head"), part(steps(state, [2, 3]), "head"))
    # Thawed again it begins anew, at the same values.
    thawed = refreeze(after, None)
    moments = jax.tree.leaves(thawed.opt_state.inner_states["train_from_4"])
    assert not any(np.any(leaf) for leaf in moments)
    assert refreeze(thawed, None) is thawed
    # Before the first step there is nothing to tell apart.
    early = refreeze(fz.create_train_state(model, freeze="head"))
    assert list(early.groups.form.labels) == ["train"]


def test_clipping_is_over_what_trains_then(model):
    options = {"optimizer": "sgd", "learning_rate": 0.1, "clip_norm": 0.5}
    state = steps(fz.create_train_state(model, freeze="backbone", **options), [0])
    wide = steps(refreeze(state, "backbone/dense_0"), [1])
    trainable = [k for k in flatten(state.params) if not k.startswith("backbone/dense_0")]
    grads = flatten(gradients(state, 1))
    norm = np.sqrt(sum(np.sum(np.square(grads[k])) for k in trainable))
    for key in trainable:
        expected = flatten(state.params)[key] - 0.1 * grads[key] * 0.5 / norm
        np.testing.assert_allclose(flatten(wide.params)[key], expected, atol=1e-7)


def test_clipping_of_ones_own_is_by_group(model):
    """It is out of reach, so that dividing it is told; with ``clip_norm`` there is nothing to."""
    chain = optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0))
    state = fz.create_train_state(model, optimizer=chain, freeze="backbone")
    with pytest.warns(UserWarning, match=r"each of 2 groups .* clip_norm= is of the norm") as told:
        wide = refreeze(steps(state, [0]), None)
    assert told[0].filename == __file__
    after = steps(wide, [1])
    moved = jax.tree.map(lambda a, b: float(jnp.sum((a - b) ** 2)), after.params, wide.params)
    for group in ("backbone", "head"):
        assert np.sqrt(sum(jax.tree.leaves(moved[group]))) == pytest.approx(0.01, rel=1e-3)
    for optimizer in (
        "sgd",
        optax.sgd,
        functools.partial(optax.sgd, momentum=0.9),
        fz.optimizers.get("sgd", learning_rate=0.1, clip_norm=0.5),
    ):
        state = fz.create_train_state(model, optimizer=optimizer, freeze="backbone")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            refreeze(state.replace(step=jnp.asarray(1)), None)


def test_accumulation_and_averages_go_on(model):
    options = {"optimizer": "sgd", "learning_rate": 0.1, "accumulate_steps": 2, "ema_decay": 0.5}
    # In the middle of an accumulation, after one update.
    state = steps(fz.create_train_state(model, freeze="backbone", **options), range(3))
    wide = refreeze(state, None)
    average, averaged = state.eval_variables["params"], wide.eval_variables["params"]
    jax.tree.map(np.testing.assert_array_equal, average["head"], averaged["head"])
    jax.tree.map(np.testing.assert_array_equal, state.params["backbone"], averaged["backbone"])
    after, alone = steps(wide, [3]), steps(state, [3])
    equal(part(after, "head"), part(alone, "head"))
    jax.tree.map(
        np.testing.assert_array_equal,
        after.eval_variables["params"]["head"],
        alone.eval_variables["params"]["head"],
    )
    # The accumulated half of what begins to train counts as zero.
    expected = jax.tree.map(lambda p, g: p - 0.1 * g / 2, state.params, gradients(state, 3))
    kernel = expected["backbone"]["dense_0"]["kernel"]
    np.testing.assert_allclose(after.params["backbone"]["dense_0"]["kernel"], kernel, atol=1e-7)


def test_groups_keep_their_rates(model):
    rates = {"*": SCHEDULE, "backbone/dense_0": 0.5, "head": 1.0}
    state = fz.create_train_state(model, optimizer="sgd", learning_rate=rates, freeze_until="head")
    state = refreeze(steps(state, [0, 1]), None)
    assert state.groups.rates(2) == pytest.approx(
        {"*": float(SCHEDULE(2)), "backbone/dense_0": 0.5, "head": 1.0}
    )
    after = steps(state, [2])
    grads = flatten(gradients(state, 2))
    for path, rate in (
        ("backbone/dense_0/kernel", 0.5),
        ("backbone/dense_1/kernel", SCHEDULE(2)),
        ("head/fc/kernel", 1.0),
    ):
        expected = flatten(state.params)[path] - rate * grads[path]
        np.testing.assert_allclose(flatten(after.params)[path], expected, atol=1e-7)
    narrow = fz.create_train_state(model, learning_rate={"head": 1.0}, freeze="backbone")
    with pytest.raises(UnknownNameError, match="no entry for backbone/dense_0/bias"):
        refreeze(narrow, None)


def _plain(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


PRIVATE = {"l2_norm_clip": 1.0, "noise_multiplier": 0.1, "seed": 0}


@pytest.mark.parametrize("name", fz.optimizers.list())
def test_every_optimizer_keeps_what_goes_on(name):
    """Its state is carried over array by array; where one can't be divided, that is said."""
    plain = fz.models.get("mlp", input_shape=(3,), features=(2,), num_classes=2).init()
    options = PRIVATE if name == "dpsgd" else {}
    state = fz.create_train_state(plain, optimizer=name, freeze="backbone", **options)
    marked = jax.tree.map(lambda x: jnp.full_like(x, 7), state.opt_state)
    state = state.replace(opt_state=marked, step=jnp.asarray(4))
    if name == "dpsgd":
        with pytest.raises(ValueError, match="which its privacy rests on"):
            refreeze(state)
        return
    wide = refreeze(state)
    assert list(wide.groups.form.labels) == ["train", "train_from_4"]
    fresh = wide.tx.init(state.params).inner_states["train_from_4"]
    for new, expected in (
        (wide.opt_state.inner_states["train"], state.opt_state.inner_states["train"]),
        (wide.opt_state.inner_states["train_from_4"], fresh),
    ):
        for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(_plain(a), _plain(b))


def test_refreezing_errors(model):
    state = fz.create_train_state(model, freeze="backbone")
    with pytest.raises(UnknownNameError, match="'backbon' matches no parameter"):
        refreeze(state, "backbon")
    with pytest.raises(UnknownNameError, match="no stage 'dens'.*dense"):
        refreeze(state, freeze_until="dens")
    by_hand = state.replace(tx=optax.sgd(0.1))
    with pytest.raises(ValueError, match="replaced by hand"):
        refreeze(by_hand, None)
    inside = fz.optimizers.get("sgd", learning_rate=0.1, accumulate_steps=2)
    hidden = fz.create_train_state(model, optimizer=inside, clip_norm=1.0, freeze="backbone")
    with pytest.raises(ValueError, match="between two updates"):
        refreeze(hidden.replace(step=jnp.asarray(3)), None)
    with pytest.raises(RuntimeError, match="nothing to refreeze before"):
        fz.Trainer(fz.models.get("mlp")).refreeze(None)


def test_the_schedule_of_stages(model):
    schedule = unfreezing_schedule(model, every=2, start=1)
    assert list(schedule) == [1, 3, 5]
    state = fz.create_train_state(model)
    until = ["head", "dense_1"]
    for when, stage in zip((1, 3), until, strict=True):
        assert refreeze(state, schedule[when]).frozen == refreeze(state, freeze_until=stage).frozen
    assert schedule[5] is None
    resnet = fz.models.get("resnet18")
    # The head, four stages and the stem; or block by block.
    assert list(unfreezing_schedule(resnet)) == list(range(6))
    assert list(unfreezing_schedule(resnet, by="stage")) == list(range(10))
    second = unfreezing_schedule(resnet)[1]
    assert any("layer3_1" in path for path in second)
    assert not any("layer4" in path or "head" in path for path in second)
    with pytest.raises(ValueError, match="every must be an int of at least 1"):
        unfreezing_schedule(model, every=0)
    with pytest.raises(ValueError, match="by must be one of 'group', 'stage'"):
        unfreezing_schedule(model, by="layer")


def test_the_schedule_takes_models_alone(model):
    part = fz.transfer.slice_model(model, start="dense_1")
    paths = unfreezing_schedule(part)[0]
    assert set(paths) == {p for p in flatten(part.variables["params"]) if "head" not in p}
    assert not any("dense_0" in path for path in paths)
    bare = fz.transfer.slice_model(fz.Model(model.module.backbone), start="dense_1").module
    # A slice has a field `module`, which is not a model's.
    for module in (model.module, bare):
        with pytest.raises(
            TypeError, match=rf"flaxzoo\.Model, got {type(module).__name__}: .*init"
        ):
            unfreezing_schedule(module)
        with pytest.raises(TypeError, match=r"must be a flaxzoo\.Model"):
            fz.transfer.layer_decay_rates(module, 0.1, 0.5)


def trainer_for(model, run_dir=None):
    return fz.Trainer(
        model,
        optimizer="adamw",
        learning_rate="cosine",
        weight_decay=0.1,
        clip_norm=1.0,
        ema_decay=0.9,
        freeze="backbone",
        run_dir=run_dir,
    )


class Watch(fz.callbacks.Callback):
    """Notes how much is frozen at each step; stops at one."""

    def __init__(self, stop=None):
        self.seen, self.stop = [], stop

    def on_step_end(self, trainer, step, metrics):
        self.seen.append(len(trainer.state.frozen))
        trainer.stop_training = step == self.stop


UNFREEZE = {"freeze_until": {1: "dense_1", 2: 0}}


@pytest.fixture(scope="module")
def straight(model):
    trainer, watch = trainer_for(model), Watch()
    callbacks = [fz.callbacks.GradualUnfreezing(**UNFREEZE), watch]
    trainer.fit(DATA, epochs=3, batch_size=8, callbacks=callbacks, progress=False)
    return trainer, watch


def test_gradual_unfreezing(model, straight):
    trainer, watch = straight
    assert watch.seen == [8] * 3 + [4] * 3 + [0] * 3
    assert list(trainer.state.groups.form.labels) == ["train", "train_from_3", "train_from_6"]
    assert trainer.summary().trainable is None
    # One epoch of it is a fit of the frozen model.
    frozen = trainer_for(model)
    frozen.build(total_steps=9)
    frozen.fit(DATA, epochs=1, batch_size=8, progress=False)
    assert trainer.history["loss"][0] == frozen.history["loss"][0]
    # Then by hand: the loop with the trainer's own method.
    frozen.refreeze(freeze_until="dense_1")
    frozen.fit(DATA, epochs=1, batch_size=8, progress=False)
    assert trainer.history["loss"][1] == frozen.history["loss"][1]


@pytest.mark.parametrize("stop", [3, 5])
def test_a_resumed_run_is_bitwise_the_same(model, straight, stop, tmp_path, assert_trees_equal):
    def callbacks(stop):
        return [
            fz.callbacks.GradualUnfreezing(**UNFREEZE),
            fz.callbacks.ModelCheckpoint(every_steps=1),
            Watch(stop),
        ]

    first = trainer_for(model, tmp_path)
    first.fit(DATA, epochs=3, batch_size=8, callbacks=callbacks(stop), progress=False)
    assert first.step == stop
    for trainer in (trainer_for(model, tmp_path), fz.Trainer.load(tmp_path)):
        trainer.fit(
            DATA,
            epochs=3,
            batch_size=8,
            callbacks=[fz.callbacks.GradualUnfreezing(**UNFREEZE)],
            progress=False,
            resume=True,
        )
        assert trainer.state.tx is straight[0].state.tx
        assert_trees_equal(trainer.state, straight[0].state)
        assert trainer.history["loss"] == straight[0].history["loss"]


@pytest.mark.parametrize(
    "callback",
    [
        fz.callbacks.GradualUnfreezing(),
        fz.callbacks.GradualUnfreezing(freeze_until={3: "dense_1", 6: 0}, unit="step"),
        fz.callbacks.GradualUnfreezing({0: "backbone", 1: ["*_0"], 2: None}),
    ],
    ids=["by default", "by step", "by patterns"],
)
def test_other_ways_to_say_it(model, straight, callback, assert_trees_equal):
    trainer, watch = trainer_for(model), Watch()
    callbacks = [watch, callback]
    trainer.fit(DATA, epochs=3, batch_size=8, callbacks=callbacks, progress=False)
    assert watch.seen == straight[1].seen
    assert_trees_equal(trainer.state, straight[0].state)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"schedule": {}}, "schedule must map epochs"),
        ({"schedule": ["head"]}, "schedule must map epochs"),
        ({"schedule": {-1: None}}, "epochs .* from 0, got -1"),
        ({"schedule": {0: None}, "freeze_until": {0: 1}}, "not both"),
    ],
)
def test_settings_that_make_no_sense(arguments, match):
    with pytest.raises(CallbackError, match=match):
        fz.callbacks.GradualUnfreezing(**arguments)
    with pytest.raises(ArgumentError, match="unit must be one of 'epoch', 'step', got 'batch'"):
        fz.callbacks.GradualUnfreezing(unit="batch")


def test_the_whole_schedule_is_looked_up_at_the_start(model):
    for arguments, match in (
        ({"freeze_until": {5: "layer9"}}, "GradualUnfreezing: no stage 'layer9'"),
        ({"schedule": {5: "hed"}}, "'hed' matches no parameter"),
    ):
        callback = fz.callbacks.GradualUnfreezing(**arguments)
        with pytest.raises(CallbackError, match=match):
            trainer_for(model).fit(DATA, batch_size=8, callbacks=[callback], progress=False)
    narrow = fz.Trainer(model, learning_rate={"head": 0.1}, freeze="backbone")
    callback = fz.callbacks.GradualUnfreezing({3: None})
    with pytest.raises(CallbackError, match="no entry for backbone/dense_0/bias"):
        narrow.fit(DATA, batch_size=8, callbacks=[callback], progress=False)


def test_the_best_epoch_comes_back_with_what_was_frozen(model):
    trainer = trainer_for(model)
    scores = iter([1.0, 2.0, 3.0])
    callbacks = [
        fz.callbacks.GradualUnfreezing(**UNFREEZE),
        fz.callbacks.LambdaCallback(on_epoch_end=lambda t, e, logs: logs.update(x=next(scores))),
        fz.callbacks.EarlyStopping("x", mode="min", restore_best=True),
    ]
    trainer.fit(DATA, epochs=2, batch_size=8, callbacks=callbacks, progress=False)
    assert len(trainer.state.frozen) == 8
    trainer.fit(DATA, epochs=1, batch_size=8, progress=False)
    assert trainer.step == 9


def test_a_checkpoint_of_another_model(model, tmp_path):
    state = fz.create_train_state(model, freeze="backbone")
    checkpoints = Checkpoints(tmp_path / "c")
    meta = {"freezing": {"frozen": ["backbone/elsewhere/kernel"], "cohorts": []}}
    checkpoints.save(state, 0, meta)
    checkpoints.close()
    with pytest.raises(CheckpointError, match="no parameter 'backbone/elsewhere/kernel'"):
        restore(tmp_path / "c", state)


def test_what_is_changed_before_the_first_fit_stays(model):
    """A schedule by name makes the optimizer anew once the length of training is known."""
    trainer = trainer_for(model)
    trainer.build(DATA[0])
    trainer.refreeze(freeze_until="dense_1")
    trainer.build(total_steps=9)
    assert len(trainer.state.frozen) == 4
    assert trainer.learning_rate == pytest.approx(fz.optimizers.default_learning_rate("adamw"))
