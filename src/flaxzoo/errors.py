"""What flaxzoo raises when a caller's input is at fault.

Every class also derives from the built-in exception that the situation calls for, so that
``except KeyError`` or ``except ValueError`` works for people who do not import this module.
The command line turns any ``FlaxzooError`` into one line instead of a traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArgumentError",
    "CallbackError",
    "CheckpointError",
    "DataError",
    "DistributedError",
    "DownloadError",
    "FlaxzooError",
    "MissingExtraError",
    "ShapeError",
    "UninitializedError",
    "UnknownArgumentError",
    "UnknownNameError",
]


class FlaxzooError(Exception):
    """Base class: the caller can mend what the message says."""


class ArgumentError(FlaxzooError, ValueError):
    """An argument or a field with a value that it does not take; the message names it."""


class UnknownNameError(FlaxzooError, KeyError):
    """A name that a registry does not hold."""

    def __str__(self) -> str:
        # KeyError shows the repr of its argument, which would quote the whole sentence.
        return str(self.args[0]) if self.args else ""


class UnknownArgumentError(FlaxzooError, TypeError):
    """A keyword that a registered entry does not take."""


class ShapeError(FlaxzooError, ValueError):
    """An array of the wrong rank, size or dtype; the message names the argument."""


class DataError(FlaxzooError, ValueError):
    """Data that cannot be trained on: empty, not finite, labels out of range, a damaged file."""


class CheckpointError(FlaxzooError, ValueError):
    """A checkpoint or weight file that is damaged, or of another model."""


class DistributedError(FlaxzooError, RuntimeError):
    """Processes that cannot be joined, or that are not of one run; the message names them."""


class DownloadError(FlaxzooError, OSError):
    """A file that could not be fetched from, or sent to, where weights are shared."""


class UninitializedError(FlaxzooError, RuntimeError):
    """A model without variables was asked to compute."""


class CallbackError(FlaxzooError, ValueError):
    """A callback that cannot do its work: a bad setting, or a file that cannot be written."""


class MissingExtraError(FlaxzooError, ImportError):
    """An optional dependency is not installed."""


def closest(name: str, candidates: Iterable[str], limit: int = 5) -> list[str]:
    """The candidates most like ``name``, best first; case and ``-``/``_`` do not count."""

    def fold(text: str) -> str:
        return text.lower().replace("-", "_")

    folded: dict[str, str] = {}
    for candidate in candidates:
        folded.setdefault(fold(candidate), candidate)
    wanted = fold(name)
    matches = difflib.get_close_matches(wanted, folded, n=limit, cutoff=0.6)
    # Substrings catch what edit distance misses: "cross_entropy" in "softmax_cross_entropy".
    matches += [key for key in sorted(folded) if wanted in key and key not in matches]
    return [folded[key] for key in matches[:limit]]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """``" Did you mean 'a', 'b'?"``, or an empty string where nothing is close."""
    matches = closest(name, candidates)
    return f" Did you mean {', '.join(map(repr, matches))}?" if matches else ""
