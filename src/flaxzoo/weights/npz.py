"""NumPy's ``.npz`` archives, without pickle and without believing their headers."""

from __future__ import annotations

import lzma
import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from flaxzoo.errors import CheckpointError

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# What zipfile lets through besides its own error. An encrypted member is a RuntimeError, an unknown
# compression its subclass NotImplementedError, a damaged name a UnicodeDecodeError.
ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    UnicodeDecodeError,
)


def read_npz(path: Path, limit: int) -> dict[str, np.ndarray]:
    """Reads an ``.npz`` archive.

    Args:
      path: the file.
      limit: bytes that its arrays may hold together. It is compared with what the archive's
        directory declares, each array's header is compared with that, and only then is memory
        taken, so that a small file cannot ask for much (a zip bomb).

    Returns:
      Arrays by name. Two-byte voids, as which NumPy writes bfloat16, become bfloat16 again.

    Raises:
      CheckpointError: the file is damaged or too large, or a member is no array of numbers;
        arrays of Python objects are refused, since only unpickling could read them.
    """
    tensors: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > limit:
                raise CheckpointError(too_large(path, total, limit))
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename:
                    raise CheckpointError(f"{path}: refused: {name!r} is not an .npy array")
                if name in tensors:
                    raise CheckpointError(f"{path}: refused: two arrays are named {name!r}")
                with archive.open(member) as stream:
                    tensors[name] = _read_npy(stream, member.file_size, f"{path}: {name!r}")
    except ZIP_DAMAGE as error:
        raise CheckpointError(f"{path}: not a readable .npz file ({error})") from error
    return tensors


def too_large(path: Path, total: int, limit: int) -> str:
    """What is said of a file whose arrays would take more memory than allowed."""
    return (
        f"{path}: refused: {path.stat().st_size:,} bytes that unpack to {total:,}, more than "
        f"max_bytes={limit:,}; if you trust the file, read_tensors(path, max_bytes={total})"
    )


def _read_npy(stream: IO[bytes], size: int, where: str) -> np.ndarray:
    try:
        version = npy.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"format version {version}, which only structured arrays need")
        shape, fortran, dtype = _HEADERS[version](stream)
        if any(type(size) is not int for size in shape):
            raise ValueError(f"a shape of {shape}")
    except Exception as error:
        # NumPy parses the header as Python's literals, which fails in ways of many classes.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{where} is not a readable array ({reason})") from error
    if dtype.hasobject:
        raise CheckpointError(
            f"{where} refused: it holds Python objects, which could only be unpickled"
        )
    bfloat16 = dtype.kind == "V" and dtype.itemsize == 2 and not (dtype.fields or dtype.subdtype)
    if dtype.kind not in "biufc" and not bfloat16:
        raise CheckpointError(f"{where} is no array of numbers ({dtype})")
    header, count = stream.tell(), math.prod(shape)
    if min(shape, default=0) < 0 or header + count * dtype.itemsize != size:
        raise CheckpointError(
            f"{where} refused: its header says {dtype}{list(shape)}, "
            f"which does not fit its {size - header:,} bytes of data"
        )
    array = np.empty(count, dtype)
    view = array.view(np.uint8).data
    filled = 0
    while filled < len(view):
        got = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not got:
            raise EOFError(f"{where} is cut short")
        filled += got
    # At its end the archive compares the checksum.
    stream.read(1)
    if bfloat16:
        import ml_dtypes

        array = array.view(ml_dtypes.bfloat16)
    elif not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    try:
        return array.reshape(shape, order="F" if fortran else "C")
    except (ValueError, OverflowError) as error:
        # Too many axes, or an empty array of sizes that overflow.
        raise CheckpointError(f"{where} is not a readable array ({error})") from error
