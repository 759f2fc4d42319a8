"""Learning-rate schedules: functions from the number of an update to a learning rate.

A schedule is what optax takes wherever a learning rate may vary: a callable ``step -> value``
that works on Python integers and on traced arrays. Steps count optimizer updates from 0: the
first update uses ``schedule(0)``. All of them share a vocabulary:

* ``peak_value``: the highest value, a learning rate (default 1e-3).
* ``total_steps``: number of updates in the whole run, warm-up included. ``end_value`` is
  reached at ``step == total_steps``, that is, just after the last update, and held from there.
* ``warmup_steps``: updates spent rising in a straight line from ``init_value`` to
  ``peak_value``; ``peak_value`` is reached at ``step == warmup_steps``.
"""

from __future__ import annotations

import builtins
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from flaxzoo._checks import check_number
from flaxzoo._explain import explained, missing_from
from flaxzoo.errors import UnknownArgumentError
from flaxzoo.registry import EntryInfo
from flaxzoo.schedules.shapes import REGISTRY, ScheduleFn

__all__ = [
    "REGISTRY",
    "Schedule",
    "ScheduleFn",
    "as_schedule",
    "get",
    "info",
    "list",
    "needs_total_steps",
    "register",
]


@dataclasses.dataclass(frozen=True, repr=False)
class Schedule:
    """A schedule that remembers how it was made; call it with a step.

    Two schedules made with the same name and options are equal and hash alike, so that
    optimizers built on them can share one compiled training step.

    Attributes:
      name: registered name.
      options: the keywords it was made with, sorted by name.
      factory: the registered function that made it.
      fn: the function from step to value.
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    factory: Callable[..., ScheduleFn]
    fn: ScheduleFn = dataclasses.field(compare=False)

    def __call__(self, step: Any) -> Any:
        """The value at ``step`` (an integer or an integer array; 0 is the first update)."""
        return self.fn(step)

    def __reduce__(self) -> Any:
        # It imports Linen, which schedules do without.
        from flaxzoo._pickling import packed, restored

        return restored, (type(self), packed(vars(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Schedule:
        # It cannot change; and what it holds need not be picklable.
        return self

    def __copy__(self) -> Schedule:
        return self

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self.options)
        return f"<schedule {self.name}({options})>"


@explained
def get(name: str, /, **options: Any) -> Schedule:
    """Builds a schedule by name.

    Args:
      name: a name from ``schedules.list()``.
      **options: keywords of that schedule; ``schedules.info(name)`` shows them.

    Returns:
      A callable from the number of an update (0 is the first) to the value there.

    Raises:
      UnknownNameError: no schedule has that name.
      UnknownArgumentError: the schedule does not take a keyword, or lacks one it needs.
      ValueError: an option is out of range; the message names it.
    """
    fn = REGISTRY.get(name, **options)
    kept = tuple(
        sorted(
            (k, tuple(v) if isinstance(v, (builtins.list, np.ndarray)) else v)
            for k, v in options.items()
        )
    )
    return Schedule(REGISTRY.resolve(name), kept, REGISTRY.entry(name), fn)


@explained
def as_schedule(value: Any, /, **options: Any) -> ScheduleFn:
    """Turns a number, a callable or a name into a schedule.

    Args:
      value: a number (kept constant), a schedule (returned as it is) or a registered name.
      **options: keywords for a name.

    Returns:
      A callable from step to value.

    Raises:
      UnknownArgumentError: options were given with something that is not a name.
      ArgumentError: (a ValueError) ``value`` is none of the three, or a number that is negative or
        not finite.
    """
    if isinstance(value, str):
        return get(value, **options)
    if options:
        raise UnknownArgumentError(
            f"options ({', '.join(sorted(options))}) go with the name of a schedule, "
            f"not with {value!r}. Names: {', '.join(REGISTRY.list())}"
        )
    if callable(value):
        return value
    return get("constant", peak_value=check_number("value", value, minimum=0))


def needs_total_steps(name: str) -> bool:
    """Whether schedule ``name`` cannot be built without ``total_steps``.

    Raises:
      UnknownNameError: no schedule has that name.
    """
    parameter = REGISTRY.parameters(name).get("total_steps")
    return parameter is not None and parameter.default is inspect.Parameter.empty


@explained
def info(name: str) -> EntryInfo:
    """Summary, aliases and options of a schedule.

    Raises:
      UnknownNameError: no schedule has that name.
    """
    return REGISTRY.info(name)


register = REGISTRY.register
list = REGISTRY.list
__getattr__ = missing_from(__name__, REGISTRY)
