"""Weight files of every kind, read into NumPy arrays under the names that the file has.

Files are taken as hostile: nothing in them is executed, and no memory is taken on a header's word
alone. A file that cannot be read ends in one ``CheckpointError`` with its name and the reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flaxzoo._explain import explained
from flaxzoo._files import as_path, file_sha256, open_regular
from flaxzoo.errors import CheckpointError
from flaxzoo.weights.folders import CONFIG, WEIGHTS, read_together, staged_files, weights_digest
from flaxzoo.weights.npz import read_npz, too_large
from flaxzoo.weights.safetensors_files import check_digest, read_safetensors
from flaxzoo.weights.torch_files import plain_names, read_torch

# What the end of a file's name promises.
_KINDS = {
    ".safetensors": "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".bin": "torch",
    ".tar": "torch",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npz": "npz",
}
_SUFFIX = {"safetensors": ".safetensors", "torch": ".pth", "hdf5": ".h5", "npz": ".npz"}
# Weights hardly compress, zeros do: what a file may unpack to without being asked about.
_FREE_BYTES = 256 << 20
# HDF5 takes seconds to open what lies thousands of groups deep; no network nests like that.
_MAX_DEPTH = 64
_GROWTH = 16


@explained
def read_tensors(
    path: str | os.PathLike[str],
    *,
    use_ema: bool = True,
    max_bytes: int | None = None,
    sha256: str | None = None,
) -> dict[str, np.ndarray]:
    """Reads all tensors of a weight file.

    The name's end says what the file should be: ``.safetensors``; ``.pth``, ``.pt``, ``.bin`` or
    ``.tar`` (PyTorch's, which needs torch); ``.h5`` or ``.hdf5``; ``.npz``. Under any other name
    the content decides.

    Args:
      path: the file, or a directory with a ``model.safetensors`` or ``pytorch_model.bin``.
      use_ema: whether a PyTorch training checkpoint that holds averaged weights beside the
        trained ones (``state_dict_ema`` or ``model_ema``) gives the averaged ones.
      max_bytes: how much the arrays of an ``.npz`` or HDF5 file, which may be compressed, or a
        PyTorch one, where they may share data, can take; by default 16 times the file's size, or
        256 MiB where that is more.
      sha256: what the digest of the file must be. By default it is what the ``config.json`` of a
        directory says, where flaxzoo wrote it, or else what the file itself says: safetensors
        files of flaxzoo's carry the digest of their tensors, zipped PyTorch files and ``.npz``
        archives their members' checksums.

    Returns:
      Arrays under the names that the file has: groups of an HDF5 file are joined by ``/``; a
      prefix ``module.``, ``model.`` or ``_orig_mod.`` that all names of a PyTorch or safetensors
      file share, left by a wrapper of the model, is taken off.

    Raises:
      CheckpointError: the file is missing, damaged, of another kind than its name says, too
        large, or would have to run code to be read.
      MissingExtraError: (an ImportError) it is PyTorch's, and torch is not installed or too old
        to read files safely.
    """
    path = as_path(path)
    options: dict[str, Any] = {"use_ema": use_ema, "max_bytes": max_bytes}
    if not path.is_dir():
        return _read(path, sha256, **options)
    config = path / CONFIG
    if sha256 is None and config.is_file():
        label = str(path)
        return read_together(
            config, label, lambda c: _read_directory(path, weights_digest(c, label), **options)
        )
    return _read_directory(path, sha256, **options)


def _read_directory(path: Path, sha256: str | None, **options: Any) -> dict[str, np.ndarray]:
    file = _locate(path, sha256)
    try:
        return _read(file, sha256, **options)
    except CheckpointError:
        if file.exists():
            raise
        # Its writer has just given it its usual name.
        return _read(_locate(path, sha256), sha256, **options)


def _read(
    path: Path, sha256: str | None, *, use_ema: bool, max_bytes: int | None
) -> dict[str, np.ndarray]:
    kind, content = _KINDS.get(path.suffix.lower()), _sniff(path)
    if content not in _SUFFIX or kind not in (None, content):
        raise CheckpointError(_mismatch(path, kind, content))
    if sha256 is not None and content != "safetensors":
        check_digest(path, "the file", file_sha256(path), sha256)
    read: dict[str, Callable[[], dict[str, np.ndarray]]] = {
        "safetensors": lambda: plain_names(read_safetensors(path, sha256)),
        "torch": lambda: read_torch(path, _limit(path, max_bytes), use_ema=use_ema),
        "hdf5": lambda: _read_hdf5(path, _limit(path, max_bytes)),
        "npz": lambda: read_npz(path, _limit(path, max_bytes)),
    }
    tensors = read[content]()
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors")
    return tensors


def _locate(path: Path, sha256: str | None) -> Path:
    """The weight file of a directory."""
    # In this order: weights on their way to their usual name have it if they are not there.
    staged = [] if sha256 is None else staged_files(path, sha256)
    for file in (*staged, path / WEIGHTS, path / "pytorch_model.bin"):
        if file.is_file():
            return file
    index = next(path.glob("*.index.json"), None)
    raise CheckpointError(
        f"{path}: no weights in this directory; looked for {WEIGHTS} and pytorch_model.bin"
        + (f". It holds weights in several files ({index.name}): join them first" if index else "")
    )


def _limit(path: Path, max_bytes: int | None) -> int:
    return max(_FREE_BYTES, _GROWTH * path.stat().st_size) if max_bytes is None else max_bytes


def _sniff(path: Path) -> str:
    """What the first bytes say: a key of ``_SUFFIX``, or words for what it is instead."""
    try:
        with open_regular(path) as file:
            head = file.read(4096)
            # The signature of HDF5 may stand behind a user block of 512, 1024, ... bytes.
            for start in (0, 512, 1024, 2048):
                file.seek(start)
                if file.read(8) == b"\x89HDF\r\n\x1a\n":
                    return "hdf5"
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such weight file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not head:
        return "an empty file"
    if head[:4] == b"PK\x03\x04":
        # Both are zip archives; PyTorch keeps its members in a folder, and none of them is .npy.
        name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
        return "npz" if name.endswith(b".npy") or b"/" not in name else "torch"
    if head[:4] in (b"PK\x05\x06", b"PK\x07\x08"):
        return "npz"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "safetensors"
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        return "torch"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<"):
        return "a web page or XML, as a failed download leaves it"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: git lfs pull"
    if text.startswith((b"{", b"[")):
        return "a JSON document"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip file: unpack it first"
    return "unknown"


def _mismatch(path: Path, kind: str | None, content: str) -> str:
    if content in _SUFFIX:
        return (
            f"{path}: is named {path.suffix} but holds {content}; "
            f"rename it to {path.with_suffix(_SUFFIX[content]).name}"
        )
    if content != "unknown":
        return f"{path}: not a weight file but {content}"
    if kind is not None:
        return f"{path}: not a readable {kind} file: it begins with other bytes, or is cut short"
    return f"{path}: unknown kind of weight file; flaxzoo reads {', '.join(_KINDS)}"


def _read_hdf5(path: Path, limit: int) -> dict[str, np.ndarray]:
    import h5py

    datasets: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if name.count("/") >= _MAX_DEPTH:
            raise CheckpointError(f"{path}: refused: groups more than {_MAX_DEPTH} deep")
        if isinstance(item, h5py.Dataset):
            datasets[name] = item

    try:
        with h5py.File(path, "r") as file:
            # Links to other files are not followed.
            file.visititems(visit)
            for name, data in datasets.items():
                where = f"{path}: {name!r}"
                if data.shape is None or data.dtype.kind not in "biufc":
                    raise CheckpointError(f"{where} is no array of numbers ({data.dtype})")
                if data.external or data.is_virtual:
                    raise CheckpointError(f"{where} refused: its data is in other files")
            total = sum(data.nbytes for data in datasets.values())
            if total > limit:
                raise CheckpointError(too_large(path, total, limit))
            return {name: data[()] for name, data in datasets.items()}
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path}: not a readable HDF5 file ({error})") from error
