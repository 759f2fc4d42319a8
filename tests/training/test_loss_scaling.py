"""Scaling of a float16 loss: when it grows and halves, what a skipped step leaves, and resuming."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo._finite import all_finite
from flaxzoo._trees import flatten
from flaxzoo.errors import CheckpointError
from flaxzoo.training.checkpoint import state_arrays
from flaxzoo.training.loss_scaling import LossScale, first_scale, zeros_unless

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 8).astype(np.int32)
# The first gradients of 16 examples overflow at this scale, those of the next ones do not.
HUGE = 2.0**24


class Net(nn.Module):
    """Two layers, with statistics between them."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(16, name="first")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dense(3, name="last")(nn.relu(x))


@pytest.fixture(scope="module")
def model():
    return fz.Model(Net()).init(0, X)


def policy(scale=1024.0, interval=2000):
    return fz.PrecisionPolicy("float16", loss_scale=scale, growth_interval=interval)


def start(model, precision, **options):
    options = {"optimizer": "adam", "learning_rate": 1e-2, **options}
    return fz.create_train_state(model, precision=precision, **options)


def equal(a, b, but=()):
    ours, theirs = state_arrays(a), state_arrays(b)
    assert ours.keys() == theirs.keys()
    for path in ours:
        if not path.startswith(but):
            np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)


def numbers(state):
    scale = state.loss_scale
    return float(scale.scale), int(scale.finite_steps), int(scale.skipped)


def test_the_scale_s_own_arithmetic():
    scale = first_scale(fz.PrecisionPolicy("float16", loss_scale=8, growth_interval=2))
    seen = []
    for finite in (True, True, True, False, True, True, False, False, False, False, False, False):
        scale = scale.after(jnp.asarray(finite))
        seen.append((float(scale.scale), int(scale.finite_steps), int(scale.skipped)))
    assert seen == [
        (8, 1, 0),
        (16, 0, 0),  # doubled after two
        (16, 1, 0),
        (8, 0, 1),  # an overflow halves it, and the count begins anew
        (8, 1, 1),
        (16, 0, 1),
        *((s, 0, n) for s, n in zip((8, 4, 2, 1, 1, 1), range(2, 8), strict=True)),  # never below 1
    ]
    largest = LossScale(jnp.float32(2.0**127), jnp.int32(1), jnp.int32(0), growth_interval=2)
    assert float(largest.after(jnp.asarray(True)).scale) == 2.0**127
    assert first_scale(fz.PrecisionPolicy("bfloat16")) is None
    assert float(first_scale(fz.PrecisionPolicy("float16")).scale) == 32768
    assert float(first_scale(fz.PrecisionPolicy({"*": "float32", "a": "float16"})).scale) == 32768
    assert first_scale(fz.PrecisionPolicy("bfloat16", loss_scale=2)).growth_interval == 2000


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_finite(bad):
    tree = {"a": jnp.ones(3), "b": {"c": jnp.array([1.0, bad])}}
    assert not all_finite(tree)
    assert all_finite({"a": jnp.ones(3)})
    assert all_finite(zeros_unless(all_finite(tree), tree))
    assert zeros_unless(True, tree)["a"].tolist() == [1, 1, 1]


def test_powers_of_two_change_nothing(model):
    """In float32 a scale shifts exponents alone: the same step, bit by bit."""
    scaled, plain = (
        start(model, fz.PrecisionPolicy("float32", loss_scale=s), clip_norm=0.1) for s in (2, None)
    )
    for _ in range(3):
        scaled, ours = fz.train_step(scaled, (X, Y))
        plain, theirs = fz.train_step(plain, (X, Y))
        assert ours.compute() == theirs.compute()
    for path, leaf in flatten(plain.params).items():
        np.testing.assert_array_equal(flatten(scaled.params)[path], leaf)
    assert numbers(scaled) == (2, 3, 0)


def test_small_gradients_are_kept(model):
    """Below 6e-8 float16 has nothing: a tiny loss trains with a scale alone."""

    def tiny(logits, labels):
        return 1e-6 * optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    steps = {
        word: fz.train_step(start(model, p, loss=tiny, optimizer="sgd", learning_rate=1e5), (X, Y))[
            0
        ]
        for word, p in (("scaled", policy(2.0**20)), ("one", policy(1)), ("float32", "float32"))
    }
    moves = {
        word: state.params["first"]["kernel"] - model.variables["params"]["first"]["kernel"]
        for word, state in steps.items()
    }
    wanted = np.linalg.norm(moves["float32"])
    assert wanted > 0
    assert np.linalg.norm(moves["scaled"] - moves["float32"]) < 0.05 * wanted
    assert np.linalg.norm(moves["one"] - moves["float32"]) > 0.05 * wanted


def test_a_step_that_overflows_changes_nothing_but_the_counters(model):
    state = start(model, policy(HUGE))
    after, metrics = fz.train_step(state, (X, Y))
    equal(after, state, but=("step", "loss_scale"))
    assert int(after.step) == 1
    assert numbers(after) == (HUGE / 2, 0, 1)
    assert np.isfinite(metrics.compute()["loss"])
    # It halves until it fits, then trains.
    for _ in range(20):
        after, metrics = fz.train_step(after, (X, Y))
    scale, finite, skipped = numbers(after)
    assert skipped + finite == 21
    assert 1 <= skipped < 21
    assert scale == HUGE / 2**skipped
    assert not np.array_equal(after.params["first"]["kernel"], state.params["first"]["kernel"])


def test_clipping_sees_the_gradients_unscaled(model):
    """The update of a clipped step of SGD has the norm that it is clipped to."""
    state = start(model, policy(), optimizer="sgd", learning_rate=1.0, clip_norm=0.01)
    after, _ = fz.train_step(state, (X, Y))
    moved = jax.tree.map(jnp.subtract, after.params, state.params)
    norm = np.sqrt(sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(moved)))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_accumulation_leaves_an_overflowing_part_out(model):
    def step(state, images):
        return fz.train_step(state, (images, Y))[0]

    options = {"optimizer": "sgd", "learning_rate": 1e-2, "accumulate_steps": 2}
    # The middle one is too large for float16, at any scale.
    parts = [X, 1e6 * X, X[::-1]]
    skipping = start(model, policy(), **options)
    for part in parts:
        skipping = step(skipping, part)
    clean = start(model, policy(), **options)
    for part in parts[::2]:
        clean = step(clean, part)
    assert numbers(skipping)[2] == 1
    for path, leaf in flatten(clean.params).items():
        # The scales differ by a factor of two, which rounds subnormal numbers alone.
        np.testing.assert_allclose(flatten(skipping.params)[path], leaf, rtol=1e-3, atol=1e-5)
    assert int(skipping.step) == 3
    assert int(clean.step) == 2


def test_what_is_frozen_stays_and_holds_no_state(model):
    state = start(model, policy(), freeze="first")
    after, _ = fz.train_step(state, (X, Y))
    np.testing.assert_array_equal(
        after.params["first"]["kernel"], model.variables["params"]["first"]["kernel"]
    )
    assert not np.array_equal(
        after.params["last"]["kernel"], model.variables["params"]["last"]["kernel"]
    )
    assert numbers(after) == (1024, 1, 0)


@pytest.mark.parametrize("donate", [False, True])
def test_several_steps_in_one_call(model, donate):
    batches = (np.stack([X] * 6), np.stack([Y] * 6))
    state = start(model, policy(HUGE, interval=2), donate=donate)
    together, _ = fz.train_steps(state, batches)
    one = start(model, policy(HUGE, interval=2))
    for _ in range(6):
        one, _ = fz.train_step(one, (X, Y))
    assert numbers(together) == numbers(one)
    assert int(together.step) == 6
    for path, leaf in flatten(one.params).items():
        np.testing.assert_allclose(flatten(together.params)[path], leaf, rtol=1e-2, atol=1e-4)


def test_a_run_resumes_bitwise(model, tmp_path):
    def trainer(name):
        options = {"precision": policy(2.0**22, interval=3), "ema_decay": 0.9}
        return fz.Trainer(model, run_dir=tmp_path / name, **options)

    data, quiet = (np.tile(X, (3, 1)), np.tile(Y, 3)), {"batch_size": 8, "progress": False}
    whole, part = trainer("whole"), trainer("part")
    whole.fit(data, epochs=4, **quiet)
    part.fit(data, epochs=2, **quiet, callbacks=[fz.callbacks.ModelCheckpoint()])
    assert int(part.state.loss_scale.skipped) > 0
    again = trainer("part")
    again.fit(data, epochs=4, resume=True, **quiet)
    equal(again.state, whole.state)
    assert numbers(again.state) == numbers(whole.state)
    # As bytes, too.
    equal(
        fz.from_bytes(start(model, policy(), ema_decay=0.9), fz.to_bytes(whole.state)), whole.state
    )
    other = fz.Trainer(model, run_dir=tmp_path / "part", ema_decay=0.9, precision="bfloat16")
    with pytest.raises(CheckpointError, match="holds the scale of a float16 loss"):
        other.fit(data, epochs=5, resume=True, **quiet)


def test_without_it_a_state_has_the_arrays_that_it_had(model):
    assert not [p for p in state_arrays(start(model, "bfloat16")) if p.startswith("loss_scale")]
    assert start(model, None).loss_scale is None
