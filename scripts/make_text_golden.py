"""Writes tests/golden/text_keras.json: what Keras's TextVectorization computes.

    python scripts/make_text_golden.py [--output FILE]

It needs keras and tensorflow-cpu (3.15.1 and 2.21.0 wrote the committed file), which flaxzoo's
tests do not have. Texts and settings are below; stored are, for each setting, the vocabulary and
the array.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "text_keras.json"
TRAIN = [
    "The snow fell, the snow stayed; nobody shovelled.",
    "THE lake froze and the dog ran over it.",
    "a dog, a cat, a dog",
    "Don't stop-now: it's half_way (50% off!) #tag @home $5",
    "",
    "   \t \n ",
    "tab\tnew\nline\r\nfeed\x0cvertical\x0bend",
    "no-break\u00a0space ideographic\u3000space line\u2028separator file\x1cseparator",
    "Été ÉTÉ été cafe\u0301 café İstanbul Straße STRASSE ΣΑΣ",
    "😀 😀smile 👩‍👩‍👧 日本語 テキスト مرحبا",
    "\u201ccurly\u201d \u2019quotes\u2019 \u2014 dash\u2026 ½ ² ①",
    "[UNK] unk <pad> a\\b ~`^{x|y}",
    "zero\u200bwidth \ufeffmark Å Å",
    "one two three four five six seven eight nine ten",
]
TEST = [
    "the dog froze",
    "The DOG! stopped unheard-of things",
    "",
    " ",
    "été ÉTÉ 😀 a\u00a0b",
    "one two three four five six seven eight nine ten eleven",
    "a a a cat cat [UNK]",
]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"max_tokens": 12},
    {"max_tokens": 40, "sequence_length": 6},
    {"sequence_length": 30},
    {"standardize": "lower"},
    {"standardize": "strip_punctuation"},
    {"standardize": None},
    {"split": "character", "sequence_length": 16},
    {"split": "character", "ngrams": 2, "max_tokens": 60, "standardize": None},
    {"ngrams": 2},
    {"ngrams": [2]},
    {"ngrams": [3, 1], "max_tokens": 50, "sequence_length": 9},
    {"output": "multi_hot"},
    {"output": "multi_hot", "max_tokens": 10},
    {"output": "count", "ngrams": 2, "max_tokens": 30},
    {"output": "tf_idf"},
    {"output": "tf_idf", "max_tokens": 10, "ngrams": 2},
]
_NAMES = {"sequence_length": "output_sequence_length", "output": "output_mode"}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=GOLDEN)
    output = parser.parse_args(argv).output
    cases = [compute(settings) for settings in SETTINGS]
    output.write_text(json.dumps({"train": TRAIN, "test": TEST, "cases": cases}) + "\n", "utf-8")
    print(f"{output}: {len(cases)} settings, {output.stat().st_size / 1024:.0f} KiB")


def compute(settings: dict[str, Any]) -> dict[str, Any]:
    """One entry of the file."""
    import keras
    import numpy as np

    keywords = {_NAMES.get(name, name): value for name, value in settings.items()}
    if isinstance(keywords.get("ngrams"), list):
        keywords["ngrams"] = tuple(keywords["ngrams"])
    layer = keras.layers.TextVectorization(**keywords)
    layer.adapt(TRAIN)
    return {
        "settings": settings,
        "vocabulary": [str(token) for token in layer.get_vocabulary()],
        "array": np.asarray(layer(TEST)).tolist(),
    }


if __name__ == "__main__":
    main()
