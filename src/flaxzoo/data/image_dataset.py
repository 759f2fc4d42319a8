"""Image files as batches: what ``ImageFolder`` and ``ImageCSV`` have in common."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict, TypeVar

import numpy as np

from flaxzoo._checks import check_choice, check_kernel, check_size
from flaxzoo._explain import explained
from flaxzoo._host import as_host
from flaxzoo.data._image_batches import Chunks, Decoder, read_batches
from flaxzoo.data._image_files import check_class_names
from flaxzoo.data.arrays import held_out_count, stratified
from flaxzoo.data.epochs import Epochs
from flaxzoo.errors import DataError, ShapeError
from flaxzoo.preprocess import Preprocess, available_cpus

_ERRORS = ("raise", "skip")
_SPLITS = ("train", "validation")
_MAX_THREADS = 16
_SIZE = (224, 224)

Self = TypeVar("Self", bound="ImageDataset")


class ImageSettings(TypedDict, total=False):
    """The keywords of ``ImageDataset``, which describes them."""

    size: int | tuple[int, int] | None
    batch_size: int
    preprocess: Preprocess | None
    channels: int | None
    shuffle: bool
    seed: int
    drop_last: bool
    errors: str
    fast_decode: bool
    threads: int | None
    workers: int


@explained
class ImageDataset(Epochs):
    """Batches of image files, decoded in parallel, for ``Trainer.fit`` as it is.

    The order of an epoch is a pure function of ``(seed, epoch)``, and a batch one of its files:
    the number of threads or processes changes nothing, and a run resumes in mid-epoch without
    reading what it has seen.

    Args:
      files: paths of the images.
      labels: int ``[N]``, each file's class, from 0.
      class_names: a name per class.
      size: the size of the batches in pixels, ``(height, width)`` or one number for both; 224 by
        default.
        Pictures are resized to it whatever their aspect ratio.
      batch_size: images per batch.
      preprocess: a model's ``spec.preprocess``: its size, crop and normalisation, exactly as
        ``model.predict`` does it. None gives values in [0, 1].
      channels: 3 for RGB, the default, 1 for grey.
      shuffle: whether each epoch has an order of its own; otherwise the order is the files'.
      seed: non-negative int that selects the orders.
      drop_last: whether to leave out a last batch of fewer than ``batch_size`` images.
      errors: what a file that cannot be read does. ``"raise"`` stops at its batch with its name;
        ``"skip"`` warns, once per file, and gives its row the weight 0.
      fast_decode: whether large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where that is
        still no smaller than needed. Much faster for photographs of many megapixels; the pixels
        are then not quite those of ``model.predict``.
      threads: the number of threads that decode; None for one per processor, at most 16.
      workers: the number of processes that decode instead of threads. They take about a
        second to start, every epoch, and pay only where threads do not keep up; a script then
        needs ``if __name__ == "__main__":``.

    Attributes:
      files: list of paths.
      labels: int32 ``[N]``.
      class_names: list of names.
      num_classes: number of them.
      num_examples: number of files.
      batch_size: images per batch.
      preprocess: what is done to each image, also where it was not given.
      skipped: path to reason of the files that could not be read so far.

    Raises:
      DataError: no files, or labels out of range.
      ShapeError: not one label per file.
      ArgumentError: (a ValueError) a setting out of range, or an unknown ``errors``.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike[str]],
        labels: Any,
        class_names: Sequence[str],
        *,
        size: int | tuple[int, int] | None = None,
        batch_size: int = 32,
        preprocess: Preprocess | None = None,
        channels: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        errors: str = "raise",
        fast_decode: bool = False,
        threads: int | None = None,
        workers: int = 0,
    ) -> None:
        self.files = [os.path.expanduser(os.fspath(file)) for file in files]
        self.class_names = check_class_names(class_names, f"there are {len(self.files)} files")
        self.labels = _check_labels(labels, len(self.files), len(self.class_names))
        self.batch_size = check_size("batch_size", batch_size)
        self.preprocess = _preprocess(preprocess, size, channels)
        self.shuffle = bool(shuffle)
        self.seed = check_size("seed", seed, minimum=0)
        self.drop_last = bool(drop_last)
        self._check_length()
        self.errors = check_choice("errors", errors, _ERRORS)
        self.fast_decode = bool(fast_decode)
        self.threads = (
            min(available_cpus(), _MAX_THREADS)
            if threads is None
            else check_size("threads", threads)
        )
        self.workers = check_size("workers", workers, minimum=0)
        self.skipped: dict[str, str] = {}

    @property
    def num_examples(self) -> int:  # type: ignore[override]
        """Number of files."""
        return len(self.files)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def __repr__(self) -> str:
        names = ", ".join(self.class_names[:5]) + (", ..." if self.num_classes > 5 else "")
        return (
            f"{type(self).__name__}({self.num_examples} images of {self.num_classes} classes "
            f"({names}), {list(self.preprocess.input_shape)}, batch_size={self.batch_size}, "
            f"shuffle={self.shuffle}, seed={self.seed})"
        )

    def split(
        self: Self, validation_fraction: float | int = 0.2, *, seed: int = 0
    ) -> tuple[Self, Self]:
        """Splits the files, stratified: every class has the same share of both parts.

        Args:
          validation_fraction: the validation part as a fraction between 0 and 1 (rounded), or as
            a number of files (int). Every class keeps one file at least to train on.
          seed: non-negative int that selects the split; the same on every machine.

        Returns:
          ``(train, validation)``; files keep their order. The validation part is not shuffled and
          keeps its last batch.

        Raises:
          DataError: a part would be empty, or a class would be missing from the training part.
        """
        seed = check_size("seed", seed, minimum=0)
        count = held_out_count(
            validation_fraction, self.num_examples, "validation_fraction", "files", "validate on"
        )
        counts = np.bincount(self.labels)
        most = int(np.maximum(counts - 1, 0).sum())
        if count > most:
            rarest = int(np.argmin(np.where(counts > 0, counts, self.num_examples + 1)))
            raise DataError(
                f"validation_fraction {validation_fraction} leaves no file of the class "
                f"{self.class_names[rarest]!r} to train on: of {self.num_examples} files at most "
                f"{most} can be held out"
            )
        held_out = np.zeros(self.num_examples, bool)
        held_out[stratified(self.labels, count, seed, keep=1)] = True
        train, validation = self._part(~held_out), self._part(held_out)
        train._check_length()
        validation.shuffle = validation.drop_last = False
        return train, validation

    def epoch(self, epoch: int, *, start_batch: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Iterates over the batches of one epoch.

        Args:
          epoch: number of the epoch, from 0.
          start_batch: number of batches to skip; their files are not read.

        Returns:
          An iterator of ``{"image": float32 [B, H, W, C], "label": int32 [B]}``, the last one
          shorter where ``drop_last`` is false and the sizes do not divide. With
          ``errors="skip"`` also ``"weight": float32 [B]``: 0 for a file that could not be read,
          whose row then repeats another image of the batch, else 1.

        Raises:
          ArgumentError: a negative epoch or start.
          DataError: a start past the end of the epoch; while iterating, a file that cannot be read.
        """
        start = self._start(start_batch)
        return self._batches(self.order(epoch), start)

    def load(self) -> tuple[np.ndarray, np.ndarray]:
        """Reads everything into memory.

        Returns:
          ``(images, labels)`` in the files' order: float32 ``[N, H, W, C]`` and int32 ``[N]``.
          With ``errors="skip"`` without those that could not be read.

        Raises:
          DataError: a file that cannot be read, or all of them.
        """
        whole = copy.copy(self)
        whole.shuffle = whole.drop_last = False
        shape = (self.num_examples, *self.preprocess.input_shape)
        images, labels = np.empty(shape, np.float32), np.empty(self.num_examples, np.int32)
        done = 0
        for batch in whole:
            kept = batch["weight"] > 0 if "weight" in batch else slice(None)
            rows = len(batch["label"][kept])
            images[done : done + rows] = batch["image"][kept]
            labels[done : done + rows] = batch["label"][kept]
            done += rows
        if not done:
            raise DataError(f"none of the {self.num_examples} files could be read")
        return images[:done], labels[:done]

    def _batches(self, order: np.ndarray, start: int) -> Iterator[dict[str, np.ndarray]]:
        chunks = Chunks(
            Decoder(self.preprocess, self.fast_decode), self.files, order, self.batch_size
        )
        batches = read_batches(chunks, start, len(self), threads=self.threads, workers=self.workers)
        for images, rows, failures in batches:
            batch = {"image": images, "label": self.labels[rows]}
            for row, reason in failures:
                self._failed(self.files[rows[row]], reason)
            if self.errors == "skip":
                weight = np.ones(len(rows), np.float32)
                weight[[row for row, _ in failures]] = 0.0
                if failures and weight.any():
                    # Data that the model can see, as pad_batch fills up with.
                    images[weight == 0] = images[np.argmax(weight)]
                batch["weight"] = weight
            yield batch

    def _failed(self, file: str, reason: str) -> None:
        if self.errors == "raise":
            raise DataError(f'{reason}; errors="skip" leaves such files out')
        if file not in self.skipped:
            self.skipped[file] = reason
            warnings.warn(f"skipped {reason}", stacklevel=4)
        if len(self.skipped) == self.num_examples:
            # A loss over nothing would be a perfect 0.
            raise DataError(
                f"none of the {self.num_examples} files could be read, such as {reason}"
            )

    def _check_length(self) -> None:
        if not len(self):
            raise DataError(
                f"drop_last with batch_size {self.batch_size} leaves nothing of "
                f"{self.num_examples} files"
            )

    def _part(self: Self, chosen: np.ndarray) -> Self:
        part = copy.copy(self)
        part.files = [self.files[index] for index in np.flatnonzero(chosen)]
        part.labels = self.labels[chosen]
        part.skipped = {}
        return part

    def _keep(self, split: str | None, fraction: float | int, seed: int) -> None:
        """Becomes a part of itself: what ``split=`` of the constructors asks for."""
        if split is not None:
            place = _SPLITS.index(check_choice("split", split, _SPLITS))
            part = self.split(fraction, seed=seed)[place]
            self.__dict__.update(part.__dict__)


def _check_labels(labels: Any, files: int, classes: int) -> np.ndarray:
    array = as_host(labels, "labels")
    if array.shape != (files,):
        raise ShapeError(f"labels must be one per file, shape [{files}], got {list(array.shape)}")
    if not files:
        raise DataError("there are no files")
    if array.dtype.kind not in "iu":
        raise ShapeError(f"labels must be integers, got {array.dtype}")
    outside = np.flatnonzero((array < 0) | (array >= classes))
    if len(outside):
        raise DataError(
            f"labels[{outside[0]}] is {array[outside[0]]}, but there are {classes} class names, "
            f"for labels from 0 to {classes - 1}"
        )
    return array.astype(np.int32)


def _preprocess(
    preprocess: Preprocess | None, size: int | tuple[int, int] | None, channels: int | None
) -> Preprocess:
    if preprocess is None:
        height, width = _SIZE if size is None else check_kernel("size", size)
        if channels not in (None, 1, 3):
            raise DataError(f"channels must be 1 (grey) or 3 (RGB), got {channels!r}")
        return Preprocess((height, width, channels or 3))
    if not isinstance(preprocess, Preprocess):
        raise DataError(
            "preprocess must be a flaxzoo.Preprocess, such as model.spec.preprocess, got "
            f"{type(preprocess).__name__}"
        )
    shape = preprocess.input_shape
    other_size = size is not None and check_kernel("size", size) != shape[:2]
    if other_size or channels not in (None, shape[-1]):
        setting = f"size={size!r}" if size is not None else f"channels={channels!r}"
        raise DataError(
            f"{setting} contradicts preprocess, which makes images of {list(shape)}: leave it out, "
            "or change preprocess with dataclasses.replace"
        )
    return preprocess
