"""What the command line's words mean: numbers, names, ``KEY=VALUE`` pairs."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flaxzoo._checks import check_address
from flaxzoo.errors import ArgumentError, FlaxzooError

# What --kind takes, in the order in which info looks for a name without it.
KINDS = ("models", "optimizers", "losses", "metrics", "schedules", "activations")
_WORDS = {"true": True, "false": False, "none": None}


class SettingError(FlaxzooError, ValueError):
    """An option whose value does not go with the model, the data or another option."""


@contextlib.contextmanager
def settings(what: str) -> Iterator[None]:
    """Reports what the library says about bad settings as the user's mistake.

    For code that only builds things from the user's words: there, and nowhere else, a ValueError
    or TypeError is about these words and not about a fault in the program.

    Args:
      what: the settings, to begin the message with.

    Raises:
      SettingError: the block raised an ``ArgumentError``, or a ValueError, TypeError, KeyError or
        ArithmeticError that is not a ``FlaxzooError`` already.
    """
    try:
        yield
    except ArgumentError as error:
        raise SettingError(f"{what}: {error}") from error
    except FlaxzooError:
        raise
    except KeyError as error:
        raise SettingError(f"{what}: {error.args[0] if error.args else error}") from error
    except (ValueError, TypeError, ArithmeticError) as error:
        raise SettingError(f"{what}: {error}") from error


def literal(text: str) -> Any:
    """A value as Python writes it; ``true``, ``false``, ``none``; anything else is text.

    ``64,32`` is a tuple, ``64,`` a tuple of one, ``1e-3`` a float, ``gelu`` a string.
    """
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    # Sets and bytes are no settings: what looks like them is text.
    return value if isinstance(value, bool | int | float | str | tuple | list | dict) else text


def key_value(text: str) -> tuple[str, Any]:
    """``KEY=VALUE`` as a pair, for argparse."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    return key, literal(value)


def pairs(items: list[tuple[str, Any]], option: str, taken: Mapping[str, str]) -> dict[str, Any]:
    """The dictionary of an option that may be repeated.

    Args:
      items: the pairs of keyword and value.
      option: the name of the option, for messages.
      taken: keys that are set otherwise, with what to say about each.

    Raises:
      SettingError: a key is given twice, or is in ``taken``.
    """
    result: dict[str, Any] = {}
    for key, value in items:
        if key in taken:
            raise SettingError(f"{option} does not take {key!r}: {taken[key]}")
        if key in result:
            raise SettingError(f"{option} {key}=... is given twice")
        result[key] = value
    return result


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas, for argparse."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise argparse.ArgumentTypeError(f"expected names separated by commas, got {text!r}")
    return parts


@dataclasses.dataclass(frozen=True)
class Choice:
    """A name and its options: ``f1:average=macro``.

    Attributes:
      name: a name of a registry.
      options: pairs of keyword and value.
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    def build(self, get: Callable[..., Any]) -> Any:
        """Checks the choice with a registry's ``get``; a bare name stays one, for files."""
        built = get(self.name, **dict(self.options))
        return built if self.options else self.name


def choice(text: str) -> Choice:
    """``NAME`` or ``NAME:KEY=VALUE:...``, for argparse."""
    name, *options = text.strip().split(":")
    if not name:
        raise argparse.ArgumentTypeError(f"expected NAME or NAME:KEY=VALUE, got {text!r}")
    return Choice(name, tuple(key_value(option) for option in options))


def choices(text: str) -> tuple[Choice, ...]:
    """Several of them, separated by commas, for argparse."""
    return tuple(choice(part) for part in names(text))


def integer(minimum: int) -> Callable[[str], int]:
    """A type for argparse: an integer of at least ``minimum``."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {value}")
        return value

    return convert


def devices(text: str) -> int | str:
    """``all`` or a number of devices, for argparse."""
    if text == "all":
        return text
    try:
        return integer(1)(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"expected 'all' or how many: {error}") from None


def address(text: str) -> str:
    """``HOST:PORT``, for argparse."""
    try:
        check_address("the address", text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def number(text: str) -> float:
    """A finite number that is not negative, for argparse."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}") from None
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"must be finite and not negative, got {text}")
    return value


def fraction(text: str) -> float:
    """A number between 0 and 1, both excluded, for argparse."""
    value = number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value


def checkpoint(text: str) -> int | str:
    """``last``, ``best`` or the number of a step, for argparse."""
    if text in ("last", "best"):
        return text
    if text.isdecimal():
        return int(text)
    raise argparse.ArgumentTypeError(f"expected 'last', 'best' or a step, got {text!r}")
