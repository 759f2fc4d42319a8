"""IDX files, the format of MNIST and its relatives, checked before they are believed."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from flaxzoo._explain import explained
from flaxzoo._files import as_path, read_regular
from flaxzoo.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray]

# Third byte of the header: the type of the values, which are stored big-endian.
_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
# Far more than any data set in this format has.
_MAX_BYTES = 4 << 30
_MAX_DIMENSIONS = 32
_PREFIXES = {"train": ("train",), "test": ("t10k", "test")}
# Where torchvision and others unpack the files below the directory that they are given.
_SUBDIRECTORIES = (".", "raw", "MNIST/raw")


@explained
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
    path = as_path(path)
    try:
        content = read_regular(path, _MAX_BYTES)
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip data ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
        raise DataError(
            f"{path}: not an IDX file; it starts with {magic.hex(' ') or 'nothing'} where 00 00, "
            f"a type byte ({', '.join(f'{code:02x}' for code in _DTYPES)}) and the number of "
            "dimensions are expected"
        )
    dtype, rank = np.dtype(_DTYPES[magic[2]]), magic[3]
    if not 1 <= rank <= _MAX_DIMENSIONS:
        raise DataError(f"{path}: not an IDX file; its header says {rank} dimensions")
    header = 4 + 4 * rank
    if len(content) < header:
        raise DataError(f"{path}: cut short in its header, after {len(content)} bytes")
    shape = struct.unpack_from(f">{rank}I", content, 4)
    expected, size = math.prod(shape) * dtype.itemsize, len(content) - header
    if size != expected:
        fault = "file goes on after them" if size > expected else f"file holds at most {size}"
        raise DataError(
            f"{path}: its header says {list(shape)} {dtype.name}, {expected} bytes of values, "
            f"but the {fault}"
        )
    values = np.frombuffer(content, dtype, offset=header).reshape(shape)
    return values.astype(dtype.newbyteorder("="))


@overload
def load_mnist(
    directory: str | os.PathLike[str], split: None = None, *, raw: bool = False
) -> tuple[Arrays, Arrays]: ...


@overload
def load_mnist(
    directory: str | os.PathLike[str], split: Literal["train", "test"], *, raw: bool = False
) -> Arrays: ...


@explained
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
    root = as_path(directory)
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


def has_split(root: Path, split: str) -> bool:
    """Whether the images of ``"train"`` or ``"test"`` are in a directory."""
    return any(path.is_file() for path in _places(root, split, "images", 3))


def _places(root: Path, split: str, kind: str, rank: int) -> list[Path]:
    return [
        root / folder / f"{prefix}-{kind}{separator}idx{rank}-ubyte{suffix}"
        for folder in _SUBDIRECTORIES
        for prefix in _PREFIXES[split]
        for separator in "-."
        for suffix in ("", ".gz")
    ]


def _find(root: Path, split: str, kind: str, rank: int) -> Path:
    places = _places(root, split, kind, rank)
    for path in places:
        if path.is_file():
            return path
    other = "test" if split == "train" else "train"
    raise DataError(
        f"{root}: no {split} {kind}; looked for {', '.join(sorted({p.name for p in places}))}. "
        f"If only the {other} files are there, pass split={other!r}"
    )
