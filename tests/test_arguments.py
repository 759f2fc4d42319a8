"""Every factory refuses numbers and words that make no sense where they are given."""

import functools
import inspect
import math

import flax
import jax
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo.activations import REGISTRY as ACTIVATIONS
from flaxzoo.errors import ArgumentError, UnknownNameError
from flaxzoo.losses.registry import REGISTRY as LOSSES
from flaxzoo.metrics._spec import REGISTRY as METRICS
from flaxzoo.optimizers import catalog
from flaxzoo.schedules.shapes import REGISTRY as SCHEDULES

REFUSED = (ValueError, TypeError, KeyError)
# Arguments that are objects or numbers of any sign; what is wrong with these, other tests tell.
OBJECTS = {"weight_dimension_numbers", "muon_weight_dimension_numbers", "sample", "class_names"}
OBJECTS |= {"base_optimizer", "base_options", "model", "train_data", "data", "inputs", "self"}
OBJECTS |= {"where", "variance", "algorithm", "param_dtype", "trust_ratio_mask"}
OBJECTS |= {"optimizer_options", "validation_data", "base_optimizer", "base_options", "model"}
OBJECTS |= {"train_data", "data", "inputs", "self"}
SIGNED = {"lower_bound", "f_min", "log_epsilon", "baseline", "fill", "mean", "freeze_until"}
# Of activations.
SIGNED |= {"axis", "negative_slope", "negative_slope_init", "b"}
PATHS = {"path", "directory", "log_dir", "run_dir"}
NEEDED = {
    "fbeta": {"beta": 1.0},
    "cosine": {"total_steps": 10},
    "linear": {"total_steps": 10},
    "polynomial": {"total_steps": 10},
    "one_cycle": {"total_steps": 10, "anneal": "linear"},
    "sgdr": {"total_steps": 10},
    "step": {"boundaries": [3]},
    "piecewise": {"boundaries": [3], "values": [1.0, 0.1]},
    "dpsgd": {"l2_norm_clip": 1.0, "noise_multiplier": 1.0},
    "make_fenchel_young_loss": {"max_fun": max},
    "l1": {"factor": 1.0},
    "l2": {"factor": 1.0},
    "l1_l2": {"l1": 1.0, "l2": 1.0},
}


def optimizer_parameters(name):
    return catalog.recipe(name, catalog.REGISTRY.entry(name)).own


def callback(name, **options):
    return getattr(fz.callbacks, name)(**options)


CALLBACKS = ["EarlyStopping", "ModelCheckpoint", "ProgressBar", "TerminateOnNaN", "CSVLogger"]
KINDS = {
    "optimizer": (fz.optimizers.list, optimizer_parameters, fz.optimizers.get),
    "loss": (fz.losses.list, LOSSES.parameters, fz.losses.get),
    "metric": (fz.metrics.list, METRICS.parameters, fz.metrics.get),
    "schedule": (fz.schedules.list, SCHEDULES.parameters, fz.schedules.get),
    "augmentation": (fz.augment.list, fz.augment.REGISTRY.parameters, fz.augment.get),
    "activation": (fz.activations.list, ACTIVATIONS.parameters, fz.activations.get),
    "callback": (
        lambda: CALLBACKS,
        lambda name: inspect.signature(getattr(fz.callbacks, name)).parameters,
        callback,
    ),
    "regularizer": (
        lambda: ["l1", "l2", "l1_l2"],
        lambda name: inspect.signature(getattr(fz.losses, name)).parameters,
        lambda name, **options: getattr(fz.losses, name)(**options),
    ),
}


# Named by what they are made of, and in words that tell which.
RENAMED = {"monitor", "factor", "degrees"}


def nonsense(kind, key, parameter):
    """Values that an argument of this name and default cannot mean."""
    array = kind == "activation" and key == "mean"
    if key in OBJECTS or array or parameter.kind is parameter.VAR_KEYWORD:
        return
    yield math.nan
    if key not in PATHS:
        yield "x"
    slope = kind == "activation" and key in ("alpha", "beta")
    if key not in SIGNED and not slope and not (key == "epsilon" and parameter.default == 2.0):
        yield -1
    whole = isinstance(parameter.default, int) and key not in ("norm_degree", "magnitude", "b")
    if whole or key.endswith(("_steps", "_classes")):
        yield 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_what_makes_no_sense_is_refused_where_it_is_given(kind):
    names, parameters, get = KINDS[kind]
    passed = []
    for name in names():
        for key, parameter in parameters(name).items():
            for value in nonsense(kind, key, parameter):
                try:
                    get(name, **{**NEEDED.get(name, {}), key: value})
                except REFUSED as error:
                    named = key.rstrip("s") in str(error) or key in RENAMED
                    if not named and not isinstance(error, UnknownNameError | TypeError):
                        passed.append(f"{name}({key}={value}): {error} does not name it")
                else:
                    passed.append(f"{name}({key}={value})")
    assert not passed


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: fz.optimizers.get("adam", b1=2.0),
            r"b1 of optimizer 'adam' must be a number in \[0, 1\), got 2",
        ),
        (
            lambda: fz.optimizers.get("nadam", eps=-1),
            r"eps of optimizer 'nadam' must be a finite number of at",
        ),
        (
            lambda: fz.optimizers.get("adam", nesterov="no"),
            "nesterov of .* must be True or False, got 'no'",
        ),
        (
            lambda: fz.optimizers.get("adam", mu_dtype="int8"),
            "mu_dtype of .* must be a floating dtype",
        ),
        (
            lambda: fz.optimizers.get("adamw", weight_decay_mask=3),
            "weight_decay_mask must be patterns over",
        ),
        pytest.param(
            lambda: fz.optimizers.get("muon", preconditioning="x"),
            "must be one of 'frobenius', 'spectral'",
            marks=pytest.mark.skipif(
                "preconditioning" not in optimizer_parameters("muon"), reason="since optax 0.2.8"
            ),
        ),
        (
            lambda: fz.losses.get("focal", alpha=-1),
            r"alpha of .* must be a number in \[0, 1\] or None, got -1",
        ),
        (
            lambda: fz.augment.get("mixup", alpha=-1),
            "alpha must be a finite number above 0, got -1",
        ),
        (
            lambda: fz.callbacks.ModelCheckpoint(keep_best=-1),
            "keep_best must be an int of at least 0, got -1",
        ),
        (
            lambda: fz.callbacks.ModelCheckpoint(every_steps=1.5),
            "every_steps must be an int .*, got 1.5",
        ),
        (
            lambda: fz.callbacks.EarlyStopping(patience=1.5),
            "patience must be an int of at least 0, got 1.5",
        ),
        (
            lambda: fz.callbacks.EarlyStopping(min_delta=math.nan),
            "min_delta must be a finite number",
        ),
        (lambda: fz.callbacks.EarlyStopping(3), "monitor must be the name of a metric, got 3"),
    ],
)
def test_the_words_of_a_refusal(make, says):
    with pytest.raises(ArgumentError, match=says):
        make()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("qkv_bias", "no", "must be True or False"),
        ("norm_epsilon", -1, "must be a finite number of at least 0 or None"),
        ("dropout", math.nan, r"must be a number in \[0, 1\)"),
    ],
)
def test_layers_refuse_switches_and_numbers_by_their_annotations(field, value, says):
    attention = fz.layers.attention.Attention(2)
    for make in (attention.clone, functools.partial(type(attention), 2)):
        with pytest.raises(ArgumentError, match=f"{field} {says}"):
            make(**{field: value})


def test_tasks_are_known():
    with pytest.raises(UnknownNameError, match="unknown task 'clasification'"):
        fz.ModelSpec(name="mine", task="clasification")


@pytest.fixture(scope="module")
def model():
    return fz.models.get("mlp", num_classes=2, input_shape=(3,), features=(4,)).init(0)


NUMBERS = ("accumulate_steps", "clip_norm", "ema_decay", "weight_decay", "layer_decay", "b1")


@pytest.mark.parametrize(
    "key", ["seed", "steps_per_call", "freeze_batch_norm", "devices", "sharding", *NUMBERS]
)
@pytest.mark.parametrize("value", [math.nan, -1, "x"])
def test_a_trainer_refuses_its_arguments_at_once(model, key, value):
    with pytest.raises(REFUSED, match=key):
        fz.Trainer(model, **{key: value})


@pytest.mark.parametrize("key", ["epochs", "batch_size", "steps_per_epoch", "validation_steps"])
@pytest.mark.parametrize("value", [math.nan, -1, 1.5, "x"])
def test_fit_refuses_its_arguments_before_it_trains(model, key, value):
    data = np.zeros((4, 3), np.float32), np.zeros(4, int)
    trainer = fz.Trainer(model)
    with pytest.raises(ArgumentError, match=f"{key} must be an int"):
        trainer.fit(data, **{"batch_size": 2, "progress": False, key: value})
    for flag in ("shuffle", "progress", "resume"):
        with pytest.raises(ArgumentError, match=f"{flag} must be True or False"):
            trainer.fit(data, batch_size=2, **{flag: "no"})
    for use in (trainer.evaluate, trainer.predict):
        with pytest.raises(ArgumentError, match="batch_size must be an int"):
            use(data, batch_size=value)
    assert trainer.step == 0


def test_masks_of_weight_decay_match_something(model):
    with pytest.raises(UnknownNameError, match=r"'!hed/\*' matches no parameter, .* backbone/"):
        fz.create_train_state(model, optimizer="adamw", weight_decay_mask=("!hed/*",))


@pytest.mark.parametrize("options", [{}, {"learning_rate": {"*": 0.1, "head": 1.0}}])
def test_frozen_dicts_are_masks_and_labels_as_dicts_are(model, options):
    tree = flax.core.freeze({"backbone": True, "head": False})
    state = fz.create_train_state(model, optimizer="adamw", weight_decay_mask=tree, **options)
    assert jax.tree.leaves(state.opt_state)
    again = fz.optimizers.get("adamw", weight_decay_mask=tree)
    assert again is fz.optimizers.get("adamw", weight_decay_mask=tree)
    params = model.variables["params"]
    for parameters in (params, flax.core.freeze(params)):
        again.init(parameters)
        groups = {True: again, False: optax.set_to_zero()}
        fz.optimizers.partition(groups, tree).init(parameters)
    with pytest.raises(ArgumentError, match=r"are a FrozenDict, .* flax.core.unfreeze"):
        fz.create_train_state(model, optimizer=optax.masked(optax.sgd(0.1), tree))
