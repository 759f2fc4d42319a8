"""Checks of what an augmentation is built with; every message names the field."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np

# What ``fill`` says in words, besides a colour.
BORDERS = ("mean", "nearest", "reflect")


def number(name: str, value: Any) -> float:
    """``value`` as a finite float.

    Raises:
      TypeError: it is not a number.
      ValueError: it is infinite or NaN.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return float(value)


def at_least(name: str, value: Any, least: int) -> int:
    """``value`` as an int that is not below ``least``.

    Raises:
      TypeError: it is not an integer.
      ValueError: it is too small.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def probability(name: str, value: Any) -> float:
    """``value`` as a float in [0, 1].

    Raises:
      TypeError: it is not a number.
      ValueError: it is outside.
    """
    value = number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a probability: it must be in [0, 1], got {value}")
    return value


def interval(
    name: str,
    value: Any,
    *,
    around: float = 0.0,
    least: float = -math.inf,
    most: float = math.inf,
    above: float | None = None,
) -> tuple[float, float]:
    """A range to draw from uniformly, from a number or a pair.

    Args:
      name: of the field.
      value: a number r >= 0, which stands for ``(around - r, around + r)``, or ``(low, high)``.
      around: what means no change: 0 for angles and shifts, 1 for factors.
      least: the smallest value allowed; a range that a number stands for is cut off there.
      most: the largest value allowed.
      above: a bound that every value must exceed.

    Raises:
      TypeError: neither a number nor a pair of numbers.
      ValueError: out of bounds, or ``low > high``.
    """
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise TypeError(f"{name} must be a number or a pair (low, high), got {value!r}")
        low, high = (number(name, v) for v in value)
    else:
        radius = number(name, value)
        if radius < 0:
            raise ValueError(f"{name} must not be negative, got {radius}; (low, high) is a range")
        low, high = max(around - radius, least), around + radius
    if low > high:
        raise ValueError(f"{name} is a range (low, high), got low {low} above high {high}")
    if low < least or high > most:
        raise ValueError(f"{name} must be within [{least:g}, {most:g}], got ({low:g}, {high:g})")
    if above is not None and low <= above:
        raise ValueError(f"{name} must be above {above:g}, got ({low:g}, {high:g})")
    return low, high


def pair(
    name: str, value: Any, *, above: float = 0.0, most: float = math.inf
) -> tuple[float, float]:
    """``(low, high)`` with ``above < low <= high <= most``.

    Raises:
      TypeError: not a pair of numbers.
      ValueError: out of bounds.
    """
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} must be a pair (low, high), got {value!r}")
    return interval(name, value, above=above, most=most)


def size(name: str, value: Any) -> tuple[int, int] | None:
    """``(height, width)`` from a pair or the side of a square; None stays.

    Raises:
      TypeError: not integers.
      ValueError: below 1.
    """
    if value is None:
        return None
    sides = value if isinstance(value, tuple | list) else (value, value)
    if len(sides) != 2:
        raise TypeError(f"{name} must be an integer or (height, width), got {value!r}")
    return at_least(name, sides[0], 1), at_least(name, sides[1], 1)


def color(name: str, value: Any, words: Iterable[str] = BORDERS) -> str | tuple[float, ...]:
    """A word, or a colour as a tuple of one value or one per channel.

    Raises:
      TypeError: neither.
      ValueError: an unknown word, or no values.
    """
    words = tuple(words)
    if isinstance(value, str):
        if value not in words:
            raise ValueError(
                f"{name} must be one of {', '.join(map(repr, words))}, a number, or a number per "
                f"channel, got {value!r}"
            )
        return value
    values = value if isinstance(value, tuple | list) else (value,)
    if not values:
        raise ValueError(f"{name} must have a value per channel, got {value!r}")
    return tuple(number(name, v) for v in values)
