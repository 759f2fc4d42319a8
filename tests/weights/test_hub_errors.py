"""What goes wrong in a download: one clear error, no damaged file; see ``hub_server``."""

import errno
import logging
import os
import subprocess
import time

import pytest

from flaxzoo.errors import DownloadError
from flaxzoo.weights import hub as weights_hub
from flaxzoo.weights.hub import download

REPO = "timm/resnet18.a1_in1k"
WEIGHTS = bytes(range(256)) * 40


def fails(match, call=lambda: download(REPO)):
    with pytest.raises(DownloadError, match=match) as caught:
        call()
    text = str(caught.value)
    assert REPO in text
    assert "\n" not in text
    assert isinstance(caught.value, OSError)
    return text


# The server says no


def test_an_absent_repository(filled):
    fails("no such repository, or it is private.*hf auth login", lambda: download(REPO + "x"))


def test_an_absent_revision_lists_those_there_are(filled):
    filled.repos[REPO].tags["v1"] = filled.repos[REPO].branches["main"]
    download(REPO)
    fails("'v2'.*no such revision. It has v1, main", lambda: download(REPO, revision="v2"))


def test_what_the_server_took_back_does_not_come_from_the_cache(filled):
    repo = filled.repos[REPO]
    repo.tags["v1"] = repo.branches["main"]
    download(REPO, revision="v1")
    del repo.tags["v1"]
    fails("no such revision", lambda: download(REPO, revision="v1"))
    download(REPO, "config.json")
    del repo.commits[repo.branches["main"]]["config.json"]
    fails("no such file", lambda: download(REPO, "config.json"))


def test_an_absent_file_lists_those_there_are(filled):
    call = lambda: download(REPO, "absent.bin")  # noqa: E731
    fails("absent.bin.*no such file. It has config.json, model.safetensors", call)


def test_gated_and_private_repositories(filled):
    filled.repos[REPO].gated = True
    fails(f"gated. Accept its terms at {filled.url}/{REPO}.*hf auth login.*HF_TOKEN")
    filled.repos[REPO].gated, filled.repos[REPO].private = False, True
    fails("no such repository, or it is private")


@pytest.mark.parametrize(
    ("status", "match"),
    [
        (401, "HTTP 401.*hf auth login.*HF_TOKEN"),
        (403, "HTTP 403.*may read this repository"),
        (404, "no such repository"),
        (418, "answered HTTP 418"),
        (429, "too many requests"),
        (503, "in trouble \\(HTTP 503\\). Try again later"),
    ],
)
def test_statuses(filled, impatient, status, match):
    filled.faults.status = status
    fails(match)
    assert not filled.cached_files()


def test_a_busy_server_is_asked_again(filled, impatient):
    filled.faults.status, filled.faults.status_times = 503, 3
    assert download(REPO).read_bytes() == WEIGHTS


def test_a_server_that_is_no_hub(filled):
    filled.faults.not_a_hub = True
    fails("does not answer as a Hub does. Check HF_ENDPOINT")


# The network


def test_a_server_that_is_down(filled):
    path = download(REPO)
    filled.stop()
    start = time.perf_counter()
    assert download(REPO) == path
    text = fails("cannot be reached.*refused.*HF_ENDPOINT", lambda: download(REPO, "config.json"))
    assert filled.url in text
    assert time.perf_counter() - start < 5


def test_a_host_without_an_address(filled, monkeypatch):
    from huggingface_hub import constants

    place = "http://no-such-host.invalid"
    monkeypatch.setattr(constants, "ENDPOINT", place)
    template = place + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    fails("no-such-host.invalid cannot be reached")


def test_a_silent_server_times_out(filled, monkeypatch):
    from huggingface_hub import constants

    path = download(REPO)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
    filled.faults.pause = 1
    assert download(REPO) == path
    fails("did not answer in time.*HF_HUB_ETAG_TIMEOUT", lambda: download(REPO, "config.json"))


def test_a_download_that_stalls_times_out(filled, monkeypatch, impatient):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    filled.faults.hold = True
    fails("did not answer in time.*HF_HUB_DOWNLOAD_TIMEOUT")
    filled.faults.hold = False
    assert not filled.cached_files()


def test_a_download_that_is_cut_goes_on_where_it_was(filled, monkeypatch, impatient):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    filled.faults.cut_after, filled.faults.cut_times = 4000, 1
    assert download(REPO).read_bytes() == WEIGHTS
    assert [r for m, _, r in filled.requests if m == "GET"] == ["", "bytes=4000-"]


def test_a_download_that_stays_cut(filled, impatient, caplog):
    filled.faults.cut_after = 4000
    with caplog.at_level(logging.CRITICAL, "huggingface_hub"):
        fails("broke off.*Try again")
    assert not filled.cached_files()
    filled.faults.cut_after = None
    assert download(REPO).read_bytes() == WEIGHTS


@pytest.mark.parametrize("filename", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("redirect", [False, True])
def test_wrong_bytes_are_deleted(filled, filename, redirect):
    filled.faults.corrupt, filled.redirect = True, redirect
    kind = "git SHA-1" if filename == "config.json" else "SHA-256"
    fails(f"{filename}.*damaged and was deleted: its {kind}", lambda: download(REPO, filename))
    assert not filled.cached_files()
    filled.faults.corrupt = False
    assert download(REPO, filename).read_bytes()[:1] in (WEIGHTS[:1], b"{")


def test_an_interrupted_check_leaves_no_unchecked_file(filled, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(weights_hub, "_hash", interrupt)
    with pytest.raises(KeyboardInterrupt):
        download(REPO)
    assert not filled.cached_files()


def test_without_symbolic_links(filled, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True, raising=False)
    monkeypatch.setattr(os, "symlink", lambda *_, **__: (_ for _ in ()).throw(OSError("none")))
    filled.faults.corrupt = True
    fails("damaged and was deleted")
    assert not filled.cached_files()
    filled.faults.corrupt = False
    path = download(REPO)
    assert not path.is_symlink()
    assert path.read_bytes() == WEIGHTS


# The disk


@pytest.fixture
def full_disk(filled, monkeypatch):
    """A cache on a file system of 64 KiB where we may mount one, else a write that fails."""
    home = filled.home
    home.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(home)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        from huggingface_hub import file_download

        def write(url, file, **_):
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(file_download, "http_get", write)
    yield
    if mounted:
        subprocess.run(["umount", str(home)], check=True)


@pytest.mark.filterwarnings("ignore:Not enough free disk space")
def test_a_full_disk(filled, full_disk):
    filled.repos[REPO].commit({"model.safetensors": WEIGHTS * 10})
    text = fails("the disk of the cache .* is full.*HF_HOME")
    assert str(filled.home) in text
    assert not filled.cached_files()


def test_a_cache_that_cannot_be_written(filled, monkeypatch):
    path = download(REPO)

    def refuse(name, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(name))

    # Root may write anywhere, so that file modes would not do.
    monkeypatch.setattr(os, "makedirs", refuse)
    fails("cannot be written.*Permission denied.*HF_HOME", lambda: download(REPO, "config.json"))
    assert download(REPO) == path


def test_a_cache_that_is_a_file(filled):
    filled.home.write_text("")
    fails("cannot be written.*HF_HOME")
