"""What several devices promise, on eight simulated ones: ``test_sharding.py`` runs it.

JAX counts its devices once in a process, so these tests have one of their own.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import by_path
from flaxzoo.training import sharding_rules
from flaxzoo.training.compiled import evaluate_and_total, fit_step

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(76, 8, 8, 3)).astype(np.float32)
LABELS = RNG.integers(0, 4, 76)
IDS = RNG.integers(1, 30, (76, 6))


@pytest.fixture(autouse=True)
def small_leaves_divide(monkeypatch):
    """Small models are all of leaves that would be whole on every device."""
    monkeypatch.setattr(sharding_rules, "MIN_SIZE", 64)


def cnn():
    options = {"features": (8, 16), "batch_norm": True, "dropout": 0.2}
    return fz.models.get("cnn", num_classes=4, input_shape=(8, 8, 3), **options)


def resnet():
    options = {"layers": (1, 1), "widths": (16, 32), "stem_width": 16, "block": "basic"}
    return fz.models.get("resnet18", num_classes=4, input_shape=(8, 8, 3), **options)


def vit():
    options = {"patch_size": 4, "width": 16, "depth": 2, "heads": 2, "drop_path": 0.1}
    return fz.models.get("vit_tiny_patch16_224", num_classes=4, input_shape=(8, 8, 3), **options)


def lstm():
    return fz.models.get("lstm", num_classes=4, vocab_size=30, hidden_size=16, input_shape=(6,))


def noisy(key, batch):
    """Other words in some places."""
    drawn = jax.random.randint(key, batch.inputs.shape, 1, 30)
    return batch._replace(inputs=jax.numpy.where(drawn < 6, drawn, batch.inputs))


MODELS = {
    "cnn": (cnn, "horizontal_flip"),
    "resnet": (resnet, ["horizontal_flip", "mixup"]),
    "vit": (vit, "random_crop"),
    "lstm": (lstm, noisy),
}


def data(kind):
    return (IDS if kind == "lstm" else IMAGES), LABELS


def train(kind="cnn", *, epochs=2, batch_size=16, run=None, callbacks=(), **options):
    model, augment = MODELS[kind]
    options = {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05, **options}
    trainer = fz.Trainer(model(), augment=augment, seed=3, **options)
    examples = data(kind)
    validation = tuple(x[:21] for x in examples)
    trainer.fit(
        examples,
        epochs=epochs,
        batch_size=batch_size,
        validation_data=validation,
        callbacks=callbacks,
        progress=False,
    )
    return trainer


@pytest.fixture(scope="module")
def alone():
    """What one device makes of each model, trained once."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = train(kind, devices=1)
        return made[kind]

    return get


def largest_error(state, expected):
    """Of all leaves' largest differences, each by its leaf's largest number, the largest."""
    names = ("params", "batch_stats", "opt_state")
    errors = {}
    for name in names:
        wanted = by_path(getattr(expected, name))
        for path, leaf in by_path(getattr(state, name)).items():
            a, b = np.asarray(leaf, np.float64), np.asarray(wanted[path], np.float64)
            errors[f"{name}/{path}"] = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
    return max(errors.items(), key=lambda item: item[1])


def assert_same(trainer, expected, bound=1e-5):
    path, error = largest_error(trainer.state, expected.state)
    assert error < bound, (path, error)
    assert trainer.step == expected.step
    for name in expected.history:
        assert trainer.history[name] == pytest.approx(expected.history[name], rel=bound), name


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_the_numbers_are_those_of_one_device(alone, kind, sharding):
    trainer = train(kind, devices="all", sharding=sharding)
    assert trainer.step == 10
    assert_same(trainer, alone(kind))


def test_nothing_compiles_twice():
    before = fit_step._cache_size(), evaluate_and_total._cache_size()
    train("vit", devices="all", sharding="fsdp", learning_rate=0.01)
    after = fit_step._cache_size(), evaluate_and_total._cache_size()
    assert [b - a for a, b in zip(before, after, strict=True)] in ([1, 1], [0, 0])
