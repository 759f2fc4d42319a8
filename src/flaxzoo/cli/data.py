"""``--data``: which examples, and which of them are held out."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from flaxzoo.errors import did_you_mean

# Not the run's seed: which examples are held out must never depend on it.
_SPLIT_SEED = 0
DEFAULT_FRACTION = 0.2
_SETS = ("digits", "mnist")
# Where load_mnist looks, too.
_FOLDERS = (".", "raw", "MNIST/raw")


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
        return DataSource(name, str(Path(directory).expanduser()))
    if name == "mnist":
        raise argparse.ArgumentTypeError("mnist needs the directory of its IDX files: mnist:DIR")
    hint = did_you_mean(name, _SETS)
    raise argparse.ArgumentTypeError(f"unknown data {text!r}.{hint} Takes: 'digits' or 'mnist:DIR'")


def load(source: DataSource, fraction: float) -> Splits:
    """Reads the data and splits it, always the same way for the same fraction.

    Args:
      source: which data.
      fraction: share of the training examples that is held out for validation, the same share of
        each class.

    Returns:
      The parts.

    Raises:
      DataError: files are missing or damaged, or a part would be empty.
      MissingExtraError: the data needs a package that is not installed.
    """
    classes = tuple(map(str, range(10)))
    if source.name == "digits":
        from flaxzoo.data import load_digits

        train, validation = load_digits(fraction, seed=_SPLIT_SEED)
        note = _note("digits", train, validation)
        return Splits(train, validation, None, classes, note)
    return _load_mnist(Path(source.directory or ""), fraction, classes)


def _load_mnist(root: Path, fraction: float, classes: tuple[str, ...]) -> Splits:
    from flaxzoo.data import load_mnist, train_test_split

    has_train, has_test = _has(root, "train"), _has(root, "t10k") or _has(root, "test")
    test = None
    if has_train or not has_test:
        # With neither, this says which files it looked for.
        examples = load_mnist(root, "train")
        test = load_mnist(root, "test") if has_test else None
    else:
        examples = load_mnist(root, "test")
    train, validation = train_test_split(examples, fraction, seed=_SPLIT_SEED, stratify=examples[1])
    note = _note("mnist", train, validation)
    if test is not None:
        note += f", {len(test[0])} to test"
    elif not has_train:
        note += (
            f" (only the t10k files are in {root}: a stratified split of their "
            f"{len(examples[0])} examples)"
        )
    return Splits(train, validation, test, classes, note)


def _has(root: Path, prefix: str) -> bool:
    return any(
        path.is_file() for folder in _FOLDERS for path in (root / folder).glob(f"{prefix}-*ubyte*")
    )


def _note(name: str, train: tuple[Any, Any], validation: tuple[Any, Any]) -> str:
    return f"{name}: {len(train[0])} examples to train, {len(validation[0])} to validate"
