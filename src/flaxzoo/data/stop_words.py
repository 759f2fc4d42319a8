"""Lists of stop words: words so common that they say little about what a text is about."""

from __future__ import annotations

from importlib import resources

from flaxzoo._checks import check_choice
from flaxzoo._explain import explained

LANGUAGES = ("english",)


@explained
def stop_words(language: str = "english") -> frozenset[str]:
    """The stop words of a language, in lower case.

    The English list is the closed classes of its grammar (articles, pronouns, prepositions,
    conjunctions, auxiliaries, contractions), written down for this package. It holds ``no``,
    ``not`` and contractions such as ``don't``, which matter where the opinion of a text is
    wanted: take them out with ``stop_words() - {"no", "not", ...}``.

    Args:
      language: ``"english"``.

    Returns:
      The words.

    Raises:
      ArgumentError: there is no list for the language.
    """
    check_choice("language", language, LANGUAGES, others=" (or pass the words themselves)")
    file = resources.files("flaxzoo.data") / "words" / f"stop_words_{language}.txt"
    lines = file.read_text("utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())
