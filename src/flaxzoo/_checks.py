"""Checks of arguments and fields, with errors that name them."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from typing import Any

from flaxzoo.errors import did_you_mean


def check_rate(name: str, value: Any) -> None:
    """Checks a rate, such as Dropout's.

    Args:
      name: of the field, for the message.
      value: its value.

    Raises:
      ValueError: it is not a number in [0, 1).
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # Written so that NaN fails, too.
    if not (number and 0 <= value < 1):
        raise ValueError(f"{name} must be a number in [0, 1), got {value!r}")


def is_size(value: Any, minimum: int = 1) -> bool:
    """Whether a value is an int, of Python's or NumPy's, of at least ``minimum``; no bool is."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and int(value) >= minimum


def check_size(name: str, value: Any, *, minimum: int = 1, optional: bool = False) -> None:
    """Checks a width, a count or another size.

    Args:
      name: of the field, for the message.
      value: its value.
      minimum: the smallest size it takes.
      optional: whether None will do.

    Raises:
      ValueError: it is not an int of at least ``minimum``.
    """
    if optional and value is None:
        return
    if not is_size(value, minimum):
        or_none = " or None" if optional else ""
        raise ValueError(f"{name} must be an int of at least {minimum}{or_none}, got {value!r}")


def check_widths(name: str, value: Any, *, allow_empty: bool = False) -> None:
    """Checks a sequence of sizes: the widths of layers, the shape of an example.

    Args:
      name: of the field, for the message.
      value: its value.
      allow_empty: whether it may have no element.

    Raises:
      ValueError: it is not a sequence of ints of at least 1, or is empty where it must not be.
    """
    sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if not sequence or not all(map(is_size, value)) or not (value or allow_empty):
        amount = "a sequence of" if allow_empty else "one or more"
        hint = f"; for a single one write ({value},)" if is_size(value) else ""
        raise ValueError(f"{name} must be {amount} ints of at least 1, got {value!r}{hint}")


def check_kernel(name: str, value: Any) -> None:
    """Checks the size of a two-dimensional kernel.

    Args:
      name: of the field, for the message.
      value: its value.

    Raises:
      ValueError: it is neither an int of at least 1 nor a pair of them.
    """
    pair = isinstance(value, tuple | list) and len(value) == 2 and all(map(is_size, value))
    if not (is_size(value) or pair):
        raise ValueError(f"{name} must be an int of at least 1 or a pair of them, got {value!r}")


def check_choice(name: str, value: Any, choices: Iterable[str], others: str = "") -> None:
    """Checks one of a few names.

    Args:
      name: of the field, for the message.
      value: its value.
      choices: the names.
      others: what the field takes besides them, as the end of the message's list.

    Raises:
      ValueError: it is none of these; the message lists them and the closest.
    """
    names = tuple(choices)
    if not isinstance(value, str) or value not in names:
        hint = did_you_mean(value, names) if isinstance(value, str) else ""
        listed = ", ".join(map(repr, names))
        raise ValueError(f"{name} must be one of {listed}{others}, got {value!r}.{hint}")


def as_choice(name: str, value: Any, choices: Iterable[str]) -> str | None:
    """One of a few names, or None.

    Args:
      name: of the field, for the message.
      value: one of ``choices``; ``"none"`` and None both mean None.
      choices: the names.

    Returns:
      The name, or None.

    Raises:
      ValueError: it is none of these; the message lists them and the closest.
    """
    names = tuple(choices)
    if value is None or value == "none":
        return None
    if not isinstance(value, str) or value not in names:
        hint = did_you_mean(value, names) if isinstance(value, str) else ""
        listed = ", ".join(map(repr, names))
        raise ValueError(f"{name} must be {listed} or None, got {value!r}" + (hint and f".{hint}"))
    return value
