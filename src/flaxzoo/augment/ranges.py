"""Ranges and colours, the fields that augmentations have and nothing else has."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from flaxzoo._checks import check_number
from flaxzoo.errors import ArgumentError

# What ``fill`` says in words, besides a colour.
BORDERS = ("mean", "nearest", "reflect")


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
      name: the name of the field, for messages.
      value: a number r >= 0, which stands for ``(around - r, around + r)``, or ``(low, high)``.
      around: what means no change: 0 for angles and shifts, 1 for factors.
      least: the smallest value allowed; a range that a number stands for is cut off there.
      most: the largest value allowed.
      above: a bound that every value must exceed.

    Raises:
      ArgumentError: neither a number nor a pair of numbers, out of bounds, or ``low > high``.
    """
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ArgumentError(f"{name} must be a number or a pair (low, high), got {value!r}")
        low, high = (check_number(name, v) for v in value)
    else:
        radius = _radius(name, value)
        low, high = max(around - radius, least), around + radius
    if low > high:
        raise ArgumentError(f"{name} is a range (low, high), got low {low} above high {high}")
    if low < least or high > most:
        raise ArgumentError(f"{name} must be within [{least:g}, {most:g}], got ({low:g}, {high:g})")
    if above is not None and low <= above:
        raise ArgumentError(f"{name} must be above {above:g}, got ({low:g}, {high:g})")
    return low, high


def _radius(name: str, value: Any) -> float:
    if isinstance(value, int | float) and value < 0:
        raise ArgumentError(f"{name} must not be negative, got {value}; (low, high) is a range")
    return check_number(name, value, minimum=0)


def pair(
    name: str, value: Any, *, above: float = 0.0, most: float = math.inf
) -> tuple[float, float]:
    """``(low, high)`` with ``above < low <= high <= most``.

    Raises:
      ArgumentError: not a pair of numbers, or out of bounds.
    """
    if not isinstance(value, tuple | list):
        raise ArgumentError(f"{name} must be a pair (low, high), got {value!r}")
    return interval(name, value, above=above, most=most)


def color(name: str, value: Any, words: Iterable[str] = BORDERS) -> str | tuple[float, ...]:
    """A word, or a colour as a tuple of one value or one per channel.

    Raises:
      ArgumentError: neither, an unknown word, or no values.
    """
    words = tuple(words)
    if isinstance(value, str):
        if value not in words:
            raise ArgumentError(
                f"{name} must be one of {', '.join(map(repr, words))}, a number, or a number per "
                f"channel, got {value!r}"
            )
        return value
    values = value if isinstance(value, tuple | list) else (value,)
    if not values:
        raise ArgumentError(f"{name} must have a value per channel, got {value!r}")
    return tuple(check_number(name, v) for v in values)
