"""Files of the Hugging Face Hub: one at a time, checked, and kept in the Hub's own cache.

``huggingface_hub`` does the work, so that its settings hold here too: ``HF_HOME`` (where the
cache is), ``HF_HUB_OFFLINE``, ``HF_ENDPOINT`` (a mirror), ``HF_TOKEN``, ``HF_HUB_ETAG_TIMEOUT`` and
``HF_HUB_DOWNLOAD_TIMEOUT``. What is added: the digest of what arrived is compared with the one that
the Hub announced, and every failure is one ``DownloadError`` that says what to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from flaxzoo._files import as_path, read_json
from flaxzoo._version import __version__
from flaxzoo.errors import CheckpointError, DownloadError
from flaxzoo.weights.hub_errors import explain, is_absent_file, is_final, is_transient

__all__ = ["HubSource", "check_names", "download", "parse", "read_config", "upload", "weight_file"]

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

_FORM = "hf:org/repo or hf:org/repo@revision, such as hf:timm/resnet50.a1_in1k@main"
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(f"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@-]*")
# Upload requests carry no timeout of their own. A commit of large files takes the Hub a while.
_UPLOAD_TIMEOUT = 60.0
_AGENT: dict[str, Any] = {"library_name": "flaxzoo", "library_version": __version__}


class HubSource(NamedTuple):
    """A repository of the Hub at a revision.

    Attributes:
      repo_id: ``"org/repo"``.
      revision: a branch, tag or commit; None for the default branch.
    """

    repo_id: str
    revision: str | None = None


def parse(source: str) -> HubSource:
    """Reads ``hf:org/repo[@revision]``.

    Raises:
      CheckpointError: the source has another form.
    """
    prefix, _, rest = str(source).partition("hf:")
    repo_id, at, revision = rest.partition("@")
    if prefix or not rest or (at and not revision):
        raise CheckpointError(f"a Hub source is written {_FORM}; got {source!r}")
    hub_source = HubSource(repo_id, revision or None)
    check_names(*hub_source)
    return hub_source


def download(
    repo_id: str, filename: str = "model.safetensors", *, revision: str | None = None
) -> Path:
    """The path of a repository's file in the local cache, downloaded if need be.

    A file that is there already costs one request, which asks whether the revision has moved; none
    if the revision is a commit, or if ``HF_HUB_OFFLINE=1``. Without a connection the cached file is
    used. The digest of a file (SHA-256, or git's SHA-1 for small ones) is compared with the Hub's
    once: when it was downloaded, or when it is first found in a cache that can be written.

    Args:
      repo_id: ``"org/repo"``.
      filename: its path in the repository.
      revision: a branch, tag or commit; by default the repository's default branch.

    Raises:
      DownloadError: the file cannot be had; the message says why and what to do.
      ValueError: ``repo_id``, ``filename`` or ``revision`` is malformed.
    """
    check_names(repo_id, revision, filename)
    try:
        return _fetch(repo_id, filename, revision)
    except DownloadError:
        raise
    except Exception as error:
        raise explain(error, repo_id, filename, revision) from error


def weight_file(repo_id: str, revision: str | None = None) -> Path:
    """The path of a repository's weights: ``model.safetensors``, else ``pytorch_model.bin``.

    Args:
      repo_id: ``"org/repo"``.
      revision: a branch, tag or commit; by default the repository's default branch.

    Raises:
      DownloadError: the repository has neither (the message lists what it has), or as for
        ``download``.
      ValueError: ``repo_id`` or ``revision`` is malformed.
    """
    check_names(repo_id, revision)
    preferred, other = WEIGHT_FILES
    try:
        return _fetch(repo_id, preferred, revision)
    except DownloadError:
        raise
    except Exception as error:
        if not is_absent_file(error):
            cached = _cached(repo_id, other, revision) if not is_final(error) else None
            if cached is not None:
                return _verify(cached, repo_id, other, in_cache=True)
            raise explain(error, repo_id, preferred, revision) from error
    try:
        return _fetch(repo_id, other, revision)
    except DownloadError:
        raise
    except Exception as error:
        wanted = " or ".join(WEIGHT_FILES) if is_absent_file(error) else other
        raise explain(error, repo_id, wanted, revision) from error


def read_config(repo_id: str, revision: str | None = None) -> dict[str, Any]:
    """The content of a repository's ``config.json``.

    timm's has ``architecture``, ``num_classes`` and ``pretrained_cfg``, a dictionary.

    Args:
      repo_id: ``"org/repo"``.
      revision: a branch, tag or commit; by default the repository's default branch.

    Raises:
      DownloadError: as for ``download``.
      CheckpointError: the file is not a JSON object.
      ValueError: ``repo_id`` or ``revision`` is malformed.
    """
    path = download(repo_id, "config.json", revision=revision)
    label = f"config.json of {repo_id} ({path})"
    return read_json(path, error=CheckpointError, label=label, within="flaxzoo", edited=True)


def upload(
    directory: str | os.PathLike[str],
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str = "Upload a flaxzoo model",
) -> str:
    """Sends a directory's files to a repository of the Hub, creating it if need be.

    Args:
      directory: what to send; files of the repository with other names stay.
      repo_id: ``"org/repo"``.
      revision: the branch, created if need be; by default the default branch.
      private: whether a repository that is created is private; None for the account's default.
      token: with write access; by default that of ``HF_TOKEN`` or of ``hf auth login``.
      commit_message: of the commit.

    Returns:
      The URL of the repository, or of its branch.

    Raises:
      DownloadError: the files could not be sent; the message says why and what to do.
      ValueError: ``repo_id`` or ``revision`` is malformed, or ``directory`` is no directory or
        has no files.
    """
    check_names(repo_id, revision)
    directory = as_path(directory)
    if not directory.is_dir() or not any(path.is_file() for path in directory.rglob("*")):
        raise ValueError(f"{directory} is not a directory with files to upload")

    from huggingface_hub import HfApi

    try:
        with _timeout(_UPLOAD_TIMEOUT):
            api = HfApi(token=token, **_AGENT)
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            api.upload_folder(
                repo_id=repo_id,
                folder_path=directory,
                revision=revision,
                commit_message=commit_message,
            )
    except Exception as error:
        raise explain(error, repo_id, None, revision, upload=True) from error
    return str(url) if revision is None else f"{url}/tree/{revision}"


def check_names(repo_id: str, revision: str | None = None, filename: str = "config.json") -> None:
    """Checks the names of a repository, a revision and a file before any server is asked.

    Raises:
      CheckpointError: one is malformed, or leads out of the cache.
    """
    if (
        not isinstance(repo_id, str)
        or not _REPO.fullmatch(repo_id)
        or re.search("--|[.]{2}", repo_id)
    ):
        raise CheckpointError(
            f"a Hub repository is org/repo, of letters, digits, '-', '_' and '.'; got {repo_id!r}. "
            f"As a source it is written {_FORM}"
        )
    # A revision becomes a path in the cache: none may lead out of it.
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise CheckpointError(
            f"a revision of {repo_id} is a branch, tag or commit; got {revision!r}. "
            f"As a source it is written {_FORM}"
        )
    if not isinstance(filename, str) or {"", ".", ".."} & set(re.split(r"[/\\]", filename)):
        raise CheckpointError(
            f"a file of {repo_id} is a path inside the repository; got {filename!r}"
        )


def _fetch(repo_id: str, filename: str, revision: str | None) -> Path:
    """Does what ``download`` says, with huggingface_hub's own errors."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or re.fullmatch("[0-9a-f]{40}", revision or ""):
        # There is nobody to ask, or nothing: a commit never moves.
        cached = _cached(repo_id, filename, revision)
        if cached is not None:
            return _verify(cached, repo_id, filename, in_cache=True)
    import huggingface_hub as hub

    metadata = None
    try:
        # Asked here rather than left to hf_hub_download, which tries for minutes, at 60 s each, to
        # reach a host that does not answer.
        metadata = hub.get_hf_file_metadata(
            hub.hf_hub_url(repo_id, filename, revision=revision),
            timeout=constants.HF_HUB_ETAG_TIMEOUT,
            **_AGENT,
        )
    except Exception as error:
        cached = None if is_final(error) else _cached(repo_id, filename, revision)
        if cached is not None:
            return _verify(cached, repo_id, filename, in_cache=True)
        if not is_transient(error):
            raise
    etag = metadata.etag if metadata else None
    cached = _cached(repo_id, filename, revision)
    if cached and metadata and cached == _cached(repo_id, filename, metadata.commit_hash):
        return _verify(cached, repo_id, filename, etag, in_cache=True)
    path = Path(hub.hf_hub_download(repo_id, filename, revision=revision, **_AGENT))
    return _verify(path, repo_id, filename, etag)


def _folder(repo_id: str) -> Path:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).expanduser().resolve()
    return cache / f"models--{repo_id.replace('/', '--')}"


def _cached(repo_id: str, filename: str, revision: str | None) -> Path | None:
    # As huggingface_hub documents its cache. Its own try_to_load_from_cache imports an HTTP client
    # first, which takes longer than all else here.
    from huggingface_hub import constants

    folder = _folder(repo_id)
    try:
        commit = (folder / "refs" / (revision or constants.DEFAULT_REVISION)).read_text().strip()
    except OSError:
        commit = revision or ""
    path = folder / "snapshots" / commit / filename
    return path if commit and os.path.isfile(path) else None


def _verify(
    path: Path, repo_id: str, filename: str, etag: str | None = None, *, in_cache: bool = False
) -> Path:
    """Compares a file with the digest that the Hub gave for it, once, and returns its path.

    A process that is killed leaves a file that it had no time to compare, as do programs that do
    not; so ``.flaxzoo/<digest>`` beside the blobs notes the size and the time of each that was.
    One that arrived and differs is deleted; one that was in the cache is the user's to delete.
    """
    # The cache names its blobs by the digest. Without symbolic links there are no blobs.
    blob = path.parent / os.readlink(path) if path.is_symlink() else path
    digest = blob.name if blob != path else etag
    if digest is None or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", digest):
        return path
    folder, stat = _folder(repo_id), path.stat()
    note, state = folder / ".flaxzoo" / digest, f"{stat.st_size} {stat.st_mtime_ns}\n"
    with contextlib.suppress(OSError, ValueError):
        if note.read_text() == state:
            return path
    if in_cache and not os.access(folder, os.W_OK):
        # A read-only cache is its owner's word: nothing could be noted, and each load would hash.
        return path
    kind = "SHA-256" if len(digest) == 64 else "git SHA-1"
    try:
        actual = _hash(path, git=len(digest) == 40)
        if actual != digest:
            from huggingface_hub import constants

            if in_cache:
                raise DownloadError(
                    f"{filename} of {repo_id} is damaged in the cache: its {kind} is {actual}, the "
                    f"Hub says {digest}. Delete {blob.resolve()} and try again."
                )
            raise DownloadError(
                f"{filename} of {repo_id} arrived damaged and was deleted: its {kind} is {actual}, "
                f"{constants.ENDPOINT} says {digest}. Try again; if it stays so, the server or a "
                "proxy on the way changes files: try another HF_ENDPOINT or network."
            )
    except BaseException:
        # Also when interrupted: it need not be found in the cache next time.
        for name in () if in_cache else {path, blob, Path(os.path.realpath(path))}:
            name.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):
        note.parent.mkdir(exist_ok=True)
        note.write_text(state)
    return path


def _hash(path: Path, *, git: bool) -> str:
    with path.open("rb") as file:
        if not git:
            return hashlib.file_digest(file, "sha256").hexdigest()
        # git's digest of a blob covers a header too; SHA-1 is its choice, not ours.
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
        return digest.hexdigest()


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Bounds how long huggingface_hub's shared client waits on a silent server."""
    from huggingface_hub.utils import get_session

    session: Any = get_session()
    if not hasattr(session, "timeout"):
        # The requests-based client of huggingface_hub 0.x takes timeouts per request alone.
        yield
        return
    before = session.timeout
    session.timeout = seconds
    try:
        yield
    finally:
        session.timeout = before
