"""Texts to tokens: standardise, split, leave out stop words, join n-grams.

Tokens are UTF-8 bytes inside. Lower-casing, deleting and splitting bytes touch ASCII alone, which
is just what the TensorFlow operations behind Keras's ``TextVectorization`` do, and it is fast.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from flaxzoo._checks import check_choice, is_size
from flaxzoo.data.stop_words import stop_words as stop_words_of
from flaxzoo.errors import ArgumentError, DataError

Standardize = str | Callable[[str], str] | None
Split = str | Callable[[str], Iterable[str]] | None

STANDARDIZERS = ("lower_and_strip_punctuation", "lower", "strip_punctuation")
SPLITS = ("whitespace", "character")
PUNCTUATION = "!\"#$%&()*+,-./:;<=>?@[\\]^_`{|}~'"
# Texts that are lower-cased and stripped in one go.
_CHUNK = 4096
# A byte that UTF-8 never holds, so that joined texts can be parted again.
_SEPARATOR = b"\xff"
_DELETE = PUNCTUATION.encode()


class Tokenizer:
    """What makes tokens of a text.

    Args:
      standardize: what is done to a text first; see ``TextVectorizer``.
      split: how a text is split; see ``TextVectorizer``.
      ngrams: which n-grams are formed; see ``TextVectorizer``.
      stop_words: which words are left out; see ``TextVectorizer``.

    Attributes:
      widths: the widths of the n-grams, in their order; None where tokens stay single.
      stop_words: the words that are left out, as ``standardize`` makes them.

    Raises:
      ArgumentError: an unknown ``standardize``, ``split`` or language of stop words, n-grams of
        a width below 1, or stop words of characters.
    """

    def __init__(
        self,
        standardize: Standardize = "lower_and_strip_punctuation",
        split: Split = "whitespace",
        ngrams: int | Iterable[int] | None = None,
        stop_words: str | Iterable[str] | None = None,
    ) -> None:
        for name, value, choices in (
            ("standardize", standardize, STANDARDIZERS),
            ("split", split, SPLITS),
        ):
            if value is not None and not callable(value):
                check_choice(name, value, choices, others=", a function or None")
        self.standardize = standardize
        self.split = split
        self.widths = _widths(ngrams)
        if stop_words is not None and split == "character":
            raise ArgumentError("stop_words are words; split='character' has none to leave out")
        if isinstance(stop_words, str):
            stop_words = stop_words_of(stop_words)
        # Words meet the list after they were standardised: "Don't" has become "dont" by then.
        self.stop_words = frozenset(self._standardized(encode_all(stop_words or (), "stop_words")))

    def __call__(
        self, texts: Iterable[Any], name: str = "texts", *, batches: bool = False
    ) -> Iterator[list[bytes]]:
        """The tokens of one text after another; ``texts`` is read as far as needed.

        Args:
          texts: str, or bytes in UTF-8. A list, a tuple or an array among them is one text that is
            tokenised already: its items are standardised, and stay single tokens.
          name: the name of the argument, for messages.
          batches: whether a list of which an item is split into several tokens is a batch of
            texts, instead of an error.

        Raises:
          DataError: something is not a text, or a token is several; the message gives its place.
        """
        source, start = iter_texts(texts, name), 0
        while chunk := list(itertools.islice(source, _CHUNK)):
            for tokens in self._chunk(chunk, name, start, batches):
                if self.stop_words:
                    tokens = [token for token in tokens if token not in self.stop_words]
                yield tokens if self.widths is None else _ngrams(tokens, self.widths)
            start += len(chunk)

    def _chunk(
        self, chunk: list[Any], name: str, start: int, batches: bool
    ) -> Iterator[list[bytes]]:
        """The tokens of some texts, of which the first stands at ``start``."""
        places = range(start, start + len(chunk))
        if set(map(type, chunk)) <= {str, bytes}:
            texts = [_encode(x, f"{name}[{i}]") for i, x in zip(places, chunk, strict=True)]
            yield from map(self._split, self._standardized(texts))
            return
        documents = [_items(x, f"{name}[{i}]") for i, x in zip(places, chunk, strict=True)]
        items = iter(self._standardized(itertools.chain.from_iterable(documents)))
        for place, raw in zip(places, documents, strict=True):
            split = [self._split(item) for item in itertools.islice(items, len(raw))]
            several = next((i for i, tokens in enumerate(split) if len(tokens) > 1), None)
            if len(split) == 1 or several is None:
                yield list(itertools.chain.from_iterable(split))
            elif batches:
                yield from split
            else:
                text = raw[several].decode("utf-8", "surrogatepass")
                raise DataError(
                    f"{name}[{place}] is a list, which is one text that is tokenised already, but "
                    f"its item {several}, {text!r:.60}, is more than one token: for batches of "
                    "texts pass itertools.chain.from_iterable(batches), and for tokens that stay "
                    "as they are split=None"
                )

    def _standardized(self, texts: Iterable[bytes]) -> list[bytes]:
        texts = list(texts)
        if not texts or self.standardize is None:
            return texts
        if callable(self.standardize):
            standardized = (
                self.standardize(text.decode("utf-8", "surrogatepass")) for text in texts
            )
            return [_encode(text, "standardize(text)") for text in standardized]
        joined = _SEPARATOR.join(texts)
        if self.standardize != "strip_punctuation":
            joined = joined.lower()
        if self.standardize != "lower":
            joined = joined.translate(None, _DELETE)
        return joined.split(_SEPARATOR)

    def _split(self, text: bytes) -> list[bytes]:
        if self.split == "whitespace":
            return text.split()
        if self.split is None:
            return [text]
        string = text.decode("utf-8", "surrogatepass")
        if self.split == "character":
            return [character.encode("utf-8", "surrogatepass") for character in string]
        tokens = self.split(string)  # type: ignore[operator]
        if isinstance(tokens, str | bytes):
            raise DataError(f"split(text) must return the tokens of a text, got {_kind(tokens)}")
        return [_encode(token, "a token of split(text)") for token in tokens]


def iter_texts(texts: Iterable[Any], name: str) -> Iterator[Any]:
    """The elements of what holds texts.

    Raises:
      DataError: ``texts`` is a single text or a table.
    """
    single = isinstance(texts, str | bytes)
    # Iterating over these gives the names of columns.
    table = isinstance(texts, Mapping) or hasattr(texts, "columns")
    if single or table or not isinstance(texts, Iterable):
        hint = "; put it in a list" if single else "; pass one of its columns" if table else ""
        what = type(texts).__name__ if table else _kind(texts)
        raise DataError(f"{name} must be a list or another iterable of str, got {what}{hint}")
    return iter(texts)


def encode_all(texts: Iterable[Any], name: str) -> Iterator[bytes]:
    """UTF-8 bytes of each text; lists and arrays of texts are opened.

    Raises:
      DataError: ``texts`` is a single text or a table, or holds what is no text.
    """
    source = iter_texts(texts, name)
    documents = (_items(text, f"{name}[{place}]") for place, text in enumerate(source))
    return itertools.chain.from_iterable(documents)


def _items(text: Any, name: str) -> list[bytes]:
    """A text in a list, or the items of what holds several."""
    if hasattr(text, "__array__") and not isinstance(text, str | bytes):
        # NumPy's and TensorFlow's; a text may be an array without axes.
        text = np.asarray(text).ravel().tolist()
    if not isinstance(text, list | tuple):
        return [_encode(text, name)]
    return [_encode(item, f"{name}[{place}]") for place, item in enumerate(text)]


def _encode(text: Any, name: str) -> bytes:
    if isinstance(text, str):
        # Half of a surrogate pair is no character, but files hold such things.
        return text.encode("utf-8", "surrogatepass")
    if isinstance(text, bytes):
        try:
            text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{name} is not UTF-8: {error.reason} at byte {error.start}") from None
        return text
    missing = text is None or (isinstance(text, float) and text != text)
    raise DataError(
        f"{name} is {'missing' if missing else f'{_kind(text)}'} where a str is expected"
        + ("; fill or drop missing texts first" if missing else "")
    )


def _kind(value: Any) -> str:
    if isinstance(value, str | bytes):
        return f"the {type(value).__name__} {value[:40]!r}"
    return f"{type(value).__name__} {value!r:.40}"


def _ngrams(tokens: list[bytes], widths: tuple[int, ...]) -> list[bytes]:
    """All n-grams of the first width, then all of the second, and so on."""
    joined: list[bytes] = []
    for width in widths:
        if width == 1:
            joined += tokens
        else:
            shifted = (itertools.islice(tokens, start, None) for start in range(width))
            joined += map(b" ".join, zip(*shifted, strict=False))
    return joined


def _widths(ngrams: int | Iterable[int] | None) -> tuple[int, ...] | None:
    if ngrams is None:
        return None
    widths: tuple[Any, ...] = ()
    if isinstance(ngrams, Iterable):
        widths = tuple(ngrams)
    elif is_size(ngrams):
        widths = tuple(range(1, ngrams + 1))
    if not widths or not all(map(is_size, widths)):
        raise ArgumentError(
            f"ngrams must be None, an int of at least 1 or a tuple of such ints, got {ngrams!r}"
        )
    # Plain ints, as JSON cannot hold NumPy's.
    return tuple(map(int, widths))
