"""A model's folder: ``config.json`` and ``model.safetensors``, written and read as one thing.

Two files cannot be replaced in one step; the configuration is the step. It names the SHA-256 of its
weights, which lie beside it, complete and under a name with that digest, before it is renamed into
place, and get their usual name after that. So a reader who takes the weights whose digest the
configuration names has the whole old model or the whole new one, at whatever moment the writer
was killed. ``docs/design.md`` says what else was weighed.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from flaxzoo._files import (
    failures_told,
    flush,
    locked,
    matching,
    read_json,
    remove_if_abandoned,
    sealed_text,
    temporary_file,
)
from flaxzoo.errors import CheckpointError, DataError
from flaxzoo.weights.safetensors_files import write_safetensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# The format of what Model.save writes; save_pretrained's has a section "flaxzoo" instead.
SAVED = "flaxzoo.model"
# The configuration's entry for the digest of the weights.
DIGEST = "weights_sha256"
_SHA256 = "[0-9a-f]{64}"
# Others hold the configuration from its renaming to that of the weights.
_PATIENCE = 60.0
_ATTEMPTS = 100

_T = TypeVar("_T")


def write_folder(
    directory: Path,
    tensors: Mapping[str, Any],
    document: Callable[[str], Mapping[str, Any]],
    *,
    form: str = "flaxzoo",
) -> None:
    """Writes a model, or leaves the one that is there.

    Args:
      directory: made if need be. What killed writers left in it is removed.
      tensors: the weights by name.
      document: gives the configuration for the SHA-256 of the weights' file, which it holds.
      form: of the weights' names, for the file's header: ``"flaxzoo"`` or PyTorch's ``"pt"``.

    Raises:
      DataError: the directory cannot be written.
    """
    weights, config = directory / WEIGHTS, directory / CONFIG
    with failures_told(weights), temporary_file(weights) as new_weights:
        sha256 = write_safetensors(new_weights, tensors, {"format": form})
        flush(new_weights)
        with failures_told(config), temporary_file(config) as new_config:
            described = document(sha256)
            within = None if described.get("format") == SAVED else "flaxzoo"
            new_config.write_text(sealed_text(described, indent=2, within=within), "utf-8")
            flush(new_config)
            staged = directory / f".{WEIGHTS}.{sha256}.{secrets.token_hex(8)}"
            new_weights.replace(staged)
            try:
                while not _put(new_config, config):
                    pass
            except (OSError, DataError):
                staged.unlink(missing_ok=True)
                raise
            # Until here the next writer waits for this one, whose lock the new file has.
            staged.replace(weights)
    with contextlib.suppress(OSError):
        for left in matching(directory, _staged(_SHA256)):
            remove_if_abandoned(left)


def _put(new: Path, config: Path) -> bool:
    """Gives a configuration its name, once the writer of the one before has finished.

    Returns:
      False where another one came first, after which the next must be tried.
    """
    try:
        with locked(config, seconds=_PATIENCE) as handle:
            if handle is not None and not os.path.samestat(os.fstat(handle), os.stat(config)):
                return False
            new.replace(config)
            return True
    except BlockingIOError:
        raise DataError(f"another process is writing a model to {config.parent}") from None
    except OSError as error:
        # None is there yet; a link to nothing and what may not be opened have no writer.
        if not isinstance(error, FileNotFoundError) or config.is_symlink():
            new.replace(config)
            return True
    try:
        os.link(new, config)
    except FileExistsError:
        return False
    except OSError:
        # This disk has no links: two first writers may come together.
        new.replace(config)
    return True


def read_together(path: Path, label: str, use: Callable[[Mapping[str, Any]], _T]) -> _T:
    """Reads a configuration and what belongs to it, again where they were replaced meanwhile.

    Args:
      path: of ``config.json``.
      label: names the model in messages.
      use: is called with the configuration, and reads the weights.

    Returns:
      What ``use`` returned.

    Raises:
      CheckpointError: the configuration is missing or no JSON object, or what ``use`` raises.
    """
    for attempt in range(_ATTEMPTS):
        before = _identity(path)
        config = read_config(path, label)
        try:
            value = use(config)
        except CheckpointError:
            if _identity(path) == before or attempt == _ATTEMPTS - 1:
                raise
            continue
        # Weights that no digest ties to their configuration may be those of the next one.
        if weights_digest(config, label) is not None or _identity(path) == before:
            return value
    raise CheckpointError(f"{label}: replaced again and again while it was read")


def read_config(path: Path, label: str) -> dict[str, Any]:
    """The content of a ``config.json``; a warning where somebody edited one of ours.

    Raises:
      CheckpointError: it is missing, or no JSON object.
    """
    missing = (
        f"{label}: no {CONFIG} in it; for weights alone, flaxzoo.models.get(name, pretrained=path)"
        if path.parent.is_dir()
        else f"{label}: no such directory; is this a saved model?"
    )
    return read_json(
        path,
        error=CheckpointError,
        label=f"{label}: its {CONFIG}",
        missing=missing,
        within="flaxzoo",
        edited=True,
    )


def staged_files(directory: Path, sha256: str) -> list[Path]:
    """Weights of a digest that have not got their usual name yet; mostly there are none."""
    return matching(directory, _staged(sha256))


def _staged(sha256: str) -> str:
    return rf"\.{re.escape(WEIGHTS)}\.{sha256}\.[0-9a-f]{{16}}"


def weights_digest(config: Mapping[str, Any], label: str) -> str | None:
    """The digest of the weights that a configuration names; None in those of older versions.

    Raises:
      CheckpointError: it is no digest.
    """
    section = config if config.get("format") == SAVED else config.get("flaxzoo")
    digest = section.get(DIGEST) if isinstance(section, Mapping) else None
    if digest is not None and not (isinstance(digest, str) and re.fullmatch(_SHA256, digest)):
        raise CheckpointError(
            f"{label}: its {CONFIG} has the {DIGEST} {digest!r}, which is no SHA-256"
        )
    return digest


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from another that was renamed over it."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
