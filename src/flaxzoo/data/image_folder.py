"""Your own images: a folder per class, or a table of files and labels."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

from flaxzoo._explain import check_options, explained
from flaxzoo.data._image_files import read_table, scan_folders, scan_names
from flaxzoo.data.image_dataset import ImageDataset, ImageSettings


@explained
class ImageFolder(ImageDataset):
    r"""Images in one folder per class: ``root/cat/1.jpg``, ``root/dog/a/2.png``.

    The classes are the folders, sorted as text; their files are found at any depth and sorted
    likewise, so that labels and order do not depend on the file system. Hidden files and files
    that are not named like images are passed over; links are followed, but for those to a folder
    that they lie in. With ``labels`` the names of the files tell the classes instead, such as
    ``root/cat.0.jpg``, ``root/dog.1.jpg``.

    Args:
      root: the directory of class folders, or of files where ``labels`` is given.
      labels: how a file's name tells its class: a regular expression with one group, which is
        searched for in the name, ``r"([a-z]+)\.\d+\.jpg"``, or a function of the file's
        ``pathlib.Path``. None for a folder per class.
      class_names: the classes to expect, in the order of their labels, such as those of the
        training set for a test set; None for all there are.
      split: ``"train"`` or ``"validation"`` for that part of the files, None for all of them.
      validation_fraction: the size of the validation part, as the method ``split`` takes it.
      split_seed: the seed of the split; not ``seed``, so that a run with another order keeps its
        parts.
      **settings: size, batch_size, preprocess, channels, shuffle, seed, drop_last, errors,
        fast_decode, threads, workers: as for ``ImageDataset``. A validation part is never shuffled.

    Attributes:
      files, labels, class_names, num_classes, num_examples, batch_size, preprocess, skipped: as
        for ``ImageDataset``.

    Raises:
      DataError: no such directory, no class folders or only one, or a folder without images; a
        file whose name tells no class by ``labels`` (it is named).
      ArgumentError: (a ValueError) a setting out of range, an unknown ``split`` or ``errors``;
        ``labels`` that are no expression with one group.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        labels: str | re.Pattern[str] | Callable[[Path], Any] | None = None,
        class_names: Sequence[str] | None = None,
        split: str | None = None,
        validation_fraction: float | int = 0.2,
        split_seed: int = 0,
        **settings: Unpack[ImageSettings],
    ) -> None:
        check_options(ImageFolder, settings, ImageSettings.__annotations__, "ImageDataset")
        if labels is None:
            scanned = scan_folders(root, class_names)
        else:
            scanned = scan_names(root, labels, class_names)
        super().__init__(*scanned, **settings)
        self._keep(split, validation_fraction, split_seed)


@explained
class ImageCSV(ImageDataset):
    """Images that a table names: a column of files and a column of labels.

    Args:
      csv: path of a UTF-8 CSV file with a header; or a data frame, or a mapping of columns.
      root: the directory that the files are relative to; None for the CSV file's own, or the
        working directory.
      file_column: name of the column with the paths.
      label_column: name of the column with the classes.
      class_names: the classes in the order of their labels; None for those in the table, sorted as
        numbers if all are whole numbers, else as text.
      delimiter: between the columns of a file.
      split, validation_fraction, split_seed: as for ``ImageFolder``.
      **settings: size, batch_size, preprocess, channels, shuffle, seed, drop_last, errors,
        fast_decode, threads, workers: as for ``ImageDataset``.

    Attributes:
      files, labels, class_names, num_classes, num_examples, batch_size, preprocess, skipped: as
        for ``ImageDataset``. Files are in the order of the table.

    Raises:
      DataError: a table that cannot be read, empty cells, a file that does not exist or is listed
        twice, a label that is not in ``class_names``, one class only, or a setting out of range.
      ArgumentError: (a ValueError) a setting out of range, an unknown ``split`` or ``errors``.
      UnknownNameError: (a KeyError) no such column.
    """

    def __init__(
        self,
        csv: Any,
        root: str | os.PathLike[str] | None = None,
        *,
        file_column: str = "file",
        label_column: str = "label",
        class_names: Sequence[str] | None = None,
        delimiter: str = ",",
        split: str | None = None,
        validation_fraction: float | int = 0.2,
        split_seed: int = 0,
        **settings: Unpack[ImageSettings],
    ) -> None:
        check_options(ImageCSV, settings, ImageSettings.__annotations__, "ImageDataset")
        files, labels, names = read_table(
            csv,
            root,
            file_column=file_column,
            label_column=label_column,
            class_names=class_names,
            delimiter=delimiter,
        )
        super().__init__(
            files,
            labels,
            names,
            **settings,
        )
        self._keep(split, validation_fraction, split_seed)
