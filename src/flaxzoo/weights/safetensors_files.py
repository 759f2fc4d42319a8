"""The safetensors format, written and read in one pass, with digests.

Reference: https://github.com/huggingface/safetensors#format. A file is the length of a JSON header
in eight bytes, the header, which says where each tensor lies, and the tensors, without gaps.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from flaxzoo._files import digest_of_arrays, open_regular
from flaxzoo.errors import CheckpointError, DataError

# In the header's metadata: the digest of the tensors, as digest_of_arrays gives it.
DIGEST = "tensors_sha256"
_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "C64": np.complex64,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000
_ALIGNMENT = 8
_BLOCK = 1 << 20


def write_safetensors(
    path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> str:
    """Writes tensors into a file that exists or not; it is not replaced but written into.

    Args:
      path: the file.
      tensors: arrays by name.
      metadata: text for the header; the tensors' digest is added.

    Returns:
      The SHA-256 of the file.

    Raises:
      DataError: the format has no such dtype.
      OSError: the file cannot be written.
    """
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    # The widest first, so that each lies at a multiple of its own width.
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, Any] = {
        "__metadata__": {**(metadata or {}), DIGEST: digest_of_arrays(arrays)}
    }
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        dtype = _NAMES.get(array.dtype.newbyteorder("="))
        if dtype is None:
            raise DataError(f"{name}: a safetensors file holds no {array.dtype}")
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (len(text).to_bytes(8, "little"), text, *map(_bytes, arrays.values())):
            file.write(part)
            digest.update(part)
    return digest.hexdigest()


def read_safetensors(path: Path, sha256: str | None = None) -> dict[str, np.ndarray]:
    """Reads all tensors of a file, and checks its digest.

    Args:
      path: the file.
      sha256: what the file's SHA-256 must be; by default that of its tensors is compared with the
        one in its header, where ``write_safetensors`` put it.

    Returns:
      Arrays by name, in the order of the header; they are views of one buffer.

    Raises:
      CheckpointError: the file is missing, is no regular file, is damaged or of another format, or
        has another digest.
    """
    try:
        with open_regular(path) as file:
            data, digest = _read(file, digested=sha256 is not None)
        tensors, metadata = _parse(data)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such weight file") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: not a readable safetensors file ({reason})") from error
    if sha256 is not None:
        check_digest(path, "the file", digest, sha256)
    elif DIGEST in metadata:
        check_digest(path, "its tensors", digest_of_arrays(tensors), metadata[DIGEST])
    return tensors


def check_digest(path: Path, what: str, actual: str, expected: Any) -> None:
    """Raises CheckpointError where the SHA-256 of ``what`` is not the one that was noted."""
    if actual != expected:
        raise CheckpointError(
            f"{path}: damaged, or replaced by another file: the SHA-256 of {what} is {actual}, and "
            f"was {expected} when it was written"
        )


def _read(file: BinaryIO, *, digested: bool) -> tuple[np.ndarray, str]:
    """The bytes of a file, and their SHA-256 if it is asked for, taken while they are at hand."""
    data = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
    digest = hashlib.sha256()
    for start in range(0, len(data), _BLOCK):
        block = data[start : start + _BLOCK].data
        if file.readinto(block) != len(block):  # type: ignore[attr-defined]
            raise ValueError("it became shorter while it was read")
        if digested:
            digest.update(block)
    return data, digest.hexdigest()


def _bytes(array: np.ndarray) -> Any:
    little = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def _parse(data: np.ndarray) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
    """The tensors and the metadata; nothing that the header says is believed.

    Raises:
      ValueError, KeyError, TypeError: the file is damaged.
    """
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or length > min(_MAX_HEADER, len(data) - 8):
        raise ValueError("its header is longer than the file")
    begin = 8 + length
    header = json.loads(data[8:begin].tobytes().decode("utf-8"), object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is no JSON object")
    tensors = {name: _tensor(data, begin, name, entry) for name, entry in header.items()}
    end = 0
    for start, stop in sorted(entry["data_offsets"] for entry in header.values()):
        if start != end:
            raise ValueError("its tensors overlap, or have gaps between them")
        end = stop
    if begin + end != len(data):
        raise ValueError(f"its tensors take {end:,} bytes, and it has {len(data) - begin:,}")
    return tensors, metadata


def _tensor(data: np.ndarray, begin: int, name: str, entry: Any) -> np.ndarray:
    shape, (start, stop) = entry["shape"], entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (*shape, start, stop)):
        raise ValueError(f"{name!r} has the shape {shape} at {start} to {stop}")
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"{name!r} is of the type {entry['dtype']}, which NumPy has not")
    dtype, count = np.dtype(_DTYPES[entry["dtype"]]), math.prod(shape)
    if count * dtype.itemsize != stop - start or begin + stop > len(data):
        raise ValueError(f"{name!r} does not fit between {start:,} and {stop:,}")
    return np.frombuffer(data.data, dtype, count, begin + start).reshape(shape)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("two entries of its header have one name")
    return entries
