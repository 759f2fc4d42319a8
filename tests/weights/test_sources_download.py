"""The weight files of flaxmodels: what is in them, and downloads that fail in every way."""

import http.server
import sys
import tempfile
import threading

import h5py
import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten, unflatten
from flaxzoo.errors import CheckpointError, DownloadError
from flaxzoo.weights import sources
from flaxzoo.weights.sources.flaxmodels import from_flaxmodels

pytest.importorskip("flaxmodels")


def paths_of(name):
    return flatten(fz.models.get(name).shapes()).keys()


def weight_file(depths=(2, 2, 2, 2), convs=2):
    """What an h5 file of flaxmodels holds, by path, with one number for each array."""
    layers = ["conv1/weight", "bn1", "fc/weight", "fc/bias"]
    for stage, depth in enumerate(depths, 1):
        for i in range(depth):
            block = f"layer{stage}/block{i}"
            for j in range(1, convs + 1):
                layers += [f"{block}/conv{j}/weight", f"{block}/bn{j}"]
            if i == 0 and (stage > 1 or convs == 3):
                layers += [f"{block}/downsample/conv/weight", f"{block}/downsample/bn"]
    paths = []
    for layer in layers:
        is_norm = layer.rpartition("/")[2].startswith("bn")
        paths += (
            [f"{layer}/{leaf}" for leaf in ("scale", "bias", "mean", "var")] if is_norm else [layer]
        )
    return {path: np.full((1,), i, np.float32) for i, path in enumerate(paths)}


def write_h5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def test_what_an_h5_file_holds(tmp_path):
    flat = weight_file((3, 4, 6, 3), 3)
    converted = from_flaxmodels("resnet50", flat)
    assert flatten(converted).keys() == paths_of("resnet50")
    backbone = converted["params"]["backbone"]
    assert backbone["layer3_4"]["conv2"]["kernel"] is flat["layer3/block4/conv2/weight"]
    assert (
        backbone["layer1_0"]["downsample_1"]["scale"] is flat["layer1/block0/downsample/bn/scale"]
    )
    assert converted["batch_stats"]["backbone"]["bn1"]["var"] is flat["bn1/var"]
    assert converted["params"]["head"]["fc"]["bias"] is flat["fc/bias"]
    nested = flatten(from_flaxmodels("resnet50", unflatten(flat)))
    with h5py.File(write_h5(tmp_path / "file.h5", flat), "r") as file:
        opened = from_flaxmodels("resnet50", file)
    for path, array in flatten(opened).items():
        assert array == nested[path]
    flat["bn1/num_batches_tracked"] = np.zeros(())
    assert flatten(from_flaxmodels("resnet50", flat)).keys() == paths_of("resnet50")
    flat["bn1/other"] = np.zeros(())
    with pytest.raises(CheckpointError, match=r"1 without a place: params/bn1/other"):
        from_flaxmodels("resnet50", flat)


def test_what_a_vgg_s_h5_file_holds(tmp_path):
    layers = [
        f"conv{n}_{i}" for n, depth in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, depth + 1)
    ]
    arrays = {
        f"{layer}/{leaf}": np.full((1,), 1.0) for layer in layers for leaf in ("weight", "bias")
    }
    for layer, inputs in (("fc6", 512 * 7 * 7), ("fc7", 1), ("fc8", 1)):
        arrays[f"{layer}/weight"] = np.arange(float(inputs))[:, None]
        arrays[f"{layer}/bias"] = np.full((1,), 2.0)
    with h5py.File(write_h5(tmp_path / "file.h5", arrays), "r") as file:
        converted = from_flaxmodels("vgg16", file)
    assert set(converted) == {"params"}
    backbone = converted["params"]["backbone"]
    assert [name for name in backbone if name != "pre_logits"] == [
        f"features_{i}" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    ]
    # Channel 1's first pixel comes behind the 49 of channel 0.
    assert backbone["pre_logits"]["fc1"]["kernel"][0, 0, :3, 0].tolist() == [0, 49, 98]
    del arrays["conv5_3/bias"]
    with pytest.raises(CheckpointError, match="1 missing: params/conv5_3/bias"):
        from_flaxmodels("vgg16", arrays)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server that answers with (status, declared length, body), in flaxmodels' place."""
    replies, asked = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, length, body = replies.pop(0)
            self.send_response(status)
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{httpd.server_port}/s/abc/resnet18_weights.h5?dl=1"
    monkeypatch.setitem(sys.modules["flaxmodels.resnet.resnet"].URLS, "resnet18", url)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    httpd.replies, httpd.asked, httpd.folder = replies, asked, tmp_path / "flaxmodels"
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def good(tmp_path):
    """The bytes of a file that is what it should be."""
    return write_h5(tmp_path / "good.h5", weight_file()).read_bytes()


def test_a_download_is_kept_and_found_again(server, good):
    server.replies.append((200, len(good), good))
    first = sources.load("resnet18", "flaxmodels")
    assert flatten(first).keys() == paths_of("resnet18")
    assert [file.name for file in server.folder.iterdir()] == ["resnet18_weights.h5"]
    again = sources.load("resnet18", "flaxmodels")
    assert server.asked == ["/s/abc/resnet18_weights.h5?dl=1"]
    jax.tree.map(np.testing.assert_array_equal, first, again)


PAGE = b"<!DOCTYPE html><html>Sign in to see this file</html>"
FAULTS = {
    "refused": (lambda good: (403, 0, b""), "HTTP 403 Forbidden"),
    "page": (lambda good: (200, len(PAGE), PAGE), "resnet18_weights.h5: .* web page"),
    "cut": (lambda good: (200, len(good), good[:5000]), r"broke after 5,000 of [\d,]+ bytes"),
    "cut, length unknown": (lambda good: (200, None, good[:5000]), "not a readable HDF5 file"),
    "empty": (lambda good: (200, 0, b""), "an empty file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_download_leaves_nothing(server, good, fault):
    reply, message = FAULTS[fault]
    server.replies.append(reply(good))
    with pytest.raises(DownloadError, match=message) as error:
        sources.load("resnet18", "flaxmodels")
    assert "weights of flaxmodels" in str(error.value)
    assert "pretrained=True" in str(error.value)
    assert not list(server.folder.iterdir())
    server.replies.append((200, len(good), good))
    assert sources.load("resnet18", "flaxmodels")


def test_a_file_of_another_network_is_not_kept(server, tmp_path):
    other = write_h5(tmp_path / "other.h5", weight_file((3, 4, 6, 3))).read_bytes()
    server.replies.append((200, len(other), other))
    with pytest.raises(DownloadError, match="not those of 'resnet18': they have 16"):
        sources.load("resnet18", "flaxmodels")
    assert not list(server.folder.iterdir())


@pytest.mark.parametrize("damaged", [b"", PAGE, None], ids=["empty", "page", "cut"])
def test_a_damaged_file_in_the_cache_is_replaced(server, good, damaged):
    server.folder.mkdir()
    file = server.folder / "resnet18_weights.h5"
    file.write_bytes(good[:5000] if damaged is None else damaged)
    server.replies.append((200, len(good), good))
    assert sources.load("resnet18", "flaxmodels")
    assert file.read_bytes() == good


def test_an_interrupt_leaves_nothing(server, good, monkeypatch):
    server.replies.append((200, len(good), good))

    def interrupt(response):
        raise KeyboardInterrupt

    monkeypatch.setattr("flaxzoo.weights.downloads._next", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sources.load("resnet18", "flaxmodels")
    assert not list(server.folder.iterdir())


def test_no_server_and_no_room(server):
    server.folder.write_text("a file in the cache's place")
    with pytest.raises(DownloadError, match="cannot be stored at .*flaxmodels"):
        sources.load("resnet18", "flaxmodels")
    server.folder.unlink()
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="no connection .*refused"):
        sources.load("resnet18", "flaxmodels")


def test_a_full_disk(server, good, monkeypatch):
    server.replies.append((200, len(good), good))

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(DownloadError, match="stored at .*: No space left on device"):
        sources.load("resnet18", "flaxmodels")
    assert not list(server.folder.iterdir())
