"""The plan of a training run: sizes in closed form, and estimates beside what the compiler says."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten


def mlp():
    return fz.models.get("mlp", num_classes=4, features=(32,), input_shape=(8,))


def test_sizes_are_those_of_the_state_and_nothing_is_initialised(monkeypatch):
    trainer = fz.Trainer(mlp(), optimizer="adam", learning_rate=1e-3)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "device_put", None)
        plan = trainer.plan(batch_size=16)
    assert trainer.state is None
    weights = 8 * 32 + 32 + 32 * 4 + 4
    assert plan.bytes["parameters"] == plan.bytes["gradients"] == 4 * weights
    # Two moments and the count of updates.
    assert plan.bytes["optimizer"] == 2 * 4 * weights + 4
    assert plan.bytes["batch"] == 4 * 16 * 8
    # The inputs are there already; kept are the hidden layer's sign and output.
    assert 4 * 16 * 32 <= plan.bytes["activations"] <= 3 * 4 * 16 * 32
    assert plan.total == sum(plan.bytes.values())
    assert (plan.devices, plan.batch, plan.per_device_batch, plan.mesh) == (1, 16, 16, {})
    state = trainer.build()
    built = {path: leaf.nbytes for path, leaf in flatten(state.params).items()}
    assert {leaf.path: leaf.bytes for leaf in plan.parameters} == built


def test_what_trains_at_which_rate_and_what_decays():
    trainer = fz.Trainer(
        fz.models.get("cnn", num_classes=4, input_shape=(8, 8, 1), batch_norm=True),
        optimizer="adamw",
        weight_decay=0.1,
        # Small enough for a step's decay to be lost in float32.
        learning_rate={"backbone": 1e-7, "head": 1e-3},
        freeze="backbone/conv_0/*",
    )
    plan = trainer.plan()
    leaves = {leaf.path: leaf for leaf in plan.parameters}
    first, second, head = (
        leaves[f"{name}/kernel"] for name in ("backbone/conv_0", "backbone/conv_1", "head/fc")
    )
    assert (first.trains, first.rate, first.decay) == (False, None, None)
    assert (second.trains, second.decay) == (True, True)
    assert (second.rate, head.rate) == (pytest.approx(1e-7), pytest.approx(1e-3))
    assert not leaves["head/fc/bias"].decay
    assert not leaves["backbone/norm_0/scale"].decay
    trained = sum(leaf.bytes for leaf in plan.parameters if leaf.trains)
    assert plan.bytes["gradients"] == trained < plan.bytes["parameters"]
    assert trained < plan.bytes["optimizer"] / 2 < 1.01 * trained + 64
    text = str(plan)
    assert "frozen" in text
    assert "1e-07" in text
    plain = fz.Trainer(mlp(), optimizer="sgd", learning_rate=0.1).plan()
    assert {leaf.decay for leaf in plain.parameters} == {False}


def test_a_warm_up_that_begins_at_0_hides_no_decay():
    trainer = fz.Trainer(mlp(), optimizer="adamw", learning_rate="warmup_cosine", weight_decay=0.1)
    assert {leaf.decay for leaf in trainer.plan().parameters} == {True, False}


MODELS = {
    "cnn": ("cnn", {"features": (16, 32), "batch_norm": True}, (32, 32, 3)),
    "resnet": ("resnet18", {"layers": (1, 1), "widths": (16, 32)}, (32, 32, 3)),
    "vit": (
        "vit_tiny_patch16_224",
        {"depth": 2, "patch_size": 8, "input_shape": (64, 64, 3)},
        (64, 64, 3),
    ),
}


@pytest.mark.full_compiler
@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_the_estimate_is_near_what_the_compiled_step_takes(kind):
    name, fields, shape = MODELS[kind]
    model = fz.models.get(name, num_classes=4, **{"input_shape": shape, **fields})
    data = np.zeros((64, *shape), np.float32), np.zeros(64, np.int32)
    trainer = fz.Trainer(model, optimizer="adamw", learning_rate=1e-3)
    plan = trainer.plan(data, batch_size=64, compiled=True)
    estimate = dataclasses.replace(plan, compiled=None).total
    assert plan.traffic == ()
    # What is known for certain is the least that it takes.
    known = sum(
        size for name, size in plan.bytes.items() if name not in ("activations", "gradients")
    )
    assert known <= plan.compiled
    # The compiler computes some of the activations anew, and needs room beside them: half of all
    # in a network as small as this ResNet.
    assert 0.5 < estimate / plan.compiled < 1.7
    # It is the step that training takes.
    trainer.fit(data, batch_size=64, progress=False)
    assert "the compiled step" in str(plan)


def test_remat_keeps_less():
    def activations(remat):
        model = fz.models.get(
            "vit_tiny_patch16_224", depth=4, patch_size=8, input_shape=(64, 64, 3), remat=remat
        )
        return fz.Trainer(model).plan(batch_size=8).bytes["activations"]

    assert activations(True) < activations(False) / 3


def test_half_precision_keeps_less():
    def plan(precision):
        model = fz.models.get("cnn", num_classes=4, input_shape=(32, 32, 3))
        return fz.Trainer(model, precision=precision).plan(batch_size=512)

    # Not half: the signs of what ReLU cuts stay a byte each, and rounded weights are kept.
    wide, narrow = plan(None), plan("bfloat16")
    assert 0.5 < narrow.bytes["activations"] / wide.bytes["activations"] < 0.65
    assert narrow.bytes["parameters"] == wide.bytes["parameters"]
    assert "in bfloat16" in str(narrow)


def test_a_run_that_has_begun():
    trainer = fz.Trainer(mlp(), optimizer="adam", learning_rate=1e-3)
    before = trainer.plan()
    trainer.fit((np.zeros((32, 8), np.float32), np.zeros(32, np.int32)), progress=False)
    assert trainer.plan() == before


def test_fits_or_does_not():
    plan = fz.Trainer(mlp()).plan()
    assert plan.fits is None
    assert dataclasses.replace(plan, limit=plan.total).fits
    small = dataclasses.replace(plan, limit=plan.total - 1)
    assert small.fits is False
    assert "DOES NOT FIT" in str(small)


def test_what_is_missing_is_said():
    trainer = fz.Trainer(mlp())
    with pytest.raises(fz.errors.ArgumentError, match=r"compiled=True .* pass train_data"):
        trainer.plan(compiled=True)
    with pytest.raises(fz.errors.ArgumentError, match="batch_size"):
        trainer.plan(batch_size=0)
    with pytest.raises(fz.errors.ShapeError, match="input shape"):
        fz.Trainer(nn.Dense(3), loss="l2_loss").plan()
