"""Files from servers other than the Hub, in the caches of the packages that they are of."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from flaxzoo._files import file_sha256
from flaxzoo.errors import CheckpointError, DownloadError
from flaxzoo.weights.torch_files import SAFE_TORCH, import_torch

_T = TypeVar("_T")
_TIMEOUT = 30.0
_CHUNK = 1 << 20
_HUB_INSTEAD = "pretrained=True loads from the Hugging Face Hub instead"


def torch_checkpoint(
    url: str,
    read: Callable[[Path], _T],
    *,
    source: str,
    purpose: str,
    otherwise: str = _HUB_INSTEAD,
) -> _T:
    """Reads a file of PyTorch's, kept where ``torch.hub`` keeps it.

    That is ``$TORCH_HOME/hub/checkpoints``, by default in ``~/.cache/torch``: a file that
    torchvision has downloaded is found there, and torchvision finds ours.

    Args:
      url: as for ``cached``.
      read: likewise.
      source: likewise.
      purpose: what needs torch, for the message where it is not installed.
      otherwise: as for ``cached``.

    Returns:
      What ``read`` returned.

    Raises:
      DownloadError: as for ``cached``.
      MissingExtraError: torch is not installed, or is too old to read files safely; nothing was
        downloaded then.
    """
    torch: Any = import_torch(purpose, minimum=SAFE_TORCH)
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    return cached(path, url, read, source=source, otherwise=otherwise)


def cached(
    path: Path,
    url: str,
    read: Callable[[Path], _T],
    *,
    source: str,
    otherwise: str = _HUB_INSTEAD,
) -> _T:
    """Reads a file from a cache, downloading it where it is missing or damaged.

    A download gets its name in the cache only once ``read`` took it, so that neither this process
    nor the package that the cache belongs to ever finds half a file or an error page there.

    Args:
      path: where the cache has the file.
      url: where the file is from. A part of the name such as ``-19c8e357.`` is the beginning of
        the file's SHA-256, as PyTorch names files, and is checked.
      read: turns the file into the result; raises CheckpointError for one that is damaged.
      source: the package, for messages.
      otherwise: what else to do, for messages.

    Returns:
      What ``read`` returned.

    Raises:
      DownloadError: the file cannot be had or stored, or is not what it should be.
    """
    try:
        if path.is_file():
            with path.open("rb"):
                pass
            try:
                _check_prefix(file_sha256(path), url)
                return read(path)
            except (CheckpointError, _FetchError):
                # Left by a download that was cut off, or an error page under a weight file's name.
                path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as directory:
            # read() looks at the name's end.
            partial = Path(directory) / path.name
            _fetch(url, partial)
            try:
                result = read(partial)
            except CheckpointError as error:
                reason = str(error).replace(str(partial), path.name)
                raise _FetchError(f"it sent no usable file: {reason}") from error
            partial.replace(path)
    except _FetchError as failure:
        reason = str(failure)
        raise DownloadError(_message(url, source, reason, otherwise)) from failure.__cause__
    except OSError as error:
        reason = f"it cannot be stored at {path}: {error.strerror or error}"
        raise DownloadError(_message(url, source, reason, otherwise)) from error
    return result


class _FetchError(Exception):
    """What went wrong, before the message says where."""


def _message(url: str, source: str, reason: str, otherwise: str) -> str:
    return f"the weights of {source} cannot be had from {url}: {reason}. {otherwise}"


def _fetch(url: str, target: Path) -> None:
    from tqdm import tqdm

    request = urllib.request.Request(url, headers={"User-Agent": "flaxzoo"})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        raise _FetchError(f"HTTP {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _FetchError(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _FetchError(f"no answer ({error})") from error
    digest = hashlib.sha256()
    length = response.headers.get("Content-Length")
    size = int(length) if length and length.isdecimal() else None
    with (
        response,
        target.open("wb") as file,
        # None hides the bar where nobody looks: in logs and pipes.
        tqdm(desc=target.name, total=size, unit="B", unit_scale=True, disable=None) as bar,
    ):
        while chunk := _next(response):
            file.write(chunk)
            digest.update(chunk)
            bar.update(len(chunk))
        received = file.tell()
    if size is not None and received != size:
        raise _FetchError(f"the connection broke after {received:,} of {size:,} bytes")
    _check_prefix(digest.hexdigest(), url)


def _check_prefix(digest: str, url: str) -> None:
    prefix = re.search(r"-([0-9a-f]{8,})\.", os.path.basename(url))
    if prefix and not digest.startswith(prefix[1]):
        raise _FetchError(
            f"the file's SHA-256 begins with {digest[: len(prefix[1])]}, not with {prefix[1]}"
        )


def _next(response: Any) -> bytes:
    try:
        return response.read(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _FetchError(f"the connection broke ({error})") from error
