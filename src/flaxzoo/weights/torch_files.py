"""PyTorch's files: the one format that is a pickle, read without ever running one."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from flaxzoo.errors import CheckpointError, MissingExtraError
from flaxzoo.weights.npz import ZIP_DAMAGE, too_large

# Before these releases weights_only=True could be made to run code: CVE-2025-32434 (fixed in 2.6)
# and CVE-2026-24747 (fixed in 2.10).
SAFE_TORCH = (2, 10)
# Where training scripts keep a state dict, best first; timm's load_state_dict has this order.
_EMA = ("state_dict_ema", "model_ema")
_NESTED = ("state_dict", "model")
# What DataParallel, torch.compile and Lightning put before every name.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SHOWN = 10


def import_torch(purpose: str, *, minimum: tuple[int, int] | None = None) -> ModuleType:
    """Imports torch, which is no dependency of flaxzoo.

    Args:
      purpose: what needs it, for the message.
      minimum: the oldest release that will do.

    Raises:
      MissingExtraError: torch is not installed, or too old.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError(
            f"{purpose} needs torch, which is not installed: pip install torch"
        ) from error
    version = tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2])
    if minimum is not None and version < minimum:
        raise MissingExtraError(
            f"{purpose} needs torch {'.'.join(map(str, minimum))} or newer, since "
            f"a file can make {torch.__version__} run code: pip install -U torch"
        )
    return torch


def read_torch(path: Path, limit: int, *, use_ema: bool) -> dict[str, np.ndarray]:
    """Reads the tensors of a file that ``torch.save`` wrote.

    Args:
      path: the file; in the zip format it is mapped, so that an optimizer's state beside the
        weights costs nothing.
      limit: bytes that its tensors may take together; those that share data count each.
      use_ema: whether averaged weights come first.

    Returns:
      Arrays by name. Of a training checkpoint, the first that there is of ``state_dict_ema`` and
      ``model_ema`` (with ``use_ema``), ``state_dict`` and ``model``; entries that are no tensors
      are left out, as is the counter ``n_averaged`` of ``torch.optim.swa_utils``.

    Raises:
      CheckpointError: the file is damaged, holds no tensors, or could only be read by running
        what is in it (``torch.load(weights_only=True)`` refuses).
      MissingExtraError: torch is absent, or older than 2.10, the first release whose
        ``weights_only`` has no known hole.
    """
    torch = import_torch(
        f"reading {path} (or convert it to .safetensors where torch is)", minimum=SAFE_TORCH
    )
    zipped = _check_zip(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")
            # Namespace, a plain record, is how training scripts store their arguments.
            loaded = torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(path, str(error))) from error
    except MemoryError:
        raise
    except Exception as error:
        # A damaged pickle fails in whatever way its bytes lead to.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: not a readable PyTorch file ({reason})") from error
    state = _state_dict(loaded, use_ema)
    tensors = {str(k): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: no state dict found in it; {_contents(loaded)}")
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    if total > limit:
        raise CheckpointError(too_large(path, total, limit))
    tensors = plain_names(tensors)
    return {name: _to_numpy(torch, tensor, path, name) for name, tensor in tensors.items()}


def plain_names(tensors: dict[str, Any]) -> dict[str, Any]:
    """Takes off what a wrapper of the model put before every name.

    ``n_averaged``, the counter of ``torch.optim.swa_utils.AveragedModel``, is left out where all
    other names have the prefix ``module.``.
    """
    counted = {k: v for k, v in tensors.items() if k != "n_averaged"}
    if len(counted) < len(tensors) and all(k.startswith("module.") for k in counted):
        tensors = counted
    while tensors:
        prefix = next((p for p in _PREFIXES if all(k.startswith(p) for k in tensors)), None)
        if prefix is None:
            break
        tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    return tensors


def _check_zip(path: Path) -> bool:
    """Whether the file is a zip archive, of which torch itself believes what it says."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # torch.load maps the file and compares no checksum. Where torch was told to write none
            # (set_crc32_options), all are 0.
            damaged = archive.testzip() if any(member.CRC for member in members) else None
    except ZIP_DAMAGE as error:
        raise CheckpointError(f"{path}: not a readable PyTorch file ({error})") from error
    if damaged is not None:
        raise CheckpointError(f"{path}: damaged: the checksum of {damaged!r} in it does not match")
    if any(m.filename.endswith("/constants.pkl") for m in members):
        raise CheckpointError(
            f"{path}: a TorchScript program, not weights; save its state dict: "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pth')"
        )
    if any(m.compress_type or m.file_size != m.compress_size for m in members):
        raise CheckpointError(f"{path}: refused: torch.save does not compress, this file does")
    return True


def _refusal(path: Path, message: str) -> str:
    names = re.findall(r"GLOBAL ([\w.]+)", message)
    if not names:
        reason = next((line for line in message.splitlines()[1:] if line.strip()), message)
        return f"{path}: not a readable PyTorch file ({reason.strip()})"
    return (
        f"{path}: refused: reading it would run or build {', '.join(sorted(set(names)))}; nothing "
        "was run. Have its author save the weights alone: torch.save(model.state_dict(), path)"
    )


def _state_dict(loaded: Any, use_ema: bool) -> Mapping[Any, Any]:
    keys = (*_EMA, *_NESTED) if use_ema else _NESTED
    # A dictionary may hold itself.
    seen: set[int] = set()
    while isinstance(loaded, Mapping) and id(loaded) not in seen:
        seen.add(id(loaded))
        key = next((k for k in keys if isinstance(loaded.get(k), Mapping)), None)
        if key is None:
            return loaded
        loaded = loaded[key]
    return {}


def _contents(loaded: Any) -> str:
    if not isinstance(loaded, Mapping):
        return f"it holds a {type(loaded).__name__}"
    entries = [f"{k!r} ({type(v).__name__})" for k, v in list(loaded.items())[:_SHOWN]]
    return f"it holds {', '.join(entries)}{' ...' if len(loaded) > _SHOWN else ''}" + (
        "nothing" * (not entries)
    )


def _to_numpy(torch: ModuleType, tensor: Any, path: Path, name: str) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise CheckpointError(f"{path}: {name!r} is sparse, quantized or has no data")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{path}: refused: {name!r} is larger than its data")
    # Copied, because a mapped file that someone overwrites would take the process down with it.
    tensor = tensor.resolve_conj().resolve_neg()
    kind = str(tensor.dtype).removeprefix("torch.")
    try:
        return np.array(tensor.numpy(), order="C")
    except TypeError:
        import ml_dtypes

        if not hasattr(ml_dtypes, kind):
            raise CheckpointError(f"{path}: {name!r} has dtype {kind}, unknown to NumPy") from None
        bits = tensor.contiguous().view({1: torch.uint8, 2: torch.int16}[tensor.itemsize])
        return np.array(bits.numpy()).view(getattr(ml_dtypes, kind))
