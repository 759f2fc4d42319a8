from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxzoo import schedules
from flaxzoo.errors import ArgumentError, UnknownArgumentError, UnknownNameError
from flaxzoo.schedules import shapes

STEPS = np.arange(0, 121)

# name -> options that build it
EXAMPLES = {
    "constant": {"peak_value": 0.2},
    "cosine": {"total_steps": 100, "peak_value": 0.2, "warmup_steps": 10},
    "exponential": {"peak_value": 0.2, "transition_steps": 20},
    "linear": {"total_steps": 100, "peak_value": 0.2, "warmup_steps": 10},
    "one_cycle": {"total_steps": 100, "peak_value": 0.2},
    "piecewise": {"boundaries": [30, 60], "values": [0.2, 0.1, 0.05]},
    "polynomial": {"total_steps": 100, "peak_value": 0.2},
    "sgdr": {"total_steps": 100, "peak_value": 0.2},
    "step": {"boundaries": [30, 60], "peak_value": 0.2},
}


def values(name, **options):
    return np.asarray(jax.jit(schedules.get(name, **options))(jnp.asarray(STEPS)))


def close(got, want):
    np.testing.assert_allclose(got, [want(int(s)) for s in STEPS], rtol=2e-5, atol=1e-7)


def test_every_registered_schedule_is_tried_here():
    # Other tests may register schedules of their own.
    entries = {name: schedules.REGISTRY.entry(name) for name in schedules.list()}
    ours = {name for name, entry in entries.items() if entry.__module__ == shapes.__name__}
    assert ours == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_python_integers_and_arrays_agree_and_stay_within_the_peak(name):
    schedule = schedules.get(name, **EXAMPLES[name])
    batch = np.asarray(schedule(jnp.asarray(STEPS)))
    assert batch.shape == STEPS.shape
    one_by_one = [float(schedule(int(s))) for s in STEPS[::20]]
    np.testing.assert_allclose(one_by_one, batch[::20], rtol=1e-6)
    assert batch.max() == pytest.approx(0.2, rel=1e-6)
    assert batch.min() >= 0


def test_constant():
    close(values("constant", peak_value=0.3), lambda s: 0.3)
    close(values("constant", peak_value=0.3, warmup_steps=6), lambda s: 0.3 * min(1, s / 6))


def warm(s, peak, warmup, init, rest):
    return init + (peak - init) * s / warmup if s < warmup else rest(s - warmup)


def test_cosine():
    def decay(s):
        return 0.01 + (0.2 - 0.01) * 0.5 * (1 + math.cos(math.pi * min(s, 90) / 90))

    got = values(
        "cosine", total_steps=100, peak_value=0.2, warmup_steps=10, init_value=0.05, end_value=0.01
    )
    close(got, lambda s: warm(s, 0.2, 10, 0.05, decay))
    assert got[10] == pytest.approx(0.2)
    assert got[100] == pytest.approx(0.01)


def test_linear():
    got = values("linear", total_steps=50, peak_value=0.2, warmup_steps=10)
    close(got, lambda s: warm(s, 0.2, 10, 0.0, lambda t: 0.2 * (1 - min(t, 40) / 40)))


def test_polynomial():
    got = values("polynomial", total_steps=80, peak_value=0.2, power=3.0, end_value=0.1)
    close(got, lambda s: 0.1 + 0.1 * (1 - min(s, 80) / 80) ** 3)


@pytest.mark.parametrize("staircase", [False, True])
def test_exponential(staircase):
    got = values(
        "exponential",
        peak_value=0.2,
        decay_rate=0.5,
        transition_steps=20,
        staircase=staircase,
        end_value=0.02,
    )
    close(got, lambda s: max(0.02, 0.2 * 0.5 ** (s // 20 if staircase else s / 20)))


def test_step():
    got = values("step", boundaries=(30, 60), peak_value=0.2, factor=0.1, warmup_steps=5)
    close(got, lambda s: 0.2 * s / 5 if s < 5 else 0.2 * 0.1 ** ((s >= 30) + (s >= 60)))


def test_step_without_a_boundary_is_constant():
    close(values("step", boundaries=(), peak_value=0.2), lambda s: 0.2)


def test_piecewise():
    got = values("piecewise", boundaries=[30, 60], values=[0.2, 0.0, 0.1])
    close(got, lambda s: 0.2 if s < 30 else 0.0 if s < 60 else 0.1)


def test_one_cycle_cosine():
    def want(s):
        if s < 30:
            return 0.008 + (0.2 - 0.008) * 0.5 * (1 - math.cos(math.pi * s / 30))
        t = min(s - 30, 70) / 70
        return 8e-7 + (0.2 - 8e-7) * 0.5 * (1 + math.cos(math.pi * t))

    close(values("one_cycle", total_steps=100, peak_value=0.2), want)


def test_one_cycle_linear():
    knots, levels = [0, 30, 85, 100], [0.008, 0.2, 0.008, 8e-7]
    got = values("one_cycle", total_steps=100, peak_value=0.2, anneal="linear")
    close(got, lambda s: np.interp(s, knots, levels))


def test_one_cycle_of_one_step():
    assert np.isfinite(values("one_cycle", total_steps=1)).all()


def test_sgdr():
    # 10 warm-up steps, then cycles of 10, 20 and 40 steps, each with half the peak before.
    def want(s):
        if s < 10:
            return 0.2 * s / 10
        s = min(s - 10, 70)
        for start, length, peak in ((30, 40, 0.05), (10, 20, 0.1), (0, 10, 0.2)):
            if s >= start:
                return peak * 0.5 * (1 + math.cos(math.pi * (s - start) / length))
        raise AssertionError(s)

    got = values(
        "sgdr",
        total_steps=80,
        peak_value=0.2,
        num_cycles=3,
        cycle_mult=2.0,
        peak_mult=0.5,
        warmup_steps=10,
    )
    close(got, want)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["cosine", "linear", "polynomial"]),
    total=st.integers(1, 10_000),
    warmup=st.integers(0, 9_999),
    peak=st.floats(1e-6, 10.0),
)
def test_decays_meet_their_ends(name, total, warmup, peak):
    warmup = min(warmup, total - 1)
    schedule = schedules.get(name, total_steps=total, warmup_steps=warmup, peak_value=peak)
    assert float(schedule(warmup)) == pytest.approx(peak, rel=1e-5)
    assert float(schedule(total)) == pytest.approx(0.0, abs=1e-6 * peak)
    assert float(schedule(total + 7)) == float(schedule(total))


def test_as_schedule():
    assert float(schedules.as_schedule(0.3)(17)) == pytest.approx(0.3)
    assert float(schedules.as_schedule(jnp.float32(0.5))(0)) == 0.5
    assert float(schedules.as_schedule("linear", total_steps=10, peak_value=1.0)(5)) == 0.5

    def mine(step):
        return 0.1 * step

    assert schedules.as_schedule(mine) is mine


def test_needs_total_steps():
    needing = {n for n in EXAMPLES if schedules.needs_total_steps(n)}
    assert needing == {"cosine", "linear", "one_cycle", "polynomial", "sgdr"}
    assert schedules.needs_total_steps("onecycle")  # an alias


def test_equal_options_make_equal_schedules():
    one = schedules.get("step", boundaries=[3, 5], peak_value=0.1)
    same = schedules.get("multistep", boundaries=(3, 5), peak_value=0.1)
    assert one == same
    assert hash(one) == hash(same)
    assert one != schedules.get("step", boundaries=[3, 6], peak_value=0.1)
    assert "boundaries=(3, 5)" in repr(one)


def test_a_schedule_of_the_user():
    @schedules.register("test_inverse", override=True)
    def inverse(peak_value=1.0):
        """One over the number of the update."""
        return lambda step: peak_value / (step + 1)

    try:
        assert schedules.get("test_inverse", peak_value=6.0)(2) == 2.0
        assert schedules.info("test_inverse").summary == "One over the number of the update."
    finally:
        del schedules.REGISTRY._entries["test_inverse"]


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        (
            "cosine",
            {"total_steps": 0},
            ArgumentError,
            "must be an int of at least 1, got 0",
        ),
        (
            "cosine",
            {"total_steps": 2.5},
            ArgumentError,
            "total_steps must be an int",
        ),
        ("cosine", {"total_steps": 5, "warmup_steps": 5}, ValueError, "less than total_steps"),
        ("linear", {"total_steps": 5, "warmup_steps": -1}, ValueError, "warmup_steps"),
        ("linear", {"total_steps": 5, "peak_value": -1.0}, ValueError, "peak_value"),
        ("linear", {"total_steps": 5, "end_value": math.nan}, ValueError, "end_value"),
        ("constant", {"peak_value": "big"}, ArgumentError, "peak_value must be a finite number"),
        ("constant", {"peak_value": True}, ArgumentError, "peak_value must be a finite number"),
        ("polynomial", {"total_steps": 5, "power": 0}, ValueError, "power must be"),
        ("exponential", {"decay_rate": 1.5}, ValueError, "decay_rate must be a number in"),
        ("exponential", {"transition_steps": 0}, ValueError, "transition_steps"),
        ("step", {"boundaries": [5, 5]}, ValueError, "boundaries must increase"),
        ("step", {"boundaries": [5], "factor": -1}, ValueError, "factor must be"),
        ("step", {"boundaries": [5], "warmup_steps": 6}, ValueError, "warmup_steps"),
        ("piecewise", {"boundaries": [5], "values": [1.0]}, ValueError, "one entry more"),
        ("one_cycle", {"total_steps": 5, "pct_start": 1.0}, ValueError, "pct_start"),
        (
            "one_cycle",
            {"total_steps": 5, "anneal": "square"},
            ValueError,
            "'cosine', 'linear'",
        ),
        ("one_cycle", {"total_steps": 5, "div_factor": 0}, ValueError, "div_factor"),
        (
            "one_cycle",
            {"total_steps": 5, "anneal": "linear", "pct_final": 0.1},
            ValueError,
            "pct_final",
        ),
        ("sgdr", {"total_steps": 3, "num_cycles": 4}, ValueError, "num_cycles"),
        ("sgdr", {"total_steps": 9, "cycle_mult": 0}, ValueError, "cycle_mult"),
        ("cosine", {}, UnknownArgumentError, "needs 'total_steps'"),
        ("cosine", {"total_steps": 5, "warmup": 2}, UnknownArgumentError, "warmup_steps"),
    ],
)
def test_bad_options(name, options, error, message):
    with pytest.raises(error, match=message):
        schedules.get(name, **options)


def test_bad_values_for_as_schedule():
    with pytest.raises(UnknownNameError, match="cosine"):
        schedules.as_schedule("cosin")
    with pytest.raises(UnknownArgumentError, match="total_steps"):
        schedules.as_schedule(0.1, total_steps=5)
    with pytest.raises(ValueError, match="finite"):
        schedules.as_schedule(-0.1)
    with pytest.raises(ArgumentError, match="number"):
        schedules.as_schedule([0.1])
