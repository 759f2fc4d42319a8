"""Files from the servers of other packages, in those packages' own caches."""

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

_T = TypeVar("_T")
_TIMEOUT = 30.0
_CHUNK = 1 << 20


def cached(path: Path, url: str, read: Callable[[Path], _T], *, source: str) -> _T:
    """Reads a file from a cache, downloading it where it is missing or damaged.

    A download gets its name in the cache only once ``read`` took it, so that neither this process
    nor the package that the cache belongs to ever finds half a file or an error page there.

    Args:
      path: where the cache has the file.
      url: where the file is from. A part of the name such as ``-19c8e357.`` is the beginning of
        the file's SHA-256, as PyTorch names files, and is checked.
      read: turns the file into the result; raises CheckpointError for one that is damaged.
      source: the package, for messages.

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
        raise DownloadError(_message(url, source, str(failure))) from failure.__cause__
    except OSError as error:
        where = f"{path}: {error.strerror or error}"
        raise DownloadError(_message(url, source, f"it cannot be stored at {where}")) from error
    return result


class _FetchError(Exception):
    """What went wrong, before the message says where."""


def _message(url: str, source: str, reason: str) -> str:
    return (
        f"the weights of {source} cannot be had from {url}: {reason}. "
        "pretrained=True loads from the Hugging Face Hub instead"
    )


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
