"""Downloads and uploads against a real HTTP server; see ``hub_server``."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flaxzoo.errors import CheckpointError, DownloadError
from flaxzoo.weights import hub as weights_hub
from flaxzoo.weights.hub import HubSource, download, parse, read_config, upload, weight_file

REPO = "timm/resnet18.a1_in1k"
WEIGHTS = bytes(range(256)) * 40  # 10,240 bytes
CONFIG = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {"crop_pct": 0.95}}


def fails(match, call=lambda: download(REPO)):
    with pytest.raises(DownloadError, match=match) as caught:
        call()
    text = str(caught.value)
    assert REPO in text
    assert "\n" not in text
    assert isinstance(caught.value, OSError)
    return text


# Names


def test_sources():
    assert parse("hf:timm/resnet50.a1_in1k") == HubSource("timm/resnet50.a1_in1k", None)
    assert parse("hf:org/repo@v1.0") == ("org/repo", "v1.0")
    assert parse("hf:org/repo@refs/pr/1").revision == "refs/pr/1"


@pytest.mark.parametrize(
    "source",
    [
        "org/repo",
        "hf:",
        "hf:repo",
        "hf:a/b/c",
        "hf:org/repo@",
        "hf:org/",
        "hf:/repo",
        "hf:org/re po",
        "hf:org/..",
        "hf:org/a..b",
        "hf:org/repo@../../x",
        "hf:org/repo@/etc",
        "hf:org/repo@a b",
        "see hf:org/repo",
    ],
)
def test_malformed_sources_show_the_form(source):
    with pytest.raises(ValueError, match="hf:org/repo@revision"):
        parse(source)


def test_malformed_names_reach_no_server(filled):
    for call in (download, weight_file, read_config):
        with pytest.raises(ValueError, match="org/repo"):
            call("../../etc")
        with pytest.raises(ValueError, match="branch, tag or commit"):
            call(REPO, revision="../main")
    for name in ("../escape", "/etc/passwd", "a/../../b", "a\\..\\b", ""):
        with pytest.raises(ValueError, match="path inside the repository"):
            download(REPO, name)
    assert not filled.requests


# Downloads


def test_a_file_is_downloaded_once(filled):
    path = download(REPO)
    assert path.read_bytes() == WEIGHTS
    assert path.is_relative_to(filled.home / "hub")
    assert filled.count("GET") == 1
    before = filled.count("HEAD")
    assert download(REPO) == path
    assert filled.count("HEAD") == before + 1
    assert filled.count("GET") == 1


def test_files_on_another_host(filled):
    # As the Hub does: a redirect to a signed address, the digest in the redirect's headers.
    filled.redirect = True
    (filled.home).mkdir()
    (filled.home / "token").write_text("hf_secret")
    assert download(REPO).read_bytes() == WEIGHTS
    assert filled.count("GET", "/cdn/") == 1


def test_a_branch_moves_and_a_commit_does_not(filled):
    repo = filled.repos[REPO]
    first = repo.branches["main"]
    repo.tags["v1"] = first
    old = download(REPO)
    repo.commit({"model.safetensors": b"newer"})
    assert download(REPO).read_bytes() == b"newer"
    assert download(REPO, revision="v1").read_bytes() == WEIGHTS
    count = len(filled.requests)
    assert download(REPO, revision=first) == old
    assert len(filled.requests) == count


def test_a_branch_that_moves_back_is_followed_offline_too(filled, monkeypatch):
    repo = filled.repos[REPO]
    first = repo.branches["main"]
    download(REPO)
    repo.commit({"model.safetensors": b"newer"})
    download(REPO)
    repo.branches["main"] = first
    assert download(REPO).read_bytes() == WEIGHTS
    filled.stop()
    assert download(REPO).read_bytes() == WEIGHTS


def test_weight_files_and_configs(filled, hub_server):
    assert weight_file(REPO).name == "model.safetensors"
    assert read_config(REPO) == CONFIG
    filled.repos["org/old"] = hub_server.Repo({"pytorch_model.bin": b"old"})
    assert weight_file("org/old").read_bytes() == b"old"
    filled.repos["org/none"] = hub_server.Repo({"tf_model.h5": b"", "README.md": b""})
    with pytest.raises(DownloadError) as caught:
        weight_file("org/none")
    assert str(caught.value) == (
        "cannot download model.safetensors or pytorch_model.bin of org/none: the repository has no "
        "such file. It has README.md, tf_model.h5."
    )
    filled.stop()
    assert weight_file("org/old").read_bytes() == b"old"


@pytest.mark.parametrize("content", [b"[1, 2]", b"<html>", b"\xff\xfe", b"[" * 200_000])
def test_configs_must_be_json_objects(filled, content):
    filled.repos[REPO].commit({"config.json": content})
    with pytest.raises(CheckpointError, match=f"config.json of {REPO}"):
        read_config(REPO)


def hashed(monkeypatch):
    """The paths that are read for their digest, from now on."""
    paths, original = [], weights_hub._hash

    def count(path, **options):
        paths.append(path)
        return original(path, **options)

    monkeypatch.setattr(weights_hub, "_hash", count)
    return paths


@pytest.fixture(params=["branch", "commit", "offline"])
def again(request, filled, monkeypatch):
    """Asks for the file that is in the cache already, in each way that finds it there."""
    download(REPO)
    commit = filled.repos[REPO].branches["main"]
    if request.param == "offline":
        filled.stop()
    return lambda: download(REPO, revision=commit if request.param == "commit" else None)


def test_digests_are_compared_once(filled, again, monkeypatch):
    paths = hashed(monkeypatch)
    assert again().read_bytes() == WEIGHTS
    assert not paths
    # As another program leaves the cache, and one that was killed before it compared.
    (note,) = filled.home.glob("hub/models--*/.flaxzoo/*")
    note.unlink()
    requests = filled.count("GET")
    path = again()
    assert (again(), again(), paths) == (path, path, [path])
    # Whatever was written since is another file.
    os.utime(path, ns=(0, 0))
    assert (again(), again(), paths) == (path, path, [path, path])
    assert filled.count("GET") == requests


def test_damage_in_the_cache_is_found(filled, again):
    path = download(REPO)
    blob = path.resolve()
    blob.write_bytes(WEIGHTS[::-1])
    text = fails("damaged in the cache: its SHA-256 is", again)
    assert f"Delete {blob} and try again" in text
    assert blob.read_bytes() == WEIGHTS[::-1]
    fails("damaged in the cache", again)


def test_a_damaged_file_that_was_deleted_is_fetched_again(filled):
    path = download(REPO)
    path.resolve().write_bytes(WEIGHTS[::-1])
    fails("damaged in the cache")
    path.resolve().unlink()
    assert download(REPO).read_bytes() == WEIGHTS


def test_read_only_caches_are_believed(filled, again, monkeypatch):
    (note,) = filled.home.glob("hub/models--*/.flaxzoo/*")
    note.unlink()
    paths = hashed(monkeypatch)
    # Permissions do not bind root, as whom tests may run.
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert again().read_bytes() == WEIGHTS
    assert not paths
    assert not note.exists()


def test_errors_are_not_made_of_a_failure_to_explain_them(filled, hub_server):
    # The list of files that an error shows is one more request: it may fail too.
    route = [r for r in hub_server._ROUTES if r[2] != "info"]
    original, hub_server._ROUTES = hub_server._ROUTES, tuple(route)
    try:
        text = fails("no such file", lambda: download(REPO, "absent.bin"))
    finally:
        hub_server._ROUTES = original
    assert text.endswith("no such file.")


# Processes of their own: the environment is read when huggingface_hub is imported.

_PROGRAM = f"from flaxzoo.weights.hub import download; print(download({REPO!r}))"


def start(environment, program=_PROGRAM):
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_mirror_offline_mode_and_progress_bar_by_environment(filled, tmp_path):
    # The last makes huggingface_hub draw a bar without a terminal.
    bars = {"HF_HUB_DISABLE_PROGRESS_BARS": "0", "TQDM_POSITION": "-1"}
    first = start(filled.environment(tmp_path / "home", **bars))
    out, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert "model.safetensors" in err
    assert "100%" in err
    path = Path(out.strip())
    assert path.is_relative_to(tmp_path / "home")
    assert path.read_bytes() == WEIGHTS
    count = len(filled.requests)
    # Cached, offline; and not cached, offline.
    program = (
        _PROGRAM + f"\ntry:\n    download({REPO!r}, 'config.json')\n"
        "except OSError as error:\n    print(error)"
    )
    second = start(filled.environment(tmp_path / "home", HF_HUB_OFFLINE="1"), program)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    same, message = out.strip().splitlines()
    assert same == str(path)
    assert f"config.json of {REPO}: HF_HUB_OFFLINE is set" in message
    assert str(tmp_path / "home") in message
    assert len(filled.requests) == count


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_two_processes_at_once(filled, tmp_path):
    filled.faults.hold = True
    environment = filled.environment(tmp_path / "home")
    processes = [start(environment), start(environment)]
    # Both have found that the file is not in the cache; one has begun to fetch it.
    wait_for(lambda: filled.count("HEAD") == 4 and filled.count("GET") == 1)
    filled.faults.hold = False
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    (path,) = {out.strip() for out, _ in results}
    assert Path(path).read_bytes() == WEIGHTS
    assert len(list((tmp_path / "home" / "hub").glob("models--*/blobs/*"))) == 1
    assert filled.count("GET") == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_ends_in_a_download_leaves_no_damaged_file(filled, how):
    filled.faults.hold = True
    # What a shell starts in the background, and all below it, would ignore an interrupt.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + _PROGRAM
    process = start(filled.environment(filled.home), program)
    wait_for(lambda: filled.count("GET") == 1)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert how == signal.SIGKILL or "KeyboardInterrupt" in err
    assert not filled.cached_files()
    filled.faults.hold = False
    assert download(REPO).read_bytes() == WEIGHTS


@pytest.mark.slow
def test_damage_is_found_though_the_process_that_fetched_it_was_killed(filled):
    filled.faults.corrupt = True
    program = (
        "import os, signal\nfrom flaxzoo.weights import hub\n"
        "hub._hash = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n" + _PROGRAM
    )
    process = start(filled.environment(filled.home), program)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert filled.cached_files()
    filled.faults.corrupt = False
    fails("damaged in the cache")


@pytest.mark.slow
def test_a_cached_file_is_found_at_once(filled, tmp_path):
    path = download(REPO)
    commit = filled.repos[REPO].branches["main"]
    program = (
        "import sys, time, jax\n"
        "from flaxzoo.weights.hub import download\n"
        "start = time.perf_counter()\n"
        f"print(download({REPO!r}, revision=REVISION))\n"
        "print(time.perf_counter() - start)\n"
        "print('httpx2' in sys.modules or 'httpx' in sys.modules or 'requests' in sys.modules)\n"
    )
    count = len(filled.requests)
    for revision, offline in ((commit, "0"), (None, "1")):
        environment = filled.environment(filled.home, HF_HUB_OFFLINE=offline)
        process = start(environment, program.replace("REVISION", repr(revision)))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        found, seconds, has_client = out.split()
        assert found == str(path)
        assert float(seconds) < 0.25
        # No HTTP client is so much as imported.
        assert has_client == "False"
    assert len(filled.requests) == count


# Uploads

quiet = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "README.md").write_text("---\nlibrary_name: flaxzoo\n---\n")
    return folder


@quiet
def test_what_is_uploaded_comes_back(hub, folder):
    url = upload(folder, "me/mine", token="hf_secret", private=True)
    assert url == f"{hub.url}/me/mine"
    repo = hub.repos["me/mine"]
    assert repo.private
    repo.private = False
    assert weight_file("me/mine").read_bytes() == WEIGHTS
    assert read_config("me/mine") == CONFIG
    # Again, to a branch that is not there yet.
    (folder / "config.json").write_text("{}")
    url = upload(folder, "me/mine", token="hf_secret", revision="tuned", commit_message="Tune")
    assert url == f"{hub.url}/me/mine/tree/tuned"
    upload(folder, "me/mine", token="hf_secret", revision="tuned")
    assert read_config("me/mine", "tuned") == {}
    assert read_config("me/mine") == CONFIG


def test_uploads_through_the_pipeline_of_huggingface_hub(hub, folder, monkeypatch):
    # With hf_xet another part of huggingface_hub commits, from threads of its own.
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    (folder / "model.safetensors").unlink()
    upload(folder, "me/mine", token="hf_secret")
    assert read_config("me/mine") == CONFIG


def test_uploads_that_fail(hub, folder, monkeypatch, impatient):
    def send(**options):
        return upload(folder, REPO, token="hf_secret", **options)

    fails("upload to.*HTTP 401.*hf auth login.*may write to", lambda: upload(folder, REPO))
    hub.faults.status = 403
    fails("HTTP 403.*may write to this repository", send)
    hub.faults.status = 500
    fails("HTTP 500.*later", send)
    hub.faults.status = 0
    monkeypatch.setattr(weights_hub, "_UPLOAD_TIMEOUT", 0.1)
    hub.faults.pause = 1
    fails("did not answer in time", send)
    hub.stop()
    fails("cannot be reached", send)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fails("HF_HUB_OFFLINE is set, which forbids", send)


@quiet
def test_an_upload_restores_the_shared_clients_timeout(hub, folder):
    from huggingface_hub.utils import get_session

    before = get_session().timeout
    upload(folder, "me/mine", token="hf_secret")
    assert get_session().timeout == before


def test_what_cannot_be_uploaded(hub, tmp_path):
    with pytest.raises(ValueError, match="not a directory with files"):
        upload(tmp_path / "absent", REPO)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="not a directory with files"):
        upload(tmp_path / "empty", REPO)
    with pytest.raises(ValueError, match="org/repo"):
        upload(tmp_path, "repo")
    with pytest.raises(ValueError, match="org/repo"):
        weights_hub.check_names("repo")
    assert not hub.requests


def test_threads_at_once(filled):
    found = []
    threads = [threading.Thread(target=lambda: found.append(download(REPO))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(found) == 4
    assert {path.read_bytes() for path in found} == {WEIGHTS}
