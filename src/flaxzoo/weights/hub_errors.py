"""What huggingface_hub and the network raise, as one sentence on what happened and what to do."""

from __future__ import annotations

import errno
from typing import Any

from flaxzoo.errors import DownloadError

_LISTED = 20
_LOGIN = "`hf auth login`, or set HF_TOKEN"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_READ_ONLY = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def is_absent_file(error: BaseException) -> bool:
    """Whether the Hub answered that the repository has no such file."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    return isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)


def is_final(error: BaseException) -> bool:
    """Whether the Hub knows the repository and says no: a cached file would be another one."""
    from huggingface_hub.errors import RevisionNotFoundError

    return is_absent_file(error) or isinstance(error, RevisionNotFoundError)


def is_transient(error: BaseException) -> bool:
    """Whether the Hub answered that it is too busy now: worth huggingface_hub's retries."""
    status = _status(error)
    return status in (408, 429) or 500 <= status < 600


def explain(
    error: BaseException,
    repo_id: str,
    filename: str | None,
    revision: str | None,
    *,
    upload: bool = False,
) -> DownloadError:
    """The ``DownloadError`` for what a call of huggingface_hub raised.

    Args:
      error: what it raised.
      repo_id: ``"org/repo"``.
      filename: of the file, None for several.
      revision: None for the default branch.
      upload: whether files were sent, not fetched.
    """
    at = f" at revision {revision!r}" if revision else ""
    what = f"{filename} of {repo_id}{at}" if filename else f"{repo_id}{at}"
    reason = _reason(_root(error), repo_id, filename, revision, upload)
    return DownloadError(f"cannot {'upload to' if upload else 'download'} {what}: {reason}")


def _reason(
    error: BaseException, repo_id: str, filename: str | None, revision: str | None, upload: bool
) -> str:
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    number = error.errno if isinstance(error, OSError) else None
    status = _status(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        if upload:
            return "HF_HUB_OFFLINE is set, which forbids connections; unset it."
        return (
            f"HF_HUB_OFFLINE is set and the file is not in the cache {constants.HF_HUB_CACHE}. "
            "Unset it to download the file, or set HF_HOME to where it was downloaded."
        )
    if number in _FULL or _says(error, "no space left"):
        if upload:
            return f"the disk is full ({_text(error)})."
        return (
            f"the disk of the cache {constants.HF_HUB_CACHE} is full. Make room, or set HF_HOME to "
            "a directory on another disk."
        )
    if number in _READ_ONLY:
        if upload:
            return f"{_text(error)}."
        return (
            f"the cache {constants.HF_HUB_CACHE} cannot be written ({_text(error)}). Set HF_HOME "
            "to a directory that you may write."
        )
    if isinstance(error, errors.GatedRepoError):
        return (
            f"the repository is gated. Accept its terms at {endpoint}/{repo_id}, and log in with "
            f"{_LOGIN}."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository has no such revision.{_known_revisions(repo_id)}"
    if is_absent_file(error):
        return f"the repository has no such file.{_known_files(repo_id, revision)}"
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return (
            f"{endpoint} has no such repository, or it is private. Check the name; for a private "
            f"one log in with {_LOGIN}."
        )
    if status in (401, 403):
        right = "write to" if upload else "read"
        return (
            f"access was refused (HTTP {status}{_server_says(error)}). Log in with {_LOGIN}, with "
            f"a token that may {right} this repository."
        )
    if status == 429:
        return f"too many requests (HTTP 429). Wait some minutes, or log in with {_LOGIN}."
    if status >= 500:
        return f"{endpoint} is in trouble (HTTP {status}{_server_says(error)}). Try again later."
    if status:
        return f"{endpoint} answered HTTP {status}{_server_says(error)}."
    if isinstance(error, errors.FileMetadataError):
        return (
            f"{endpoint} does not answer as a Hub does. Check HF_ENDPOINT, proxies and firewalls."
        )
    return _connection(error, endpoint, upload)


def _connection(error: BaseException, endpoint: str, upload: bool) -> str:
    """What is left once the server's own answers are dealt with."""
    name = type(error).__name__
    timeouts = "HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT (seconds) allow more"
    if "Timeout" in name:
        return (
            f"{endpoint} did not answer in time. Check the network, or try again later"
            f"{'' if upload else f'; {timeouts}'}."
        )
    if name in ("ConnectError", "ConnectionError", "ConnectionRefusedError", "ProxyError"):
        return (
            f"{endpoint} cannot be reached ({_text(error)}). Check the network, proxies and "
            "HF_ENDPOINT."
        )
    if name in ("RemoteProtocolError", "ReadError", "ChunkedEncodingError", "ConnectionResetError"):
        return (
            f"the connection broke off ({_text(error)}). No part of the file was taken for the "
            "whole. Try again."
        )
    if _says(error, "consistency check"):
        return "less arrived than the Hub announced; what did was deleted. Try again."
    return f"{_text(error)}."


def _root(error: BaseException) -> BaseException:
    """The error that says most: huggingface_hub wraps some in others that say less."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while error.__cause__ is not None and (
        isinstance(error, LocalEntryNotFoundError) or type(error) is RuntimeError
    ):
        error = error.__cause__
    return error


def _status(error: BaseException) -> int:
    return getattr(getattr(error, "response", None), "status_code", 0) or 0


def _says(error: BaseException, phrase: str) -> bool:
    return phrase in str(error).lower()


def _text(error: BaseException) -> str:
    """The first line of an error's message, or its class where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__


def _server_says(error: BaseException) -> str:
    message = getattr(error, "server_message", None)
    return f": {str(message).splitlines()[0]}" if message else ""


def _known_revisions(repo_id: str) -> str:
    refs = _ask(f"models/{repo_id}/refs")
    names = [
        entry["name"]
        for group in ("tags", "branches")
        for entry in (refs.get(group) or [])
        if isinstance(entry, dict) and "name" in entry
    ]
    return f" It has {_listed(names)}." if names else ""


def _known_files(repo_id: str, revision: str | None) -> str:
    from urllib.parse import quote

    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    files = [
        entry["rfilename"]
        for entry in (_ask(f"models/{repo_id}{at}").get("siblings") or [])
        if isinstance(entry, dict) and "rfilename" in entry
    ]
    return f" It has {_listed(files)}." if files else ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _ask(path: str) -> dict[str, Any]:
    """One question to the Hub's API for a better message: an answer is a help, none no failure."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session

    try:
        response = get_session().get(
            f"{constants.ENDPOINT}/api/{path}",
            headers=build_hf_headers(),
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
        answer = response.json() if response.status_code == 200 else None
    except Exception:
        return {}
    return answer if isinstance(answer, dict) else {}
