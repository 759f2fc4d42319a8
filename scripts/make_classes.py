"""Writes the tables of class names under src/flaxzoo/weights/classes from timm's metadata.

timm ships WordNet ids in the order of the classifiers' outputs, and WordNet's words and
definition for each id. A class is called by its first word; where several classes share it, each
also carries another of its words, or the beginning of its definition, so that a name means one
class. Needs timm installed (its files are read, nothing of it is imported)::

    python scripts/make_classes.py [--output DIRECTORY]
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLES = {
    "imagenet1k": "imagenet_synsets.txt",
    "imagenet12k": "imagenet12k_synsets.txt",
}
# Two of ImageNet's thousand have the same single word.
_OWN = {"n02012849": "crane (bird)", "n03126707": "crane (machine)"}
_DEFINITION_LENGTH = 40


def read_info() -> tuple[dict[str, list[str]], dict[str, str], dict[str, str]]:
    """Reads timm's tables: ids by table, words by id (comma-separated), definition by id."""
    spec = importlib.util.find_spec("timm")
    if spec is None or spec.origin is None:
        raise SystemExit("timm is not installed: pip install --no-deps timm")
    info = Path(spec.origin).parent / "data" / "_info"
    ids = {name: (info / file).read_text("utf-8").split() for name, file in TABLES.items()}
    return (
        ids,
        _pairs(info / "imagenet_synset_to_lemma.txt"),
        _pairs(info / "imagenet_synset_to_definition.txt"),
    )


def short_names(
    ids: Iterable[str], words: Mapping[str, str], definitions: Mapping[str, str]
) -> list[str]:
    """One short name per class, no two the same but for their case."""
    ids = list(ids)
    names = {i: _OWN.get(i, words[i].split(", ")[0]) for i in ids}
    qualifiers: tuple[Callable[[str], str], ...] = (
        lambda i: (words[i].split(", ") + [""])[1],
        lambda i: _beginning(definitions[i], _DEFINITION_LENGTH),
        lambda i: _beginning(definitions[i], 2 * _DEFINITION_LENGTH),
        lambda i: _beginning(definitions[i].rpartition("; ")[2], _DEFINITION_LENGTH),
    )
    for qualifier in qualifiers:
        shared = _shared(names)
        for i in shared:
            text = qualifier(i)
            if text:
                names[i] = f"{words[i].split(', ')[0]} ({text})"
    if left := _shared(names):
        raise SystemExit(f"classes with the same name: {left}")
    return [names[i] for i in ids]


def make(output: Path) -> None:
    """Writes one file per table, a line ``<WordNet id> <name>`` per class."""
    ids, words, definitions = read_info()
    output.mkdir(parents=True, exist_ok=True)
    for table, members in ids.items():
        names = short_names(members, words, definitions)
        lines = [f"{i} {name}\n" for i, name in zip(members, names, strict=True)]
        (output / f"{table}.txt").write_text("".join(lines), "utf-8", newline="\n")
        print(f"{table}: {len(lines)} classes")


def _pairs(path: Path) -> dict[str, str]:
    lines = path.read_text("utf-8").splitlines()
    return {key: value for key, _, value in (line.partition("\t") for line in lines)}


def _shared(names: Mapping[str, str]) -> list[str]:
    counts = collections.Counter(name.casefold() for name in names.values())
    return [i for i, name in names.items() if counts[name.casefold()] > 1]


def _beginning(text: str, length: int) -> str:
    """The first clause of a definition, whole words of at most ``length`` characters."""
    clause = re.sub(r"\([^)]*\) ?", "", text).partition(";")[0].strip()
    first, _, rest = clause.partition(" ")
    clause = rest if first in ("a", "an", "the") and rest else clause
    if len(clause) <= length:
        return clause
    return clause[: length + 1].rpartition(" ")[0].rstrip(",") + " ..."


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--output", type=Path, default=ROOT / "src" / "flaxzoo" / "weights" / "classes"
    )
    make(parser.parse_args().output)


if __name__ == "__main__":
    main()
