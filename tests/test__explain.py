"""The table of other libraries' words names what there is, and nothing that needs no answer."""

import importlib
import inspect
import re

import pytest

import flaxzoo as fz
from flaxzoo._explain import check_options, explained, folded, foreign, keyword_hint
from flaxzoo._words import TIMM, tables
from flaxzoo.errors import UnknownArgumentError
from flaxzoo.models.registry import MODELS
from flaxzoo.preprocess import Predictions

REGISTRIES = {
    registry.kind: registry
    for registry in (
        MODELS,
        fz.optimizers.REGISTRY,
        fz.losses.REGISTRY,
        fz.metrics.REGISTRY,
        fz.schedules.REGISTRY,
        fz.activations.REGISTRY,
        importlib.import_module("flaxzoo.augment.registry").REGISTRY,
    )
}
CLASSES = {cls.__name__: cls for cls in (fz.Model, fz.Trainer, fz.TrainState, fz.History)}
CLASSES |= {"EventWriter": fz.callbacks.EventWriter, "Predictions": Predictions}


def rows():
    yield from (line for _, _, line in tables()["keywords"])
    yield from (line for special in tables()["special"].values() for _, _, line in special)
    yield from (line for attributes in tables()["attributes"].values() for _, line in attributes)
    yield from tables()["positions"].values()
    yield from (line for names in tables()["names"].values() for _, line in names)


def test_what_the_lines_name_exists():
    for line in rows():
        for dotted in re.findall(r"flaxzoo(?:\.\w+)+", line):
            value = fz
            for part in dotted.split(".")[1:]:
                if inspect.ismodule(value) and f"{value.__name__}.{part}" == "flaxzoo.layers":
                    value = importlib.import_module("flaxzoo.layers")
                    break
                value = getattr(value, part)


def test_names_are_those_of_the_registry_and_no_one_elses():
    for kind, table in tables()["names"].items():
        registry = REGISTRIES[kind]
        for words, line in table:
            first = re.match(r"\w+$|\w+(?=, )", line)
            if first and first[0] not in ("a", "the"):
                known = [first[0] in registry, " " in first[0], kind == "schedule"]
                assert any(known), f"{kind} {first[0]} is not there"
            for word in words.split():
                assert word not in registry, f"{kind} {word} needs no answer"


def test_attributes_are_not_there():
    for owner, table in tables()["attributes"].items():
        there = dir(CLASSES[owner]) if owner in CLASSES else dir(importlib.import_module(owner))
        words = {word for words, _ in table for word in words.split()}
        assert not words & set(there), owner


def test_arguments_are_taken_by_something():
    callables = [fz.create_train_state, fz.Trainer, fz.Trainer.fit, fz.Trainer.evaluate]
    callables += [fz.models.get, fz.losses.l2, fz.losses.Loss.__call__, fz.Trainer.predict]
    callables += [fz.Model.predict, fz.models.list]
    callables += [getattr(fz.callbacks, name) for name in fz.callbacks.__all__]
    callables += [getattr(fz.data, name) for name in fz.data.__all__]
    taken = set()
    for function in callables:
        if not (isinstance(function, type) and issubclass(function, Exception)):
            taken |= set(inspect.signature(function).parameters)
    taken |= set(fz.data.ImageDataset.__init__.__wrapped__.__annotations__)
    for kind in ("optimizer", "loss", "schedule", "metric", "activation"):
        registry = REGISTRIES[kind]
        for name in registry.list():
            taken |= set(registry.parameters(name))
    for name in (
        "mlp",
        "cnn",
        "lstm",
        "resnet18",
        "vit_tiny_patch16_224",
        "convnext_atto",
        "fastvit_t8",
    ):
        taken |= set(MODELS.parameters(name))
    taken |= set(fz.optimizers.option_names("adam"))
    named = {
        name
        for table in (tables()["keywords"], *tables()["special"].values())
        for _, names, _ in table
        for name in names.split()
    }
    assert named - taken - {"outputs", "labels", "hidden_features"} == set()
    assert set(TIMM.values()) <= named


def test_a_keyword_is_named_by_what_takes_it():
    assert "'b1'" in keyword_hint("beta_1", ("b1", "b2"))
    assert keyword_hint("beta_1", ("momentum",)) == ""
    assert keyword_hint("clipNorm", ("clip_norm",)) == " Did you mean 'clip_norm'?"
    assert keyword_hint("verbose", ()) != ""
    assert folded("Soft-Max_1 D") == "softmax1d"


def test_explained_functions():
    @explained
    def function(first, second=2, *, lr=1, **more):
        """Text."""
        return first, second, lr, more

    assert function(1, 3, other=4) == (1, 3, 1, {"other": 4})
    assert str(inspect.signature(function)) == "(first, second=2, *, lr=1, **more)"
    assert function.__doc__ == "Text."
    with pytest.raises(TypeError, match="takes 2 positional arguments, got 3: name the others, su"):
        function(1, 2, 3)
    with pytest.raises(UnknownArgumentError, match="needs 'first'"):
        function(second=1)

    @explained
    class Thing:
        def __init__(self, *, size=1):
            self.size = size

    assert Thing(size=2).size == 2
    assert isinstance(Thing(), Thing)
    with pytest.raises(UnknownArgumentError, match=r"^Thing does not take 'sise'. Did you mean 's"):
        Thing(sise=1)
    with pytest.raises(UnknownArgumentError, match="Thing takes 0 positional arguments, got 1"):
        Thing(1)


def test_options_are_refused_by_whom_they_are_meant_for():
    def function(donate=False, **options):
        check_options(function, options, ("decay", "clip_norm"), "optimizer 'x'")

    function(decay=1)
    with pytest.raises(TypeError, match=r"function does not take 'donated'. Did you mean 'donate'"):
        function(donated=True)
    with pytest.raises(TypeError, match="optimizer 'x' does not take 'decai'. Did you mean 'decay"):
        function(decai=1)
    with pytest.raises(TypeError, match=r"function does not take 'verbose'. For 'verbose' here: "):
        function(verbose=1)


def test_objects_of_other_libraries():
    foreign_class = type("Adam", (), {"__module__": "keras.optimizers"})
    assert foreign(foreign_class()) == "Keras"
    assert foreign(type("Mine", (foreign_class,), {})()) == "Keras"
    assert foreign(len) is None
    loss = type("CrossEntropyLoss", (), {"__module__": "torch.nn", "__call__": len})
    with pytest.raises(TypeError, match=r"loss is CrossEntropyLoss, an object of PyTorch: write"):
        fz.losses.as_loss(loss())
    with pytest.raises(TypeError, match=r"metrics is AUC, an object of Keras: write metrics='auc'"):
        fz.metrics.as_metric(type("AUC", (), {"__module__": "keras", "__call__": len})())


def test_a_failing_property_keeps_its_error():
    class Broken(fz.Trainer):
        @property
        def broken(self):
            return [].nothing

    with pytest.raises(AttributeError, match="'list' object has no attribute 'nothing'"):
        getattr(Broken(fz.models.get("mlp", input_shape=(4,), num_classes=2)), "broken")  # noqa: B009


def test_every_public_function_explains_its_arguments():
    spaces = [fz, fz.augment, fz.callbacks, fz.data, fz.losses, fz.metrics, fz.optimizers]
    spaces += [fz.schedules, fz.transfer, fz.activations, fz.models, fz.Model, fz.Trainer]
    bare = set()
    for space in spaces:
        for name in getattr(space, "__all__", dir(space)):
            value = getattr(space, name)
            public = callable(value) and not name.startswith("_")
            if public and not isinstance(value, type) and not _is_explained(value):
                bare.add(name)
    # What takes nothing, or is a decorator, or is for those who know this library.
    bare -= {"MetricLike", "ScheduleFn", "register", "hyperparameters", "position", "position_of"}
    bare -= {"clear_caches", "profile", "stop_words", "zero_grads", "from_config", "to_config"}
    bare -= {"check_finite", "fill_masked", "infer_mode", "monitored", "resolve_mode"}
    bare -= {"option_names", "needs_total_steps", "model_with_state"}
    assert sorted(bare) == []
    for cls in (fz.Trainer, fz.Preprocess, fz.models.Head, fz.models.Classifier, fz.models.MLP):
        with pytest.raises(UnknownArgumentError, match="does not take 'no_such_word'"):
            cls(fz.models.Head(2), no_such_word=1)


def _is_explained(function):
    while function is not None:
        code = getattr(getattr(function, "__func__", function), "__code__", None)
        if code is not None and code.co_filename.endswith("_explain.py"):
            return True
        function = getattr(function, "__wrapped__", None)
    return False
