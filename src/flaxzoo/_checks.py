"""Checks of arguments and fields: sizes, numbers, names. Each returns the value that it passes.

One rule for the exception: a value that an argument does not take raises ``ArgumentError``, which
is a ``ValueError``, whether it is of the wrong kind, out of range, or a word that is not known. The
message names the argument, what it takes, and what it got. ``TypeError`` is left to objects where
another class is wanted altogether (a path where a model goes) and to calls that do not fit.

Fields of a module are checked once, where the module is built, and not in every forward pass.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

from flaxzoo.errors import ArgumentError, did_you_mean


def is_size(value: Any, minimum: int = 1) -> bool:
    """Whether a value is an int, of Python's or NumPy's, of at least ``minimum``; no bool is."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and int(value) >= minimum


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, of Python's, NumPy's or JAX's; no bool is."""
    return math.isfinite(_as_float(value))


def check_size(name: str, value: Any, *, minimum: int = 1, optional: bool = False) -> Any:
    """Checks a width, a count or another size.

    Args:
      name: of the argument, for the message.
      value: its value.
      minimum: the smallest size it takes.
      optional: whether None will do.

    Returns:
      An int of Python's, or None.

    Raises:
      ArgumentError: it is not an int of at least ``minimum``.
    """
    if optional and value is None:
        return None
    if not is_size(value, minimum):
        or_none = " or None" if optional else ""
        raise ArgumentError(f"{name} must be an int of at least {minimum}{or_none}, got {value!r}")
    return int(value)


def check_address(name: str, value: Any) -> tuple[str, int]:
    """Checks the address of a process on another machine.

    Args:
      name: of the argument, for the message.
      value: its value, ``"host:port"``.

    Returns:
      The host and the port.

    Raises:
      ArgumentError: it is none.
    """
    host, _, port = str(value).rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 2**16:
        raise ArgumentError(f"{name} must be 'host:port', such as '10.0.0.1:1234', got {value!r}")
    return host.strip("[]"), int(port)


def check_widths(name: str, value: Any, *, allow_empty: bool = False) -> tuple[int, ...]:
    """Checks a sequence of sizes: the widths of layers, the shape of an example.

    Args:
      name: of the argument, for the message.
      value: its value.
      allow_empty: whether it may have no element.

    Returns:
      Ints of Python's.

    Raises:
      ArgumentError: it is not a sequence of ints of at least 1, or is empty where it must not be.
    """
    sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if not sequence or not all(map(is_size, value)) or not (value or allow_empty):
        amount = "a sequence of" if allow_empty else "one or more"
        hint = f"; for a single one write ({value},)" if is_size(value) else ""
        raise ArgumentError(f"{name} must be {amount} ints of at least 1, got {value!r}{hint}")
    return tuple(map(int, value))


def check_lengths(**sequences: Sequence[Any]) -> None:
    """Checks that sequences, by the names of their arguments, are of one length.

    Raises:
      ArgumentError: they are not.
    """
    lengths = [len(value) for value in sequences.values()]
    if len(set(lengths)) > 1:
        names, counts = (_listed(map(str, values)) for values in (sequences, lengths))
        raise ArgumentError(f"{names} must be of one length, got {counts}")


def check_lists(owner: Any, *names: str) -> None:
    """Checks attributes that have one size for each stage: sequences of sizes, of one length.

    Raises:
      ArgumentError: one is no such sequence, or their lengths differ.
    """
    lists = {name: check_widths(name, getattr(owner, name)) for name in names}
    check_lengths(**lists)


def check_kernel(name: str, value: Any) -> tuple[int, int]:
    """Checks the two sides of a kernel or of an image.

    Args:
      name: of the argument, for the message.
      value: ``(height, width)``, or the side of a square.

    Returns:
      ``(height, width)``.

    Raises:
      ArgumentError: it is neither an int of at least 1 nor a pair of them.
    """
    if is_size(value):
        return int(value), int(value)
    if isinstance(value, tuple | list) and len(value) == 2 and all(map(is_size, value)):
        return int(value[0]), int(value[1])
    raise ArgumentError(f"{name} must be an int of at least 1 or a pair of them, got {value!r}")


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    optional: bool = False,
) -> Any:
    """Checks a finite number.

    Args:
      name: of the argument, for the message.
      value: its value; a scalar of Python's, NumPy's or JAX's.
      minimum: the smallest number it takes.
      maximum: the largest number it takes.
      above: a bound that the number must exceed.
      below: a bound that the number must stay under.
      optional: whether None will do.

    Returns:
      A float, or None.

    Raises:
      ArgumentError: it is no number, infinite, NaN or out of bounds.
    """
    if optional and value is None:
        return None
    number = _as_float(value)
    inside = minimum <= number <= maximum and above < number < below
    if not (inside and math.isfinite(number)):
        takes = _interval(minimum, maximum, above, below) + " or None" * optional
        raise ArgumentError(f"{name} must be {takes}, got {value!r}")
    return number


def check_rate(name: str, value: Any, *, optional: bool = False) -> Any:
    """Checks a rate, such as Dropout's: a number in [0, 1), as ``check_number``."""
    return check_number(name, value, minimum=0, below=1, optional=optional)


def check_flag(name: str, value: Any) -> bool:
    """Checks a switch.

    Args:
      name: of the argument, for the message.
      value: True or False, of Python's or NumPy's.

    Raises:
      ArgumentError: it is neither; 1 and ``"no"`` are not, either.
    """
    if type(value).__name__ not in ("bool", "bool_"):
        raise ArgumentError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_function(name: str, value: Any, *, optional: bool = False) -> Any:
    """Checks a function, or another callable.

    Args:
      name: of the argument, for the message.
      value: its value.
      optional: whether None will do.

    Raises:
      ArgumentError: it cannot be called.
    """
    if not (callable(value) or (optional and value is None)):
        raise ArgumentError(f"{name} must be a function{' or None' * optional}, got {value!r}")
    return value


def check_like(name: str, value: Any, default: Any) -> None:
    """Checks a value of which only the default is known: a switch, a finite number, or anything.

    Args:
      name: of the argument, for the message.
      value: its value.
      default: its default; only those of Python's bool, int and float say something.

    Raises:
      ArgumentError: it is no switch or no finite number where the default is.
    """
    if isinstance(default, bool):
        check_flag(name, value)
    elif isinstance(default, int | float):
        check_number(name, value)


def check_choice(name: str, value: Any, choices: Iterable[str], others: str = "") -> str:
    """Checks one of a few names.

    Args:
      name: of the argument, for the message.
      value: its value.
      choices: the names.
      others: what else the argument takes, for the message, such as ``" or a module"``.

    Raises:
      ArgumentError: it is none of these; the message lists them and the closest.
    """
    names = tuple(choices)
    if isinstance(value, str) and value in names:
        return value
    hint = did_you_mean(value, names) if isinstance(value, str) else ""
    takes = f"one of {', '.join(map(repr, names))}{others}"
    raise ArgumentError(f"{name} must be {takes}, got {value!r}" + (hint and f".{hint}"))


def as_choice(name: str, value: Any, choices: Iterable[str]) -> str | None:
    """One of a few names, or None.

    Args:
      name: of the argument, for the message.
      value: one of ``choices``; ``"none"`` and None both mean None.
      choices: the names.

    Returns:
      The name, or None.

    Raises:
      ArgumentError: it is none of these; the message lists them and the closest.
    """
    if value is None or value == "none":
        return None
    return check_choice(name, value, choices, " or None")


def _as_float(value: Any) -> float:
    """NaN for what is no number, which no bounds hold."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    array = getattr(value, "shape", None) == () and value.dtype.kind != "b"
    return float(value) if real or array else math.nan


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _interval(minimum: float, maximum: float, above: float, below: float) -> str:
    low = f"({above:g}" if above > minimum else f"[{minimum:g}"
    high = f"{below:g})" if below < maximum else f"{maximum:g}]"
    if math.isfinite(min(maximum, below)):
        return f"a number in {low}, {high}"
    if above > minimum:
        return f"a finite number above {above:g}"
    return "a finite number" + (f" of at least {minimum:g}" if math.isfinite(minimum) else "")
