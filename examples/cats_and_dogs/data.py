"""The pictures of a directory, in whichever of three layouts they come."""

import argparse
from pathlib import Path
from typing import Any

import flaxzoo as fz

LAYOUTS = """\
--data DIR must be given: a directory of pictures of two or more classes, laid out as

  DIR/train.csv, DIR/val.csv     tables with the columns file,label
  DIR/train/, DIR/val/           the files that they name
or
  DIR/train/cat/*.jpg, DIR/train/dog/*.jpg and likewise below DIR/val/
or
  DIR/cat/*.jpg, DIR/dog/*.jpg   of which every fifth, stratified, is held out"""


def add_arguments(parser: argparse.ArgumentParser, run_dir: str) -> None:
    """What the scripts of this example have in common."""
    parser.add_argument("--data", type=Path, help="directory of pictures; see README.md")
    parser.add_argument("--run-dir", type=Path, default=Path(run_dir))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)


def load(root: Path | None, **options: Any) -> tuple[Any, Any]:
    """Training and validation pictures.

    Args:
      root: the directory; see ``LAYOUTS``.
      **options: of ``flaxzoo.data.ImageFolder`` and ``ImageCSV``: ``size``, ``batch_size``, ...

    Returns:
      Two data sets for ``Trainer.fit``, with the same classes.

    Raises:
      DataError: the directory has none of the layouts, or something in it cannot be read.
    """
    if root is None or not root.is_dir():
        found = "" if root is None else f"{root} is no directory.\n"
        raise fz.errors.DataError(found + LAYOUTS)
    parts = root / "train", root / "val"
    tables = root / "train.csv", root / "val.csv"
    if all(table.is_file() for table in tables):
        folders = [part if part.is_dir() else root for part in parts]
        train = fz.data.ImageCSV(tables[0], folders[0], **options)
        kept = options | {"shuffle": False, "class_names": train.class_names}
        return train, fz.data.ImageCSV(tables[1], folders[1], **kept)
    if all(part.is_dir() for part in parts):
        train = fz.data.ImageFolder(parts[0], **options)
        kept = options | {"shuffle": False, "class_names": train.class_names}
        return train, fz.data.ImageFolder(parts[1], **kept)
    if any(path.exists() for path in (*parts, *tables)):
        raise fz.errors.DataError(f"{root} has only a part of what is needed.\n{LAYOUTS}")
    return fz.data.ImageFolder(root, **options).split(0.2)


def majority(train: Any, validation: Any) -> float:
    """Accuracy on ``validation`` of always answering the commonest class of ``train``."""
    counts = [int((train.labels == label).sum()) for label in range(train.num_classes)]
    return float((validation.labels == counts.index(max(counts))).mean())
