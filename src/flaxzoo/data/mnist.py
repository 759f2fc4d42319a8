"""IDX files, the format of MNIST and its relatives, checked before they are believed."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Literal, Protocol, overload

import numpy as np

from flaxzoo.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray]

# Third byte of the header: the type of the values, which are stored big-endian.
_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# Deflate cannot expand by more (zlib's documentation: 1032 to 1).
_MAX_EXPANSION = 1032
_CHUNK = 1 << 20
_MAX_DIMENSIONS = 32
_PREFIXES = {"train": ("train",), "test": ("t10k", "test")}
# Where torchvision and others unpack the files below the directory that they are given.
_SUBDIRECTORIES = (".", "raw", "MNIST/raw")


class _Stream(Protocol):
    """What plain and gzip files have in common."""

    def read1(self, size: int, /) -> bytes: ...


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads one IDX file, plain or gzip (told apart by content, not by name).

    The header is two zero bytes, a type byte, the number of dimensions and their sizes as
    big-endian 32-bit ints (Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten
    digits"). The payload must have just the size that the header says; memory is never taken
    on the header's word alone.

    Args:
      path: the file.

    Returns:
      A writable array of the file's shape and dtype, in native byte order.

    Raises:
      DataError: the file is absent, unreadable, not IDX, cut short, too long, or its gzip
        stream is damaged; the message names the file and the sizes.
    """
    path = Path(path)
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not compressed:
                return _read(path, raw, file_bytes)
            with gzip.open(raw) as stream:
                return _read(path, stream, file_bytes * _MAX_EXPANSION)
    except (OSError, EOFError, zlib.error) as error:
        # gzip.BadGzipFile is an OSError without an errno.
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        raise DataError(f"{path}: damaged gzip data ({error})") from error


def _read(path: Path, stream: _Stream, available: int) -> np.ndarray:
    """Reads header and payload; ``available`` bounds what the stream can possibly yield."""
    magic, problem = _take(stream, 4)
    if problem is not None:
        raise problem
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
        raise DataError(
            f"{path}: not an IDX file; it starts with {magic.hex(' ') or 'nothing'} where 00 00, "
            f"a type byte ({', '.join(f'{code:02x}' for code in _DTYPES)}) and the number of "
            "dimensions are expected"
        )
    dtype, rank = np.dtype(_DTYPES[magic[2]]), magic[3]
    if not 1 <= rank <= _MAX_DIMENSIONS:
        raise DataError(f"{path}: not an IDX file; its header says {rank} dimensions")
    sizes, problem = _take(stream, 4 * rank)
    if problem is not None:
        raise problem
    if len(sizes) < 4 * rank:
        raise DataError(f"{path}: cut short in its header, after {4 + len(sizes)} bytes")
    shape = struct.unpack(f">{rank}I", sizes)
    header, expected = 4 + 4 * rank, dtype.itemsize
    for size in shape:
        expected *= size
    says = f"{path}: its header says {list(shape)} {dtype.name}, {expected} bytes of values"
    if expected > max(available - header, 0):
        raise DataError(f"{says}, but the file holds at most {max(available - header, 0)}")
    # One byte more than expected shows a file that is too long, and makes gzip check its sum.
    payload, problem = _take(stream, expected + 1)
    if len(payload) < expected:
        raise DataError(f"{says}, but there are {len(payload)}: the file is cut short or damaged")
    if problem is not None:
        raise problem
    if len(payload) > expected:
        raise DataError(f"{says}, but the file goes on after them")
    values = np.frombuffer(payload, dtype).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _take(stream: _Stream, count: int) -> tuple[bytearray, Exception | None]:
    """Up to ``count`` bytes, fewer at the end or at a fault, and the fault if there was one."""
    data = bytearray()
    try:
        while len(data) < count:
            # read1 hands over what precedes a fault; read would lose it.
            chunk = stream.read1(min(_CHUNK, count - len(data)))
            if not chunk:
                break
            data += chunk
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        return data, error
    return data, None


@overload
def load_mnist(
    directory: str | os.PathLike[str], split: None = None, *, raw: bool = False
) -> tuple[Arrays, Arrays]: ...


@overload
def load_mnist(
    directory: str | os.PathLike[str], split: Literal["train", "test"], *, raw: bool = False
) -> Arrays: ...


def load_mnist(
    directory: str | os.PathLike[str], split: str | None = None, *, raw: bool = False
) -> Any:
    """MNIST, or a data set in its form (Fashion-MNIST, KMNIST), from IDX files on disk.

    Args:
      directory: holds the files under any of their usual names, plain or gzip:
        ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte``,
        ``t10k-labels-idx1-ubyte``, with a ``.`` or a ``-`` before ``idx`` and with or without
        ``.gz``; also in a folder ``raw`` or ``MNIST/raw`` below it.
      split: ``"train"`` or ``"test"`` reads only that part; None reads both.
      raw: whether to return the images as the uint8 of the file instead of float32.

    Returns:
      ``(train_images, train_labels), (test_images, test_labels)``, or one ``(images, labels)``
      if ``split`` is given. Images are float32 ``[N, 28, 28, 1]`` in ``[0, 1]`` (or uint8, 0 to
      255), labels int32 ``[N]``, 0 to 9.

    Raises:
      DataError: a file is absent, damaged or of another format; images and labels differ in
        number; a label is above 9. The message names the file.
    """
    root = Path(directory)
    if not root.is_dir():
        raise DataError(f"{root}: no such directory")
    if split is None:
        return _load_split(root, "train", raw), _load_split(root, "test", raw)
    if split not in _PREFIXES:
        raise DataError(f"split must be 'train', 'test' or None, got {split!r}")
    return _load_split(root, split, raw)


def _load_split(root: Path, split: str, raw: bool) -> Arrays:
    images_path = _find(root, split, "images", 3)
    labels_path = _find(root, split, "labels", 1)
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (28, 28):
        raise DataError(
            f"{images_path}: expected uint8 images [N, 28, 28], "
            f"got {images.dtype}{list(images.shape)}"
        )
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(
            f"{labels_path}: expected uint8 labels [N], got {labels.dtype}{list(labels.shape)}"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images)} images but {labels_path} {len(labels)} labels"
        )
    if not len(images):
        raise DataError(f"{images_path}: no examples")
    if labels.max() > 9:
        place = int(np.argmax(labels > 9))
        raise DataError(f"{labels_path}: label {labels[place]} at index {place} is not in 0..9")
    images = images[..., None]
    scaled = images if raw else images.astype(np.float32) / np.float32(255)
    return scaled, labels.astype(np.int32)


def _find(root: Path, split: str, kind: str, rank: int) -> Path:
    names = [
        f"{prefix}-{kind}{separator}idx{rank}-ubyte{suffix}"
        for prefix in _PREFIXES[split]
        for separator in "-."
        for suffix in ("", ".gz")
    ]
    for folder in _SUBDIRECTORIES:
        for name in names:
            if (root / folder / name).is_file():
                return root / folder / name
    other = "test" if split == "train" else "train"
    raise DataError(
        f"{root}: no {split} {kind}; looked for {', '.join(names)}. "
        f"If only the {other} files are there, pass split={other!r}"
    )
