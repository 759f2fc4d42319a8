import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo import _globs
from flaxzoo._trees import flatten
from flaxzoo.errors import UnknownNameError
from flaxzoo.layers.norm import BatchNorm
from flaxzoo.models.resnest import ResNeStBlock
from flaxzoo.models.resnet import ResNet
from flaxzoo.training import step as steps
from flaxzoo.training.freezing import freeze, label_params, matching_paths, zero_grads

PARAMS = {
    "backbone": {"conv_0": {"kernel": jnp.ones(2)}, "conv_1": {"kernel": jnp.ones(2)}},
    "head": {"fc": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}},
}
ALL = {f"backbone/conv_{i}/kernel" for i in (0, 1)} | {"head/fc/kernel", "head/fc/bias"}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, set()),
        ("backbone", {"backbone/conv_0/kernel", "backbone/conv_1/kernel"}),
        ("backbone/conv_[0]*", {"backbone/conv_0/kernel"}),
        (["backbone/conv_1", "*/bias"], {"backbone/conv_1/kernel", "head/fc/bias"}),
        ("!head", {"backbone/conv_0/kernel", "backbone/conv_1/kernel"}),
        (lambda path: path.endswith("bias"), {"head/fc/bias"}),
        # In order, as in a .gitignore.
        (["backbone", "!backbone/conv_1"], {"backbone/conv_0/kernel"}),
        (["!head", "!*/conv_0"], {"backbone/conv_1/kernel"}),
        (["!head", "head/fc/bias"], ALL - {"head/fc/kernel"}),
        (["!head", "!*/fc", "!*/bias"], {"backbone/conv_0/kernel", "backbone/conv_1/kernel"}),
        (["!head", "head/fc/bias", "!*/conv_1"], {"backbone/conv_0/kernel", "head/fc/bias"}),
        ("!*", set()),
        ([], set()),
    ],
)
def test_matching_paths(spec, expected):
    assert matching_paths(PARAMS, spec) == expected


def test_nothing_matches():
    with pytest.raises(UnknownNameError, match=r"'backbon' matches no parameter.*'backbone'"):
        matching_paths(PARAMS, "backbon")
    with pytest.raises(UnknownNameError, match=r"'!backbone/conv_2' .*'backbone/conv_[01]'"):
        matching_paths(PARAMS, ["backbone", "!backbone/conv_2"])
    with pytest.raises(TypeError, match="freeze must be a pattern"):
        matching_paths(PARAMS, 3)
    with pytest.raises(TypeError, match="a freeze pattern must be text"):
        matching_paths(PARAMS, [3])


@pytest.mark.parametrize(
    ("spec", "pattern", "amount"),
    [
        # As a union this froze conv_0 and the head.
        (["backbone/conv_0", "!backbone"], "!backbone", "all"),
        (["backbone/conv_1", "!backbone", "*/bias"], "!backbone", "all"),
        (["backbone", "!*"], r"!\*", "all"),
        (["backbone", "!head"], "!head", "nothing"),
        (["!head", "head/fc/bias", "!*/fc/kernel"], r"!\*/fc/kernel", "nothing"),
    ],
)
def test_exceptions_that_are_mistakes(spec, pattern, amount):
    with pytest.raises(ValueError, match=f"'{pattern}' takes out {amount} of what .* in order"):
        matching_paths(PARAMS, spec)


def test_patterns_without_wildcards_are_not_searched_for(monkeypatch):
    searched = []
    monkeypatch.setattr(_globs.fnmatch, "fnmatchcase", lambda *pair: searched.append(pair) or False)
    params = {f"layer_{i}": {"kernel": jnp.ones(1)} for i in range(3)}
    paths = list(flatten(params))
    assert matching_paths(params, [*paths[:2], "/layer_2/"]) == set(paths)
    # A group is a whole name, and not the beginning of one.
    with pytest.raises(UnknownNameError, match="'layer' matches no parameter"):
        matching_paths(params, "layer")
    assert not searched


def test_label_params():
    labels = label_params(PARAMS, "backbone")
    assert labels["backbone"]["conv_0"]["kernel"] == "freeze"
    assert labels["head"]["fc"] == {"kernel": "train", "bias": "train"}


def test_frozen_parameters_hold_no_optimizer_state():
    tx = freeze(optax.adam(0.1), PARAMS, "backbone")
    state = tx.init(PARAMS)
    assert len(jax.tree.leaves(state)) == 1 + 2 * 2
    updates, _ = tx.update(PARAMS, state, PARAMS)
    assert not np.any(updates["backbone"]["conv_0"]["kernel"])
    assert np.all(updates["head"]["fc"]["kernel"] != 0)
    zeros, _ = zero_grads().update(PARAMS, zero_grads().init(PARAMS))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zeros))


class Frozen(nn.Module):
    """BatchNorm and Dropout as users write them: flags in the constructor or in the call."""

    flags_in_call: bool

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(4, name="dense")(x)
        if self.flags_in_call:
            x = nn.BatchNorm(name="norm")(x, not train)
            return nn.Dropout(0.5)(x, not train)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


@pytest.mark.parametrize("flags_in_call", [True, False])
@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "sgd"])
def test_frozen_means_bitwise_unchanged(flags_in_call, optimizer, assert_trees_equal, rng):
    net = fz.Classifier(backbone=Frozen(flags_in_call), head=fz.models.Head(3, dropout=0.5))
    x = rng.normal(size=(6, 5)).astype(np.float32)
    y = np.array([0, 1, 2, 0, 1, 2])
    model = fz.Model(net).init(inputs=x)
    # -0.0 + 0.0 is 0.0: a frozen leaf must not even be added to.
    model.variables["params"]["backbone"]["dense"]["bias"] = jnp.full((4,), -0.0)
    state = fz.create_train_state(
        model,
        optimizer=optimizer,
        learning_rate=0.1,
        weight_decay=0.1,
        clip_norm=1.0,
        accumulate_steps=2,
        freeze="backbone",
    )
    before = jax.tree.map(np.asarray, (state.params["backbone"], state.batch_stats))
    head = np.asarray(state.params["head"]["fc"]["kernel"])
    for _ in range(4):
        state, _ = fz.train_step(state, (x, y))
    after = jax.tree.map(np.asarray, (state.params["backbone"], state.batch_stats))
    assert_trees_equal(before, after)
    assert np.signbit(after[0]["dense"]["bias"]).all()
    assert not np.array_equal(head, state.params["head"]["fc"]["kernel"])


IMAGE, SEQUENCE = (4, 8, 8, 3), (4, 5, 3)
RESNET = {
    "layers": (1, 1),
    "widths": (4, 8),
    "stem": "deep",
    "stem_width": 4,
    "block": "basic",
}


def classifier(backbone):
    return fz.Classifier(backbone=backbone, head=fz.models.Head(3, dropout=0.5))


FAMILIES = {
    "cnn": (
        lambda: fz.models.get(
            "cnn", input_shape=IMAGE[1:], num_classes=3, features=(4, 4), hidden=(5,),
            batch_norm=True, dropout=0.5,
        ),
        IMAGE, {"freeze_until": "dense_0"}, {"optimizer": "adamw", "ema_decay": 0.5},
    ),
    "mlp": (
        lambda: fz.models.get(
            "mlp", input_shape=(6,), num_classes=3, features=(5, 4), norm="batch", dropout=0.5
        ),
        (4, 6), {"freeze": ["backbone", "!backbone/*_1"]}, {"optimizer": "lamb", "ema_decay": 0.5},
    ),
    "autoencoder": (
        lambda: fz.models.get("autoencoder", input_shape=(6,), encoder_features=(5, 2)),
        (4, 6), {"freeze": "encoder"}, {"optimizer": "schedule_free_adamw"},
    ),
    "conv_autoencoder": (
        lambda: fz.models.get(
            "conv_autoencoder", input_shape=IMAGE[1:], features=(4,), latent_dim=2
        ),
        IMAGE, {"freeze": "!decoder"}, {"optimizer": "adam", "ema_decay": 0.5},
    ),
    "lstm": (
        lambda: fz.models.get(
            "lstm", input_shape=SEQUENCE[1:], num_classes=3, hidden_size=4, num_layers=2,
            dropout=0.5,
        ),
        SEQUENCE, {"freeze": "*/l0"}, {"optimizer": "adamw", "layer_decay": 0.5, "ema_decay": 0.5},
    ),
    "resnet": (
        lambda: classifier(ResNet(**RESNET, gate="se", drop_path=0.5)),
        IMAGE, {"freeze_until": "layer2"},
        {"optimizer": "sgd", "momentum": 0.9, "ema_decay": 0.5},
    ),
    "resnest": (
        lambda: classifier(
            ResNet(**{**RESNET, "block": ResNeStBlock}, avg_down=True, drop_path=0.5)
        ),
        IMAGE, {"freeze": "backbone"},
        {"optimizer": "adamw", "learning_rate": {"*": 0.1}, "ema_decay": 0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_keeps_what_is_frozen(family, rng):
    """Bitwise, the statistics too, with all that might touch them on; the rest does change."""
    make, shape, freezing, options = FAMILIES[family]
    x = rng.normal(size=shape).astype(np.float32)
    state = fz.create_train_state(
        make(),
        inputs=x,
        weight_decay=0.1,
        clip_norm=1.0,
        accumulate_steps=2,
        **freezing,
        **{"learning_rate": 0.1, **options},
    )
    batch = x if state.reconstruct else (x, np.arange(4) % 3)
    before = jax.tree.map(np.array, state.variables)
    for _ in range(4):
        state, _ = fz.train_step(state, batch)
    after = jax.tree.map(np.asarray, state.variables)
    params = flatten(before["params"])
    assert 0 < len(state.frozen) < len(params)
    for path, leaf in flatten(after["params"]).items():
        assert np.array_equal(leaf, params[path]) == (path in state.frozen), path
    # The average has them as they are as well.
    for path, leaf in flatten(state.eval_variables["params"]).items():
        if path in state.frozen:
            np.testing.assert_array_equal(leaf, params[path])
    stats = flatten(before.get("batch_stats", {}))
    groups = {path.rpartition("/")[0] for path in state.frozen}
    for path, leaf in flatten(after.get("batch_stats", {})).items():
        frozen = path.rpartition("/")[0] in groups
        assert np.array_equal(leaf, stats[path]) == frozen, path
    # The optimizer holds nothing for them.
    trained = {p.shape for path, p in params.items() if path not in state.frozen}
    held = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)} - {()}
    assert held <= trained


class Mixed(nn.Module):
    """A BatchNorm of each kind: Flax's, ours, and one without parameters."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="flax")(x)
        x = BatchNorm(name="ours")(x, not train)
        bare = nn.BatchNorm(use_scale=False, use_bias=False, name="bare")
        return bare(x, use_running_average=not train)


@pytest.fixture(scope="module")
def mixed():
    return fz.Model(classifier(Mixed())).init(inputs=BATCH[0])


BATCH = (np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32), np.arange(6) % 3)


def moved(state):
    """Which parameters and which statistics a step changes."""
    after, _ = fz.train_step(state, BATCH)

    def changed(a, b):
        a, b = flatten(a), flatten(b)
        return {k for k in a if not np.array_equal(a[k], b[k])}

    stats = changed(state.batch_stats, after.batch_stats)
    return changed(state.params, after.params), {path.split("/")[1] for path in stats}


def test_freeze_batch_norm_keeps_the_statistics_alone(mixed):
    params, stats = moved(fz.create_train_state(mixed, freeze_batch_norm=True))
    assert params == set(flatten(mixed.variables["params"]))
    assert stats == set()
    params, stats = moved(fz.create_train_state(mixed))
    assert stats == {"flax", "ours", "bare"}


def test_the_forward_pass_with_fixed_statistics_is_inference(mixed):
    """The loss of the step is that of the model in inference mode."""
    no_dropout = fz.Model(fz.Classifier(Mixed(), fz.models.Head(3)), mixed.variables)
    state = fz.create_train_state(no_dropout, freeze_batch_norm=True)
    expected = fz.eval_step(state, BATCH).compute()["loss"]
    _, metrics = fz.train_step(state, BATCH)
    assert metrics.compute()["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("flags_in_call", [True, False])
def test_frozen_dropout_is_off(flags_in_call):
    """No draw is left in the step: seeds make no difference."""
    net = fz.Classifier(Frozen(flags_in_call), fz.models.Head(3))
    model = fz.Model(net).init(inputs=BATCH[0])

    def losses(freeze):
        for seed in (0, 1):
            state = fz.create_train_state(model, freeze=freeze, rng=seed)
            yield fz.train_step(state, BATCH)[1].compute()["loss"]

    assert len(set(losses("backbone"))) == 1
    assert len(set(losses("backbone/norm"))) == 2


def test_a_batch_norm_of_which_a_part_is_frozen_trains(mixed):
    params, stats = moved(fz.create_train_state(mixed, freeze=["*/flax/scale", "*/ours"]))
    assert "backbone/flax/bias" in params
    assert not {"backbone/flax/scale", "backbone/ours/scale"} & params
    # Without parameters it goes with its group, of which not all is frozen.
    assert stats == {"flax", "bare"}


def test_freeze_until_adds_to_freeze(mixed):
    model = fz.models.get("mlp", input_shape=(4,), features=(3, 3, 3), num_classes=2).init()
    paths = set(flatten(model.variables["params"]))

    def frozen(**options):
        return fz.create_train_state(model, **options).frozen

    until = frozen(freeze_until="dense_1")
    assert until == {p for p in paths if "/dense_0/" in p} == frozen(freeze_until=1)
    assert frozen(freeze_until=-1) == frozen(freeze="backbone") == frozen(freeze_until="head")
    assert frozen(freeze_until=0) == frozenset()
    both = frozen(freeze_until="dense_1", freeze="*/bias")
    assert both == until | {p for p in paths if p.endswith("bias")}
    with pytest.raises(UnknownNameError, match=r"no stage 'dense_9'.*dense_[012]"):
        frozen(freeze_until="dense_9")
    # A backbone that says nothing of stages is one of its own.
    assert fz.create_train_state(mixed, freeze_until="head").frozen == {
        p for p in flatten(mixed.variables["params"]) if p.startswith("backbone/")
    }
    bare = fz.Model(Mixed()).init(inputs=BATCH[0])
    with pytest.raises(TypeError, match="a Mixed has no stages"):
        fz.create_train_state(bare, loss="mean_squared_error", freeze_until=1)


def test_a_trainer_keeps_its_settings(tmp_path):
    config = {"input_shape": (4,), "features": (3, 3), "num_classes": 2, "norm": "batch"}
    model = fz.models.get("mlp", **config).init()
    trainer = fz.Trainer(
        model, freeze_until="dense_1", freeze=(p for p in ["*/bias"]), freeze_batch_norm=True
    )
    kinds = {layer.path: layer.kind for layer in trainer.summary().layers}
    assert kinds["backbone/dense_0"] == "Dense (frozen)"
    assert kinds["backbone/dense_1"] == "Dense (partly frozen)"
    assert kinds["backbone/norm_0"] == "BatchNorm (frozen)"
    assert kinds["backbone/norm_1"] == "BatchNorm (partly frozen, fixed statistics)"
    assert kinds["head/fc"] == "Dense (partly frozen)"
    trainer.save(tmp_path)
    loaded = fz.Trainer.load(tmp_path)
    assert loaded.state.frozen == trainer.state.frozen
    assert loaded.state.freeze_batch_norm
    assert loaded.state.tx is trainer.state.tx


def cost(step, state, x, y):
    """XLA's own count of the operations of a compiled step."""
    lowered = step.lower(state, steps.prepare(state, (x, y)))
    return lowered.compile().cost_analysis()["flops"]


@pytest.mark.full_compiler
def test_no_gradients_are_computed_for_what_is_frozen(rng):
    net = fz.Classifier(ResNet(**RESNET), fz.models.Head(3))
    x, y = rng.normal(size=(8, 16, 16, 3)).astype(np.float32), np.zeros(8, np.int32)
    model = fz.Model(net).init(inputs=x)

    def count(step, until):
        return cost(step, fz.create_train_state(model, optimizer="sgd", freeze_until=until), x, y)

    forward = count(steps._eval_step, None)
    # A frozen backbone costs its forward pass alone; training it, two more.
    assert count(steps._train_step, "head") < 1.02 * forward
    assert count(steps._train_step, None) > 2.8 * forward


@pytest.mark.full_compiler
@pytest.mark.parametrize(("until", "passes"), [(None, [2, 3, 3]), (1, [1, 2, 3]), (2, [1, 1, 2])])
def test_a_frozen_prefix_costs_its_forward_pass(until, passes):
    """Matrix products of each layer: forward, its kernel's gradient, its input's gradient.

    The first layer that trains has no input whose gradient anybody wants.
    """
    widths, rows = (256, 192, 128, 96), 64
    config = {"input_shape": widths[:1], "features": widths[1:3], "num_classes": widths[3]}
    model = fz.models.get("mlp", **config).init()
    x, y = np.ones((rows, widths[0]), np.float32), np.zeros(rows, np.int32)
    state = fz.create_train_state(model, optimizer="sgd", freeze_until=until)
    products = [2 * rows * a * b for a, b in itertools.pairwise(widths)]
    expected = sum(n * product for n, product in zip(passes, products, strict=True))
    assert cost(steps._train_step, state, x, y) == pytest.approx(expected, rel=0.03)


def test_everything_frozen_is_refused():
    model = fz.models.get("mlp", input_shape=(4,), features=(3,)).init()
    state = fz.create_train_state(model, freeze="*")
    with pytest.raises(ValueError, match="every parameter is frozen"):
        fz.train_step(state, (np.ones((2, 4), np.float32), np.zeros(2, np.int32)))


def test_bad_arguments_are_named():
    model = fz.models.get("mlp", input_shape=(6,), features=(5,)).init(0)
    with pytest.raises(TypeError, match=r"tx must be an optax\.GradientTransformation, got 'adam'"):
        fz.transfer.freeze("adam", model.variables["params"], "backbone")
    with pytest.raises(TypeError, match=r"variables\['params'\], got all variables"):
        fz.transfer.label_params(model.variables, "backbone")
    with pytest.raises(TypeError, match="got Model"):
        fz.transfer.label_params(model, "backbone")
    with pytest.raises(ValueError, match="predicate chose none of the parameters"):
        fz.create_train_state(model, freeze=lambda path: "conv1" in path)
