"""Texts to arrays: learn a vocabulary once, then look every token up in it."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from flaxzoo._checks import check_choice, check_size
from flaxzoo._explain import explained
from flaxzoo._host import as_host
from flaxzoo.data._text import Split, Standardize, Tokenizer
from flaxzoo.data._vocabulary import OOV, PADDING, Vocabulary, most_frequent, read_vocabulary
from flaxzoo.data.saved import read_document, write_document
from flaxzoo.errors import DataError, UninitializedError

OUTPUTS = ("int", "multi_hot", "count", "tf_idf")

_KIND = "text_vectorizer"
_SETTINGS = ("max_tokens", "sequence_length", "standardize", "split", "ngrams", "output")


@explained
class TextVectorizer:
    """Turns texts into token ids, or into a row of numbers per text.

    The vocabulary, its order and all numbers are those of Keras's ``TextVectorization`` with the
    same settings (``output`` is its ``output_mode``, ``sequence_length`` its
    ``output_sequence_length``); ``stop_words``, lengths and ``decode`` are additions. Id 0 is
    padding and id 1 stands for every token outside the vocabulary. Tokens are numbered from 2 on
    by falling frequency, and tokens of one frequency by falling order of their characters' codes.

    Args:
      max_tokens: most entries in the vocabulary, padding and the unknown token included; None
        keeps every token.
      sequence_length: number of ids per text: longer texts lose their end, shorter ones are
        padded. None pads to the longest of a call, so that every call may have another shape.
      standardize: ``"lower_and_strip_punctuation"``, ``"lower"``, ``"strip_punctuation"``, None,
        or a function of a str that returns one. The named ones touch ASCII alone, as Keras's
        do; ``str.lower`` and ``str.casefold`` know the letters of other languages.
      split: ``"whitespace"`` (ASCII's), ``"character"``, None for a text as one token, or a
        function of a str that returns tokens.
      ngrams: None for single tokens; 2 for single tokens and pairs, 3 for triples too; ``(2,)``
        for pairs alone. N-grams are tokens, joined by a space.
      stop_words: words to leave out before n-grams are formed: ``"english"``, or words of your
        own. They are standardised as texts are.
      output: ``"int"`` gives ids ``[B, T]``. The others give float32 ``[B, vocabulary_size]``
        without an entry for padding: ``"multi_hot"`` 1 for tokens that occur, ``"count"`` how
        often they do, ``"tf_idf"`` counts times ``log(1 + N / (1 + n))`` for a token in ``n`` of
        the ``N`` texts that were adapted to.
      vocabulary: tokens in the order of their ids, with or without the special ones, in place of
        ``adapt``; or the path of a text file with one token per line.
      idf_weights: a weight for each entry of ``vocabulary``, for ``"tf_idf"``.

    Raises:
      ArgumentError: an unknown ``standardize``, ``split``, ``output`` or list of stop words.
      ValueError: a size or n-gram width that is none, or settings that exclude one another.
      DataError: a vocabulary that is empty, too large or has a token twice.
    """

    def __init__(
        self,
        max_tokens: int | None = None,
        sequence_length: int | None = None,
        *,
        standardize: Standardize = "lower_and_strip_punctuation",
        split: Split = "whitespace",
        ngrams: int | Iterable[int] | None = None,
        stop_words: str | Iterable[str] | None = None,
        output: str = "int",
        vocabulary: Iterable[str] | str | os.PathLike[str] | None = None,
        idf_weights: Any = None,
    ) -> None:
        self.output = check_choice("output", output, OUTPUTS)
        self._special = (PADDING, OOV) if output == "int" else (OOV,)
        # A vocabulary of special tokens alone would turn every text into the same one.
        self.max_tokens = check_size(
            "max_tokens", max_tokens, minimum=len(self._special) + 1, optional=True
        )
        self.sequence_length = check_size("sequence_length", sequence_length, optional=True)
        if sequence_length is not None and output != "int":
            raise ValueError(f"sequence_length is for output='int'; {output!r} has no sequence")
        self._tokenizer = Tokenizer(standardize, split, ngrams, stop_words)
        self._vocabulary: Vocabulary | None = None
        self._weights: np.ndarray | None = None
        self._given = vocabulary is not None
        if vocabulary is not None:
            self._set_vocabulary(vocabulary, idf_weights)
        elif idf_weights is not None:
            raise ValueError("idf_weights belong to a vocabulary; pass vocabulary= with them")

    def __repr__(self) -> str:
        size = "not adapted" if self._vocabulary is None else f"{self.vocabulary_size} tokens"
        return f"TextVectorizer({size}, output={self.output!r})"

    # --- vocabulary ----------------------------------------------------------------------------

    def adapt(self, texts: Iterable[Any]) -> TextVectorizer:
        """Learns the vocabulary (and the weights of ``"tf_idf"``) anew.

        Adapt to the training texts alone: what is learnt from others leaks into the evaluation.

        Args:
          texts: an iterable of str, read once and never held as a whole: a list, a column of a
            data frame, a generator, a file; or of lists of tokens, each of which is a text that
            is tokenised already; or of batches of str, which are lists or arrays with an item of
            several tokens among them.

        Returns:
          The vectorizer itself.

        Raises:
          DataError: there are no texts or no tokens in them, or something is not a text.
          ValueError: the vocabulary was given.
        """
        if self._given:
            raise ValueError("the vocabulary was given; make a TextVectorizer without to adapt it")
        counts: Counter[bytes] = Counter()
        documents: Counter[bytes] = Counter()
        total = 0
        for tokens in self._tokenizer(texts, batches=True):
            total += 1
            counts.update(tokens)
            if self.output == "tf_idf":
                documents.update(set(tokens))
        vocabulary = most_frequent(counts, self._special, self.max_tokens)
        if not vocabulary:
            raise DataError(f"texts hold no tokens to learn from ({total} texts)")
        self._vocabulary = vocabulary
        if self.output == "tf_idf":
            seen = np.array([documents[token] for token in vocabulary], np.int64)
            self._weigh(np.log(1 + total / (1 + seen)))
        return self

    def get_vocabulary(self, include_special_tokens: bool = True) -> list[str]:
        """The tokens; a token's place in the list is its id.

        Args:
          include_special_tokens: whether ``""`` (padding, for ``output="int"``) and ``"[UNK]"``
            lead the list.

        Raises:
          UninitializedError: there is no vocabulary yet.
        """
        return self._known().to_list(include_special_tokens)

    @property
    def vocabulary_size(self) -> int:
        """Number of entries, special ones included: an embedding's ``vocab_size``."""
        return self._known().size

    @property
    def idf_weights(self) -> np.ndarray | None:
        """float32 ``[vocabulary_size]`` for ``"tf_idf"``, else None."""
        return self._weights

    # --- texts to arrays -----------------------------------------------------------------------

    def __call__(self, texts: Iterable[Any]) -> np.ndarray:
        """The array of some texts.

        Args:
          texts: an iterable of B str, an epoch's worth or a batch; or of B lists of tokens, for
            texts that are tokenised already.

        Returns:
          int32 ``[B, T]`` for ``output="int"``, else float32 ``[B, vocabulary_size]``.

        Raises:
          UninitializedError: there is no vocabulary yet.
          DataError: there are no texts, or something is not a text.
        """
        if self.output == "int":
            return self._sequences(texts)[0]
        ids, lengths = self._look_up(texts)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        numbers = np.zeros((len(lengths), self.vocabulary_size), np.float32)
        kept = ids >= 0
        if self.output == "multi_hot":
            numbers[rows[kept], ids[kept]] = 1
            return numbers
        np.add.at(numbers, (rows[kept], ids[kept]), np.float32(1))
        return numbers if self._weights is None else numbers * self._weights

    def with_lengths(self, texts: Iterable[Any]) -> dict[str, np.ndarray]:
        """Token ids and how many of them are a text's: what ``models.LSTM`` takes as inputs.

        Args:
          texts: an iterable of B str.

        Returns:
          ``{"text": int32 [B, T], "lengths": int32 [B]}``; add ``"label"`` to make it a batch, or
          a whole data set for ``Trainer.fit``.

        Raises:
          ValueError: ``output`` is not ``"int"``.
          UninitializedError: there is no vocabulary yet.
          DataError: there are no texts, or something is not a text.
        """
        self._need_ids("with_lengths")
        ids, lengths = self._sequences(texts)
        return {"text": ids, "lengths": lengths}

    def decode(self, ids: Any) -> Any:
        """The text of ids, as far as the vocabulary holds it.

        Args:
          ids: integers ``[T]`` or ``[B, T]``.

        Returns:
          A str, or a list of B: tokens joined by a space (characters by nothing), ``"[UNK]"`` for
          unknown ones, without padding.

        Raises:
          ValueError: ``output`` is not ``"int"``, or there are n-grams, which overlap.
          DataError: ids that are not integers of the vocabulary.
        """
        self._need_ids("decode")
        if self._tokenizer.widths is not None:
            raise ValueError("decode needs ngrams=None: n-grams overlap")
        array = as_host(ids, "ids")
        if not array.size:
            array = array.astype(np.int32)
        if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.integer):
            raise DataError(
                f"ids must be integers [T] or [B, T], got {array.dtype} {list(array.shape)}"
            )
        vocabulary = self.get_vocabulary()
        if array.size and (array.min() < 0 or array.max() >= len(vocabulary)):
            raise DataError(
                f"ids must lie between 0 and {len(vocabulary) - 1}, got {array.min()} to "
                f"{array.max()}"
            )
        joint = "" if self._tokenizer.split == "character" else " "
        texts = [joint.join(vocabulary[i] for i in row if i) for row in np.atleast_2d(array)]
        return texts if array.ndim == 2 else texts[0]

    def _sequences(self, texts: Iterable[Any]) -> tuple[np.ndarray, np.ndarray]:
        ids, lengths = self._look_up(texts, self.sequence_length)
        # At least one step: no model takes sequences of none.
        steps = self.sequence_length or max(1, int(lengths.max()))
        sequences = np.zeros((len(lengths), steps), np.int32)
        sequences[np.arange(steps) < lengths[:, None]] = ids
        return sequences, lengths

    def _look_up(
        self, texts: Iterable[Any], longest: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts in one row, int32, and the number of each text's, int32 [B]."""
        known = self._known()
        lengths: list[int] = []

        def tokens() -> Iterator[list[bytes]]:
            for text in self._tokenizer(texts):
                lengths.append(min(len(text), longest or len(text)))
                yield text[:longest]

        flat = itertools.chain.from_iterable(tokens())
        ids = np.fromiter(map(known.__getitem__, flat), np.int32)
        if not lengths:
            raise DataError("texts are empty: there is nothing to vectorize")
        return ids, np.array(lengths, np.int32)

    # --- files ---------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes settings and vocabulary to a JSON file.

        A function given as ``standardize`` or ``split`` cannot be written; ``load`` asks for it.

        Raises:
          UninitializedError: there is no vocabulary yet.
          DataError: the file cannot be written.
        """
        tokenizer = self._tokenizer
        values = {
            "max_tokens": self.max_tokens,
            "sequence_length": self.sequence_length,
            "standardize": tokenizer.standardize,
            "split": tokenizer.split,
            "ngrams": tokenizer.widths,
            "output": self.output,
        }
        functions = [name for name, value in values.items() if callable(value)]
        words = [word.decode("utf-8", "surrogatepass") for word in tokenizer.stop_words]
        weights = None if self._weights is None else self._weights.tolist()
        document = {
            "settings": {name: values[name] for name in _SETTINGS if name not in functions},
            "functions": functions,
            "stop_words": sorted(words),
            "vocabulary": self.get_vocabulary(),
            "idf_weights": weights,
        }
        write_document(path, _KIND, document)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **functions: Any) -> TextVectorizer:
        """Reads what ``save`` wrote.

        Args:
          path: the file.
          **functions: ``standardize`` or ``split`` where a function had been given.

        Raises:
          DataError: the file is missing, damaged or of something else, or lacks a function that
            is not given again.
        """
        document = read_document(path, _KIND)
        try:
            needed, settings = document["functions"], document["settings"]
            if missing := [name for name in needed if name not in functions]:
                raise DataError(
                    f"{path}: {missing[0]} was a function; pass it again: "
                    f"TextVectorizer.load(path, {missing[0]}=...)"
                )
            if unknown := [name for name in functions if name not in needed]:
                raise DataError(f"{path}: {unknown[0]} is in the file and cannot be replaced")
            settings = {name: settings[name] for name in _SETTINGS if name not in needed}
            vectorizer = cls(
                **settings,
                **functions,
                vocabulary=list(document["vocabulary"]),
                idf_weights=document["idf_weights"],
            )
            words = (word.encode("utf-8", "surrogatepass") for word in document["stop_words"])
            # They were standardised before they were saved.
            vectorizer._tokenizer.stop_words = frozenset(words)
        except DataError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path}: not understood ({error})") from error
        vectorizer._given = False
        return vectorizer

    # --- helpers -------------------------------------------------------------------------------

    def _set_vocabulary(self, vocabulary: Any, idf_weights: Any) -> None:
        self._vocabulary, has_special = read_vocabulary(vocabulary, self._special, self.max_tokens)
        if self.output == "tf_idf":
            weights = np.asarray(idf_weights if idf_weights is not None else [], np.float32)
            entries = self._vocabulary.size if has_special else len(self._vocabulary)
            if weights.shape != (entries,):
                raise DataError(
                    f"idf_weights must be one number per entry of vocabulary, [{entries}], "
                    f"got {list(weights.shape)}"
                )
            self._weigh(weights, padded=has_special)
        elif idf_weights is not None:
            raise ValueError(f"idf_weights are for output='tf_idf', not {self.output!r}")

    def _weigh(self, weights: np.ndarray, padded: bool = False) -> None:
        weights = weights.astype(np.float32)
        # Unknown tokens weigh what known ones do on average, for want of a better number.
        self._weights = weights if padded else np.concatenate([[weights.mean()], weights])

    def _known(self) -> Vocabulary:
        if self._vocabulary is None:
            raise UninitializedError(
                "the TextVectorizer has no vocabulary yet: adapt(texts), or give vocabulary="
            )
        return self._vocabulary

    def _need_ids(self, method: str) -> None:
        if self.output != "int":
            raise ValueError(f"{method} needs output='int'; {self.output!r} has no token ids")
