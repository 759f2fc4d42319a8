"""Learning rates that differ between groups of parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from flaxzoo._checks import check_number
from flaxzoo._explain import explained
from flaxzoo._globs import DEFAULT, entry_of_each
from flaxzoo._trees import flatten, prefixes
from flaxzoo.errors import UnknownNameError
from flaxzoo.models.stages import depths_of, stage_paths
from flaxzoo.schedules import Schedule
from flaxzoo.training.freezing import module_and_params


@dataclasses.dataclass(frozen=True)
class Scaled:
    """A schedule times a factor; equal parts give equal ones, so that steps are shared."""

    schedule: Callable[[Any], Any]
    factor: float

    def __call__(self, step: Any) -> Any:
        """The rate of update ``step``, from 0."""
        return self.factor * self.schedule(step)


@dataclasses.dataclass(frozen=True)
class Shifted:
    """A schedule whose update 0 is another one of its own.

    It begins in its middle for what starts to train later than the run, where ``start`` is
    positive, and later than the run for a ``fit`` after the first, where it is negative.
    """

    schedule: Callable[[Any], Any]
    start: int

    def __call__(self, step: Any) -> Any:
        """The rate of update ``step``, from 0; before it begins, its first one."""
        return self.schedule(
            jnp.maximum(step + self.start, 0) if self.start < 0 else step + self.start
        )


def idle_updates(optimizer: Any, first: int, end: int) -> str:
    """A sentence about a schedule that is over before training is; nothing where it is not.

    A schedule that holds a rate worth the name after its end was meant to.

    Args:
      optimizer: a ``flaxzoo.optimizers.Optimizer``.
      first: the first step of a fit.
      end: the step after its last one.
    """
    rate = optimizer.learning_rate
    begin, last = first // optimizer.accumulate_steps, (end - 1) // optimizer.accumulate_steps
    over, peak = _end_and_peak(rate)
    if over is None:
        # Of a function of the user's own nothing is known but its values.
        foreign = callable(rate) and not isinstance(rate, Schedule | Shifted | Scaled)
        if not (foreign and first) or float(rate(begin)) or float(rate(last)):
            return ""
        over = begin
    if last - max(over, begin) < max(1, 0.05 * (last - begin)) or float(rate(last)) > peak / 1000:
        return ""
    return (
        f"the learning rate is {float(rate(last)):g} from update {max(over, begin)} on, and this "
        f"fit goes on to {last + 1}: its schedule is over, and what is trained then hardly "
        "changes. A schedule by name, such as Trainer(learning_rate='cosine'), spans each fit, or "
        "with fit(..., resume=True) the whole run; of others give the length of the run"
    )


def _end_and_peak(rate: Any, shift: int = 0) -> tuple[int | None, float]:
    """The update at which a schedule of ours is over, where it has an end, and its highest rate."""
    if isinstance(rate, Shifted):
        return _end_and_peak(rate.schedule, shift - rate.start)
    if isinstance(rate, Scaled):
        end, peak = _end_and_peak(rate.schedule, shift)
        return end, peak * rate.factor
    options = dict(rate.options) if isinstance(rate, Schedule) else {}
    total = options.get("total_steps")
    return None if total is None else total + shift, float(options.get("peak_value", 1e-3))


def rate_entries(paths: Iterable[str], rates: Mapping[str, Any]) -> dict[str, str]:
    """Which entry of ``rates`` each parameter follows.

    The last entry that matches wins; ``"*"`` is for what none of the others matches, wherever it
    stands.

    Args:
      paths: the paths of all parameters.
      rates: patterns, as ``freeze`` takes them, to anything.

    Returns:
      Path to pattern, without the paths that no entry matches.

    Raises:
      UnknownNameError: (a KeyError) a pattern matches no parameter; it lists the nearest paths.
      ValueError: there are no entries, or one of them is not used, as later ones match all that
        it does.
      TypeError: a pattern is not text.
    """
    if not rates:
        raise ValueError("learning_rate has no entries: give patterns and their rates")
    return entry_of_each(paths, rates, label="learning_rate")


def unmatched_error(paths: Iterable[str], rates: Mapping[str, Any]) -> UnknownNameError:
    """The error for parameters that train and have no learning rate."""
    paths = list(paths)
    shown = ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
    return UnknownNameError(
        f"learning_rate has no entry for {shown}. It has {', '.join(map(repr, rates))}; add "
        f"{DEFAULT!r} for the rest, or freeze it"
    )


@explained
def layer_decay_rates(
    model: Any, learning_rate: float | Callable[[Any], Any], decay: float
) -> dict[str, Any]:
    """Learning rates that shrink from the head down, for ``learning_rate=`` or ``group_rates``.

    Stage ``i`` of ``n`` has ``learning_rate * decay ** (n - 1 - i)``: the head, which is the last
    one of a ``Classifier``, has ``learning_rate`` itself, and the first layers, whose features
    serve many tasks, move least. 0.65 to 0.9 are usual.

    Args:
      model: a ``Model`` with variables or a known input shape; its backbone has stages.
        ``layer_decay=`` of ``create_train_state`` and ``Trainer`` does the same. Optimizers are
        then one per rate: see ``group_rates`` on what that means for clipping.
      learning_rate: the rate of the head, a number or a schedule.
      decay: factor from a stage to the one before it, above 0 and at most 1.

    Returns:
      Groups of parameters, such as ``"backbone/layer1_0"``, to rates, in the order of stages.

    Raises:
      TypeError: ``model`` is not a ``Model``.
      UninitializedError: the model has no variables and does not know its input shape.
      ValueError: a number is out of range.

    Source: Clark et al., ELECTRA (https://arxiv.org/abs/2003.10555); Bao et al., BEiT
    (https://arxiv.org/abs/2106.08254).
    """
    if not callable(learning_rate):
        learning_rate = check_number("learning_rate", learning_rate, minimum=0)
    return decayed(decay_factors(*module_and_params(model), decay), learning_rate)


def decay_factors(module: nn.Module, params: Mapping[str, Any], decay: float) -> dict[str, float]:
    """By how much layer decay multiplies the rate of each group of parameters.

    Stages of one depth, as the backbone says, have one factor.
    """
    decay = check_decay(decay)
    stages = {name: paths for name, paths in stage_paths(module, params).items() if paths}
    stage_of = {path: name for name, paths in stages.items() for path in paths}
    inside: dict[str, set[str | None]] = {}
    for path in flatten(params):
        for group in prefixes(path):
            inside.setdefault(group, set()).add(stage_of.get(path))
    factors: dict[str, float] = {}
    depth_of = depths_of(module)
    depths = list(dict.fromkeys(depth_of[name] for name in stages))
    for name, paths in stages.items():
        for path in paths:
            # The largest group around it that belongs to its stage as a whole.
            group = next(group for group in prefixes(path) if len(inside[group]) == 1)
            factors[group] = decay ** (len(depths) - 1 - depths.index(depth_of[name]))
    return factors


def check_decay(decay: Any) -> float:
    """The factor of layer decay, in (0, 1].

    Raises:
      TypeError: it is not a number.
      ValueError: it is out of range.
    """
    return check_number("layer_decay", decay, above=0, maximum=1)


def decayed(factors: Mapping[str, float], rate: Any) -> dict[str, Any]:
    """The rates of ``decay_factors`` for the head's."""
    return {
        group: Scaled(rate, factor) if callable(rate) else rate * factor
        for group, factor in factors.items()
    }
