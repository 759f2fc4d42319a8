"""``--data``: which examples, and which of them are held out."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from flaxzoo._files import as_path
from flaxzoo.errors import did_you_mean

# Not the run's seed: which examples are held out must never depend on it.
_SPLIT_SEED = 0
DEFAULT_FRACTION = 0.2
_SETS = ("digits", "mnist")


@dataclasses.dataclass(frozen=True)
class DataSource:
    """The parsed value of ``--data``.

    Attributes:
      name: ``"digits"`` or ``"mnist"``.
      directory: where the files are; None for data that needs none.
    """

    name: str
    directory: str | None = None

    def __str__(self) -> str:
        return self.name if self.directory is None else f"{self.name}:{self.directory}"


@dataclasses.dataclass(frozen=True)
class Splits:
    """Images and labels, in parts that share no example.

    Attributes:
      train: ``(images [N, H, W, C], labels [N])`` to train on.
      validation: held out by ``--validation-fraction``.
      test: the data's own test part; None where it has none besides.
      classes: the name of each class.
      note: one sentence about the parts.
    """

    train: tuple[Any, Any]
    validation: tuple[Any, Any]
    test: tuple[Any, Any] | None
    classes: tuple[str, ...]
    note: str

    def part(self, name: str) -> tuple[Any, Any] | None:
        """``"train"``, ``"validation"`` or ``"test"``; the last may be None."""
        return getattr(self, name)


def data_source(text: str) -> DataSource:
    """``digits`` or ``mnist:DIR``, for argparse."""
    name, _, directory = text.partition(":")
    if name == "digits" and not directory:
        return DataSource(name)
    if name == "mnist" and directory:
        return DataSource(name, str(as_path(directory)))
    if name == "mnist":
        raise argparse.ArgumentTypeError("mnist needs the directory of its IDX files: mnist:DIR")
    hint = did_you_mean(name, _SETS)
    raise argparse.ArgumentTypeError(f"unknown data {text!r}.{hint} Takes: 'digits' or 'mnist:DIR'")


def load(source: DataSource, fraction: float) -> Splits:
    """Reads the data and splits it, always the same way for the same fraction.

    Args:
      source: the data set to load.
      fraction: share of the training examples that is held out for validation, the same share of
        each class.

    Returns:
      The parts.

    Raises:
      DataError: files are missing or damaged, or a part would be empty.
      MissingExtraError: the data needs a package that is not installed.
    """
    from flaxzoo.data import load_digits

    test, note = None, ""
    if source.directory is None:
        train, validation = load_digits(fraction, seed=_SPLIT_SEED)
    else:
        train, validation, test, note = _load_mnist(Path(source.directory), fraction)
    counts = f"{len(train[0])} examples to train, {len(validation[0])} to validate"
    classes = tuple(map(str, range(10)))
    return Splits(train, validation, test, classes, f"{source.name}: {counts}{note}")


def _load_mnist(root: Path, fraction: float) -> tuple[Any, Any, Any, str]:
    from flaxzoo.data import load_mnist, train_test_split
    from flaxzoo.data.mnist import has_split

    has_train, has_test = has_split(root, "train"), has_split(root, "test")
    only_test = has_test and not has_train
    # With neither, this says which files it looked for.
    examples = load_mnist(root, "test" if only_test else "train")
    train, validation = train_test_split(examples, fraction, seed=_SPLIT_SEED, stratify=examples[1])
    if only_test:
        size = len(examples[0])
        note = f" (only the t10k files are in {root}: a stratified split of their {size} examples)"
        return train, validation, None, note
    test = load_mnist(root, "test") if has_test else None
    return train, validation, test, "" if test is None else f", {len(test[0])} to test"
