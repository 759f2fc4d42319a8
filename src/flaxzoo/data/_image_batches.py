"""Image files to batches: decoding and resizing in parallel on Grain, normalising at the end.

Workers hand over eight-bit pixels a few images at a time, and the reader of the batches makes them
float32 in the batch itself: a quarter of the memory while they wait, one pass over the values, and
the same batches whatever the number of workers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flaxzoo._extras import require
from flaxzoo.errors import DataError
from flaxzoo.images import load_image
from flaxzoo.preprocess import Preprocess

# Images that a worker decodes at a time: small, so that all workers share the next batch; large
# enough to hide the cost of handing over.
_CHUNK = 8
# Chunks waiting per worker, so that one large picture does not stop the others.
_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Decoder:
    """One file's pixels, as ``Preprocess`` makes them before it normalises.

    Attributes:
      preprocess: size, interpolation and crop.
      fast: whether a JPEG much larger than needed is decoded at 1/2, 1/4 or 1/8 of its size.
    """

    preprocess: Preprocess
    fast: bool = False

    def __call__(self, file: str) -> np.ndarray:
        """uint8 ``[H, W, C]``.

        Raises:
          DataError: not a readable image; the message names the file.
        """
        return self.preprocess.pixels(self._open(file) if self.fast else self._load(file))

    def _open(self, file: str) -> Any:
        from PIL import Image

        height, width, _ = self.preprocess.input_shape
        try:
            image = Image.open(file)
        except Exception:
            # For its message.
            return self._load(file)
        with image:
            # Either side may be the longer one: what is upright is known after decoding.
            side = int(max(height, width) / (self.preprocess.crop or 1))
            image.draft(None, (side, side))
            return self._load(image)

    def _load(self, image: Any) -> Any:
        return load_image(image, self.preprocess.input_shape[-1], self.preprocess.value_range)


@dataclasses.dataclass(frozen=True)
class Chunks:
    """The images of an epoch in pieces of a batch; Grain calls it from its workers.

    Attributes:
      decoder: makes a file pixels.
      files: all paths.
      order: int64 ``[M]``, the examples of the epoch in order.
      batch_size: images per batch.
    """

    decoder: Decoder
    files: Sequence[str]
    order: np.ndarray
    batch_size: int

    @property
    def per_batch(self) -> int:
        """Number of pieces of a batch."""
        return -(-self.batch_size // _CHUNK)

    def rows(self, number: int) -> np.ndarray:
        """The examples of a piece; of a short last batch some pieces may be empty."""
        batch, piece = divmod(number, self.per_batch)
        begin = batch * self.batch_size + piece * _CHUNK
        return self.order[begin : min(begin + _CHUNK, (batch + 1) * self.batch_size)]

    def __call__(self, number: int) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """Pixels of a piece, uint8 ``[n, H, W, C]``, and what could not be read: row, reason."""
        rows = self.rows(int(number))
        pixels = np.zeros((len(rows), *self.decoder.preprocess.input_shape), np.uint8)
        failures = []
        for index, row in enumerate(rows):
            try:
                pixels[index] = self.decoder(self.files[row])
            except DataError as error:
                # As data: an exception would end the epoch for everyone, whatever is wanted.
                failures.append((index, str(error)))
        return pixels, failures


def read_batches(
    chunks: Chunks, start: int, stop: int, *, threads: int, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]]:
    """The batches from number ``start`` to before ``stop``.

    Args:
      chunks: the epoch.
      start: first batch; those before it are not read.
      stop: the batch to end before.
      threads: the number of threads that decode where ``workers`` is 0; 0 decodes in this thread.
      workers: the number of processes that decode instead.

    Yields:
      float32 ``[B, H, W, C]``; the examples, int64 ``[B]``; and rows that could not be read, with
      the reason. Such a row holds a black picture, normalised.
    """
    pieces = chunks.per_batch
    if start >= stop:
        return
    iterator = iter(_pipeline(chunks, start * pieces, stop * pieces, threads, workers))
    preprocess = chunks.decoder.preprocess
    try:
        for number in range(start, stop):
            rows = chunks.order[number * chunks.batch_size : (number + 1) * chunks.batch_size]
            batch = np.empty((len(rows), *preprocess.input_shape), np.float32)
            failures: list[tuple[int, str]] = []
            done = 0
            for _ in range(pieces):
                pixels, failed = _unpack(*next(iterator))
                preprocess.normalize(pixels, batch[done : done + len(pixels)])
                failures += [(done + row, reason) for row, reason in failed]
                done += len(pixels)
            yield batch, rows, failures
    finally:
        # A reader that stops early leaves nothing running.
        iterator.close()


def _pipeline(chunks: Chunks, start: int, stop: int, threads: int, workers: int) -> Any:
    grain = require("grain", extra="data", purpose="reading image files in parallel")
    data = grain.MapDataset.range(start, stop).map(chunks)
    if not workers:
        return data.to_iter_dataset(grain.ReadOptions(threads, _AHEAD * threads))
    flags = require("absl.flags", extra="data", purpose="reading image files in processes").FLAGS
    if not flags.is_parsed():
        # Grain asks for a flag, which programs without absl.app, notebooks too, have not parsed.
        flags.mark_as_parsed()
    # Each process decodes one piece at a time; they take turns, so that the order stays.
    options = grain.multiprocessing.MultiprocessingOptions(workers, per_worker_buffer_size=_AHEAD)
    return data.map(_pack).to_iter_dataset(grain.ReadOptions(0, 0)).mp_prefetch(options)


def _pack(piece: tuple[np.ndarray, Any]) -> tuple[bytes, Any, tuple[int, ...]]:
    # Arrays would go through shared memory, of which containers have little (64 MB by default).
    pixels, failures = piece
    return pixels.tobytes(), failures, pixels.shape


def _unpack(
    pixels: Any, failures: list[tuple[int, str]], shape: tuple[int, ...] | None = None
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    if shape is not None:
        pixels = np.frombuffer(pixels, np.uint8).reshape(shape)
    return pixels, failures
