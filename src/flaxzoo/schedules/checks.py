"""Checks of numbers that users pass; every message names the argument."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np


def number(label: str, value: Any) -> float:
    """``value`` as a float: a Python, numpy or JAX scalar, but not a boolean.

    Raises:
      TypeError: anything else.
    """
    is_real = isinstance(value, numbers.Real) or getattr(value, "shape", None) == ()
    if not is_real or isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{label} must be a number, got {value!r}")
    return float(value)


def rate(label: str, value: Any) -> float:
    """``value`` as a finite, non-negative float.

    Raises:
      TypeError: it is not a number.
      ValueError: it is negative, infinite or NaN.
    """
    result = number(label, value)
    if not (math.isfinite(result) and result >= 0):
        raise ValueError(f"{label} must be finite and not negative, got {result}")
    return result


def fraction(label: str, value: Any) -> float:
    """``value`` as a float in [0, 1).

    Raises:
      TypeError: it is not a number.
      ValueError: it is out of range.
    """
    result = number(label, value)
    if not 0 <= result < 1:
        raise ValueError(f"{label} must be in [0, 1), got {result}")
    return result


def positive(label: str, value: Any) -> float:
    """``value`` as a finite float above zero.

    Raises:
      TypeError: it is not a number.
      ValueError: it is zero, negative, infinite or NaN.
    """
    result = number(label, value)
    if not (math.isfinite(result) and result > 0):
        raise ValueError(f"{label} must be finite and positive, got {result}")
    return result


def steps(label: str, value: Any, *, least: int) -> int:
    """``value`` as a Python integer of at least ``least``.

    Raises:
      TypeError: it is not an integer.
      ValueError: it is too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{label} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{label} must be at least {least}, got {value}")
    return int(value)


def span(total_steps: int, warmup_steps: int) -> tuple[int, int]:
    """``total_steps`` and ``warmup_steps``, the second less than the first.

    Raises:
      TypeError: one is not an integer.
      ValueError: ``total_steps < 1``, ``warmup_steps < 0`` or no step is left after the warm-up.
    """
    total = steps("total_steps", total_steps, least=1)
    warmup = steps("warmup_steps", warmup_steps, least=0)
    if warmup >= total:
        raise ValueError(f"warmup_steps ({warmup}) must be less than total_steps ({total})")
    return total, warmup


def edges(boundaries: Sequence[int]) -> list[int]:
    """``boundaries`` as a list of increasing positive integers.

    Raises:
      TypeError: one is not an integer.
      ValueError: one is below 1, or they do not increase.
    """
    found = [steps("boundaries", b, least=1) for b in boundaries]
    if any(later <= earlier for earlier, later in itertools.pairwise(found)):
        raise ValueError(f"boundaries must increase, got {found}")
    return found
