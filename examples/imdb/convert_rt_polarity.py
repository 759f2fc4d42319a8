"""Two files of sentences, one per line, to the CSV that main.py reads.

    python examples/imdb/convert_rt_polarity.py rt-polarity.pos rt-polarity.neg reviews.csv

The files are those of the sentence polarity dataset v1.0 of Pang and Lee (2005); any other two
files of positive and negative texts do as well.
"""

import argparse
import csv
import os
from pathlib import Path


def read_lines(path: Path) -> list[str]:
    """Lines that are not empty; UTF-8, or Latin-1 as the original files are."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    # Not splitlines, for which some characters inside a sentence end a line.
    return [line.strip() for line in text.split("\n") if line.strip()]


def convert(positive: Path, negative: Path, out: Path) -> int:
    """Writes ``text,label`` rows and returns how many."""
    rows = [(text, "pos") for text in read_lines(positive)]
    rows += [(text, "neg") for text in read_lines(negative)]
    temporary = out.with_name(out.name + ".part")
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(rows)
    os.replace(temporary, out)
    return len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("positive", type=Path)
    parser.add_argument("negative", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    try:
        print(f"{convert(options.positive, options.negative, options.out)} texts in {options.out}")
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")


if __name__ == "__main__":
    main()
