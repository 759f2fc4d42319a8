"""The schedules themselves: each factory returns a function from step to value."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_choice, check_flag, check_number, check_size
from flaxzoo.errors import ArgumentError
from flaxzoo.registry import Registry

ScheduleFn = Callable[[Any], Any]

REGISTRY: Registry[ScheduleFn] = Registry("schedule")


# What the decorator adds to the arguments in a docstring.
_WARMUP = """
  warmup_steps: updates spent rising from ``init_value`` to ``peak_value``.
  init_value: value at step 0 where there is a warm-up."""


def _define(*aliases: str) -> Callable[[Callable[..., ScheduleFn]], Callable[..., ScheduleFn]]:
    """Decorator: registers a schedule with a linear warm-up before it.

    It adds ``warmup_steps`` and ``init_value`` to the arguments. The function below it makes what
    follows the warm-up: steps count from its end, and ``total_steps`` are those that remain.
    """

    def add(factory: Callable[..., ScheduleFn]) -> Callable[..., ScheduleFn]:
        own = inspect.signature(factory)

        @functools.wraps(factory)
        def warmed(
            *args: Any, warmup_steps: int = 0, init_value: float = 0.0, **options: Any
        ) -> ScheduleFn:
            call = own.bind(*args, **options)
            call.apply_defaults()
            peak = check_number("peak_value", call.arguments["peak_value"], minimum=0)
            if "total_steps" in own.parameters:
                total = call.arguments["total_steps"]
                call.arguments["total_steps"] = _remaining(total, warmup_steps)
            call.arguments["peak_value"] = peak
            return _after_warmup(factory(*call.args, **call.kwargs), peak, warmup_steps, init_value)

        added = inspect.signature(warmed, follow_wrapped=False).parameters
        shared = [added["warmup_steps"], added["init_value"]]
        warmed.__signature__ = own.replace(  # type: ignore[attr-defined]
            parameters=[*own.parameters.values(), *shared]
        )
        # Without indentation, which newer Pythons take out by themselves.
        text, source, paper = (inspect.getdoc(factory) or "").partition("\n\nSource:")
        warmed.__doc__ = f"{text}{_WARMUP}{source}{paper}"
        return REGISTRY.register(aliases=aliases)(warmed)

    return add


@_define("constant_schedule", "constant_with_warmup")
def constant(peak_value: float = 1e-3) -> ScheduleFn:
    """The same value throughout, after an optional linear warm-up.

    Args:
      peak_value: the value.
    """
    return lambda step: jnp.full(jnp.shape(step), peak_value)


@_define(
    "cosine_decay",
    "cosine_decay_schedule",
    "cosine_annealing",
    "cosine_annealing_lr",
    "cosine_with_warmup",
    "warmup_cosine",
    "warmup_cosine_decay",
    "warmup_cosine_decay_schedule",
)
def cosine(total_steps: int, peak_value: float = 1e-3, *, end_value: float = 0.0) -> ScheduleFn:
    """Linear warm-up, then half a cosine wave down to ``end_value``.

    Args:
      total_steps: updates in the whole run, warm-up included.
      peak_value: value at the end of the warm-up.
      end_value: value at ``total_steps`` and after.

    Source: Loshchilov and Hutter, SGDR (https://arxiv.org/abs/1608.03983), one cycle.
    """
    return _decay(_cosine_shape, total_steps, peak_value, end_value)


@_define("linear_decay", "linear_schedule", "linear_with_warmup")
def linear(total_steps: int, peak_value: float = 1e-3, *, end_value: float = 0.0) -> ScheduleFn:
    """Linear warm-up, then a straight line down to ``end_value``.

    Args:
      total_steps: updates in the whole run, warm-up included.
      peak_value: value at the end of the warm-up.
      end_value: value at ``total_steps`` and after.
    """
    return _decay(_linear_shape, total_steps, peak_value, end_value)


@_define("polynomial_decay", "polynomial_schedule", "polynomial_lr")
def polynomial(
    total_steps: int, peak_value: float = 1e-3, *, power: float = 2.0, end_value: float = 0.0
) -> ScheduleFn:
    """Linear warm-up, then ``(1 - t) ** power`` down to ``end_value``.

    Args:
      total_steps: updates in the whole run, warm-up included.
      peak_value: value at the end of the warm-up.
      power: exponent of the remaining fraction; 1 is ``linear``.
      end_value: value at ``total_steps`` and after.
    """
    power = check_number("power", power, above=0)
    return _decay(lambda t: 1.0 - (1.0 - t) ** power, total_steps, peak_value, end_value)


@_define("exponential_decay", "exponential_decay_schedule", "exponential_lr")
def exponential(
    peak_value: float = 1e-3,
    *,
    decay_rate: float = 0.96,
    transition_steps: int = 1000,
    staircase: bool = False,
    end_value: float = 0.0,
) -> ScheduleFn:
    """Multiplies by ``decay_rate`` every ``transition_steps`` updates after the warm-up.

    Args:
      peak_value: value at the end of the warm-up.
      decay_rate: factor per ``transition_steps``, in (0, 1].
      transition_steps: updates that one factor takes.
      staircase: drop at once at each multiple of ``transition_steps`` rather than smoothly.
      end_value: the value never falls below this.
    """
    floor = check_number("end_value", end_value, minimum=0)
    interval = check_size("transition_steps", transition_steps)
    factor = check_number("decay_rate", decay_rate, above=0, maximum=1)
    check_flag("staircase", staircase)

    def decay(step: Any) -> jax.Array:
        count = jnp.asarray(step) // interval if staircase else jnp.asarray(step) / interval
        return jnp.maximum(peak_value * factor**count, floor)

    return decay


@REGISTRY.register(aliases=["multistep", "multi_step_lr"])
def step(
    boundaries: Sequence[int],
    peak_value: float = 1e-3,
    *,
    factor: float = 0.1,
    warmup_steps: int = 0,
    init_value: float = 0.0,
) -> ScheduleFn:
    """Multiplies by ``factor`` at each boundary, as in the classic ImageNet recipes.

    Args:
      boundaries: increasing steps; from ``boundaries[i]`` on, i + 1 factors apply.
      peak_value: value before the first boundary.
      factor: positive factor.
      warmup_steps: updates spent rising from ``init_value``; boundaries count from step 0
        all the same, and the first one must lie after the warm-up.
      init_value: value at step 0 where there is a warm-up.
    """
    peak = check_number("peak_value", peak_value, minimum=0)
    factor = check_number("factor", factor, above=0)
    edges = _edges(boundaries)
    values = [peak * factor**i for i in range(len(edges) + 1)]
    warmup = check_size("warmup_steps", warmup_steps, minimum=0)
    if edges and edges[0] < warmup:
        raise ArgumentError(
            f"warmup_steps ({warmup}) must not pass the first of boundaries ({edges[0]})"
        )
    return _after_warmup(_staircase([e - warmup for e in edges], values), peak, warmup, init_value)


@REGISTRY.register(
    aliases=["piecewise_constant", "piecewise_constant_decay", "piecewise_constant_schedule"]
)
def piecewise(boundaries: Sequence[int], values: Sequence[float]) -> ScheduleFn:
    """Holds ``values[i]`` until ``boundaries[i]``, then the next one.

    Args:
      boundaries: increasing steps at which the value changes.
      values: one more than boundaries.
    """
    edges = _edges(boundaries)
    levels = [check_number("values", v, minimum=0) for v in _sequence("values", values)]
    if len(levels) != len(edges) + 1:
        raise ArgumentError(
            f"values must have one entry more than boundaries ({len(edges)}), got {len(levels)}"
        )
    return _staircase(edges, levels)


@REGISTRY.register(aliases=["onecycle", "one_cycle_lr", "cosine_onecycle_schedule"])
def one_cycle(
    total_steps: int,
    peak_value: float = 1e-3,
    *,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    anneal: Literal["cosine", "linear"] = "cosine",
    pct_final: float = 0.85,
) -> ScheduleFn:
    """Up to the peak and down again over the whole run.

    The cosine form rises from ``peak_value / div_factor`` to the peak and falls to
    ``peak_value / (div_factor * final_div_factor)``. The linear form falls first back to where
    it began, at ``pct_final`` of the run, and from there to the same end.

    Args:
      total_steps: updates in the whole run.
      peak_value: highest value, reached at ``round(pct_start * total_steps)``.
      pct_start: fraction of the run spent rising, in (0, 1).
      div_factor: peak over the value at step 0.
      final_div_factor: value at step 0 over the value at the end.
      anneal: ``"cosine"`` or ``"linear"``.
      pct_final: linear form only: fraction of the run at which the last descent begins.

    Source: Smith and Topin, Super-Convergence (https://arxiv.org/abs/1708.07120).
    """
    total = check_size("total_steps", total_steps)
    peak = check_number("peak_value", peak_value, minimum=0)
    for label, factor in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
        check_number(label, factor, above=0)
    check_number("pct_start", pct_start, above=0, below=1)
    check_number("pct_final", pct_final, above=0, maximum=1)
    start = peak / div_factor
    top, last = round(pct_start * total), start / final_div_factor
    if check_choice("anneal", anneal, ("cosine", "linear")) == "cosine":
        return _interpolate([0, top, total], [start, peak, last], _cosine_shape)
    check_number("pct_final", pct_final, minimum=pct_start, maximum=1)
    knots = [0, top, round(pct_final * total), total]
    return _interpolate(knots, [start, peak, start, last], _linear_shape)


@_define("cosine_restarts", "cosine_with_restarts", "cosine_annealing_warm_restarts")
def sgdr(
    total_steps: int,
    peak_value: float = 1e-3,
    *,
    num_cycles: int = 4,
    cycle_mult: float = 1.0,
    peak_mult: float = 1.0,
    end_value: float = 0.0,
) -> ScheduleFn:
    """Cosine decay with warm restarts: falls to ``end_value`` and jumps back up, several times.

    The cycles fill ``total_steps - warmup_steps``; the paper's first length T_0 follows from
    ``num_cycles`` and ``cycle_mult``.

    Args:
      total_steps: updates in the whole run, warm-up included.
      peak_value: value at the start of the first cycle.
      num_cycles: number of cycles.
      cycle_mult: length of a cycle over the one before (the paper's T_mult).
      peak_mult: peak of a cycle over the one before.
      end_value: value that each cycle falls to.

    Source: Loshchilov and Hutter, SGDR (https://arxiv.org/abs/1608.03983).
    """
    end = check_number("end_value", end_value, minimum=0)
    cycles = check_size("num_cycles", num_cycles)
    for label, factor in (("cycle_mult", cycle_mult), ("peak_mult", peak_mult)):
        check_number(label, factor, above=0)
    lengths = np.power(float(cycle_mult), np.arange(cycles))
    edges = np.rint(total_steps * np.cumsum(lengths) / lengths.sum()).astype(int)
    starts = np.concatenate([[0], edges[:-1]])
    if np.any(edges <= starts):
        raise ArgumentError(
            f"num_cycles ({cycles}) with cycle_mult ({cycle_mult}) leaves a cycle without a step: "
            f"total_steps - warmup_steps is {total_steps}"
        )
    peaks = np.asarray(peak_value * np.power(float(peak_mult), np.arange(cycles)), np.float32)

    def decay(step: Any) -> jax.Array:
        index = jnp.clip(jnp.searchsorted(starts, step, side="right") - 1, 0, cycles - 1)
        first, length = jnp.asarray(starts)[index], jnp.asarray(edges - starts)[index]
        top = jnp.asarray(peaks)[index]
        return top + (end - top) * _cosine_shape(jnp.clip((step - first) / length, 0.0, 1.0))

    return decay


def _linear_shape(t: Any) -> Any:
    return t


def _cosine_shape(t: Any) -> Any:
    return 0.5 * (1.0 - jnp.cos(jnp.pi * t))


def _interpolate(
    knots: Sequence[int], values: Sequence[float], shape: Callable[[Any], Any]
) -> ScheduleFn:
    """Passes through ``values`` at ``knots``; ``shape`` maps [0, 1] onto itself in between."""
    # Kept in numpy: a JAX array made under someone's trace would leak out of it.
    x, y = np.asarray(knots), np.asarray(values, np.float32)

    def schedule(step: Any) -> jax.Array:
        # Coinciding knots (a phase shorter than a step) are passed over by side="right".
        index = jnp.clip(jnp.searchsorted(x, step, side="right") - 1, 0, len(knots) - 2)
        left, right = jnp.asarray(x)[index], jnp.asarray(x)[index + 1]
        start, stop = jnp.asarray(y)[index], jnp.asarray(y)[index + 1]
        t = jnp.clip((step - left) / jnp.maximum(right - left, 1), 0.0, 1.0)
        return start + (stop - start) * shape(t)

    return schedule


def _remaining(total_steps: int, warmup_steps: int) -> int:
    """The steps after the warm-up, of which there must be one."""
    total = check_size("total_steps", total_steps)
    warmup = check_size("warmup_steps", warmup_steps, minimum=0)
    if warmup >= total:
        raise ArgumentError(f"warmup_steps ({warmup}) must be less than total_steps ({total})")
    return total - warmup


def _sequence(name: str, value: Any) -> Sequence[Any]:
    if np.ndim(value) != 1:
        raise ArgumentError(f"{name} must be a sequence of numbers, got {value!r}")
    return value


def _edges(boundaries: Sequence[int]) -> list[int]:
    """Boundaries as ints, which must increase."""
    edges = [check_size("boundaries", step) for step in _sequence("boundaries", boundaries)]
    if any(later <= earlier for earlier, later in itertools.pairwise(edges)):
        raise ArgumentError(f"boundaries must increase, got {edges}")
    return edges


def _decay(
    shape: Callable[[Any], Any], steps: int, peak_value: float, end_value: float
) -> ScheduleFn:
    end = check_number("end_value", end_value, minimum=0)
    return _interpolate([0, steps], [peak_value, end], shape)


def _after_warmup(
    schedule: ScheduleFn, peak: float, warmup_steps: int, init_value: float
) -> ScheduleFn:
    warmup = check_size("warmup_steps", warmup_steps, minimum=0)
    init = check_number("init_value", init_value, minimum=0)
    if warmup == 0:
        return schedule

    def warmed(step: Any) -> jax.Array:
        rising = init + (peak - init) * jnp.asarray(step) / warmup
        return jnp.where(jnp.asarray(step) < warmup, rising, schedule(jnp.asarray(step) - warmup))

    return warmed


def _staircase(edges: Sequence[int], values: Sequence[float]) -> ScheduleFn:
    boundaries, levels = np.asarray(edges, np.int32), np.asarray(values, np.float32)
    return lambda step: jnp.asarray(levels)[jnp.searchsorted(boundaries, step, side="right")]
