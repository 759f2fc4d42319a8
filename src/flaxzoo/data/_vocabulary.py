"""A vocabulary: tokens, and the ids that they have in their order."""

from __future__ import annotations

import io
import itertools
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flaxzoo._files import as_path, open_regular
from flaxzoo.data._text import encode_all
from flaxzoo.errors import DataError

PADDING = ""
OOV = "[UNK]"


class Vocabulary(dict[bytes, int]):
    """Tokens (UTF-8 bytes) to ids; a token that it lacks has the id of the unknown one.

    Args:
      tokens: the tokens in the order of their ids, without special ones.
      special: what comes before them: ``("", "[UNK]")``, or ``("[UNK]",)`` without padding.
    """

    def __init__(self, tokens: Iterable[bytes], special: tuple[str, ...]) -> None:
        super().__init__(zip(tokens, itertools.count(len(special)), strict=False))
        self.special = special
        self._oov = special.index(OOV)
        # The empty token is padding wherever it stands; without padding it is left out.
        self._padding = special.index(PADDING) if PADDING in special else -1

    def __missing__(self, token: bytes) -> int:
        return self._oov if token else self._padding

    def __reduce__(self) -> Any:
        # dict's own pickling would call the class without arguments.
        return Vocabulary, (list(self), self.special)

    @property
    def size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self) + len(self.special)

    def to_list(self, include_special_tokens: bool = True) -> list[str]:
        """The tokens in the order of their ids."""
        tokens = [token.decode("utf-8", "surrogatepass") for token in self]
        return [*self.special, *tokens] if include_special_tokens else tokens


def most_frequent(
    counts: Counter[bytes], special: tuple[str, ...], max_tokens: int | None
) -> Vocabulary:
    """The vocabulary of counted tokens, the most frequent first.

    Tokens of one count come in falling order of their characters' codes: what Keras's
    ``TextVectorization`` does. UTF-8 bytes sort just so.
    """
    # Neither is ever a token that was learnt.
    reserved = {PADDING.encode(), OOV.encode()}
    learnt = [item for item in counts.items() if item[0] not in reserved]
    learnt.sort(key=lambda item: (item[1], item[0]), reverse=True)
    if max_tokens is not None:
        learnt = learnt[: max_tokens - len(special)]
    return Vocabulary((token for token, _ in learnt), special)


def read_vocabulary(
    vocabulary: Iterable[str] | str | os.PathLike[str],
    special: tuple[str, ...],
    max_tokens: int | None,
) -> tuple[Vocabulary, bool]:
    """A vocabulary from a list, or from a text file with one token per line.

    Returns:
      The vocabulary, and whether the special tokens led the list.

    Raises:
      DataError: it is empty, too large, or has a token twice; the file cannot be read.
    """
    if isinstance(vocabulary, str | os.PathLike):
        vocabulary = _read_lines(as_path(vocabulary))
    tokens = list(encode_all(vocabulary, "vocabulary"))
    has_special = tokens[: len(special)] == [token.encode() for token in special]
    if has_special:
        tokens = tokens[len(special) :]
    if not tokens:
        raise DataError("vocabulary is empty")
    if b"" in tokens:
        raise DataError(
            "vocabulary holds the empty token, which is padding; special tokens may only lead the "
            f"list, as {list(special)}"
        )
    learnt = Vocabulary(tokens, special)
    if len(learnt) < len(tokens):
        repeated = [token for token, count in Counter(tokens).items() if count > 1]
        shown = ", ".join(repr(token.decode("utf-8", "replace")) for token in repeated[:5])
        raise DataError(f"vocabulary has {len(repeated)} tokens more than once: {shown}")
    if max_tokens is not None and learnt.size > max_tokens:
        raise DataError(
            f"vocabulary has {learnt.size} entries with the special ones, more than "
            f"max_tokens={max_tokens}"
        )
    return learnt, has_special


def _read_lines(path: Path) -> list[str]:
    try:
        # Only these end a line; a token may well hold what str.splitlines takes for an end.
        # Editors write a byte-order mark, which is no part of the first token.
        with io.TextIOWrapper(open_regular(path), "utf-8-sig") as file:
            return file.read().rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"vocabulary {path}: cannot be read ({reason})") from error
