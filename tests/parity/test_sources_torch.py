"""Weights through jax-resnet and flaxmodels, at full size and from PyTorch's files."""

from __future__ import annotations

import hashlib
import http.server
import pickle
import re
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.errors import DownloadError
from flaxzoo.models.resnest import FastResNeStBlock
from flaxzoo.weights import sources
from flaxzoo.weights.sources import jax_resnet as source
from flaxzoo.weights.sources.flaxmodels import from_flaxmodels
from flaxzoo.weights.sources.jax_resnet import from_jax_resnet

torch = pytest.importorskip("torch")
jax_resnet = pytest.importorskip("jax_resnet")


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm")


def state_dict(timm, name, **options):
    """timm's network and its state dict, with random BatchNorm statistics."""
    torch.manual_seed(0)
    net = timm.create_model(name, **options).eval()
    for path, tensor in net.state_dict().items():
        if path.endswith(("running_mean", "running_var")):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
        elif path.endswith("weight") and tensor.ndim == 1:
            torch.nn.init.uniform_(tensor, 0.5, 1.0)
        elif path.endswith("bias"):
            torch.nn.init.normal_(tensor, std=0.1)
    return net, net.state_dict()


def as_reference(variables):
    """Our leaves under timm's names and in PyTorch's layout, by design section 3."""
    leaf_names = {
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }
    reference = {}
    for path, leaf in flatten(variables).items():
        _, _, *modules, name = path.split("/")
        # layer1_0 is layer1.0, downsample_1 is downsample.1; no other name has a _.
        modules = ".".join(modules).replace("_", ".")
        array = np.asarray(leaf)
        if name == "kernel":
            array = array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0))
        reference[f"{modules}.{leaf_names.get(name, name)}"] = array
    return reference


def as_fast_ai(tensors):
    """A ResNet-50-D's state dict under the names of fast.ai's xresnet50."""
    renamed = {}
    for path, tensor in tensors.items():
        module, _, leaf = path.rpartition(".")
        parts = module.split(".")
        if parts[0] in ("conv1", "bn1"):
            place = int(parts[1]) if len(parts) == 2 else 7
            module = f"{place // 3}.{place % 3}"
        elif parts[0] == "fc":
            module = "10"
        else:
            block = f"{int(parts[0].removeprefix('layer')) + 3}.{parts[1]}"
            is_norm = parts[2].startswith("bn")
            module = (
                f"{block}.idconv.{int(parts[3]) - 1}"
                if parts[2] == "downsample"
                else f"{block}.convs.{int(parts[2][-1]) - 1}.{int(is_norm)}"
            )
        renamed[f"{module}.{leaf}"] = tensor
    return renamed


CASES = {
    "resnet18": (jax_resnet.pretrained_resnet, {"size": 18}),
    "resnet50": (jax_resnet.pretrained_resnet, {"size": 50}),
    "wide_resnet50_2": (jax_resnet.pretrained_wide_resnet, {"size": 50}),
    "resnext50_32x4d": (jax_resnet.pretrained_resnext, {"size": 50}),
    "resnet50d": (jax_resnet.pretrained_resnetd, {"size": 50}),
    "resnest50d": (jax_resnet.pretrained_resnest, {"size": 50}),
    "fast": (jax_resnet.pretrained_resnest, {"size": 50, "fast": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_state_dict_survives_jax_resnet(timm, name):
    """Bit for bit under timm's names, and their forward, ours and timm's agree to 1e-5."""
    convert, arguments = CASES[name]
    ours, theirs = {}, {}
    if name == "fast":
        name, ours["block"] = "resnest50d", FastResNeStBlock
        theirs["block_args"] = {"radix": 2, "avd": True, "avd_first": True}
    reference, tensors = state_dict(timm, name, **theirs)
    given = as_fast_ai(tensors) if name == "resnet50d" else tensors
    make, variables = convert(**arguments, state_dict=given)
    converted = from_jax_resnet(make, variables)
    found = as_reference(converted)
    expected = {k: v.numpy() for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    assert found.keys() == expected.keys()
    for path, array in expected.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)

    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    with torch.no_grad():
        logits = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    module = make()
    outputs = {
        "jax-resnet": jax.jit(lambda v, x: module.apply(v, x, mutable=False))(variables, images),
        "flaxzoo": fz.models.get(name, **ours).with_variables(converted)(images),
    }
    for who, output in outputs.items():
        assert np.abs(output - logits).max() <= 1e-5 * np.abs(logits).max(), who


def test_flaxmodels_bottlenecks_compute_what_ours_do(timm):
    """Through what an h5 file of theirs holds, made of PyTorch's weights as they made it."""
    flaxmodels = pytest.importorskip("flaxmodels")
    reference, tensors = state_dict(timm, "resnet50")
    statistics = {"weight": "scale", "running_mean": "mean", "running_var": "var"}
    arrays = {}
    for path, tensor in tensors.items():
        *modules, leaf = path.split(".")
        array = tensor.numpy()
        if array.ndim == 1 and modules[-1] != "fc":
            leaf = statistics.get(leaf, leaf)
        elif leaf == "weight":
            array = array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))
        name = "/".join(modules)
        name = re.sub(r"(layer\d)/(\d+)", r"\1/block\2", name)
        name = name.replace("downsample/0", "downsample/conv").replace(
            "downsample/1", "downsample/bn"
        )
        arrays[f"{name}/{leaf}"] = array
    converted = from_flaxmodels("resnet50", arrays)
    ours = fz.models.get("resnet50").with_variables(converted)

    module = flaxmodels.ResNet50(pretrained=None, output="logits", normalize=False)
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x), images)
    # The same walk backwards: each of their leaves, replaced by the array that it became.
    leaves, tree = jax.tree.flatten(shapes)
    marked = jax.tree.unflatten(tree, list(range(len(leaves))))
    places = flatten(from_flaxmodels(module, marked))
    moved = {places[path]: array for path, array in flatten(converted).items()}
    variables = jax.tree.unflatten(tree, [moved[i] for i in range(len(leaves))])
    theirs = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, images)

    with torch.no_grad():
        logits = reference(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    for output in (theirs, ours(images)):
        assert np.abs(output - logits).max() <= 1e-5 * np.abs(logits).max()


def test_flaxmodels_vggs_compute_what_ours_do():
    flaxmodels = pytest.importorskip("flaxmodels")
    module = flaxmodels.VGG16(pretrained=None, output="logits", normalize=True)
    rng = np.random.default_rng(0)
    pixels = rng.random((1, 224, 224, 3), np.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), pixels)

    def fill(shape):
        noise = rng.standard_normal(shape.shape, np.float32)
        if noise.ndim > 1:
            noise *= np.float32(np.sqrt(2 / np.prod(shape.shape[:-1])))
        return noise

    variables = jax.tree.map(fill, shapes)
    ours = fz.models.get("vgg16").with_variables(from_flaxmodels(module, variables))
    theirs = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, pixels)
    # Its networks normalise pixels themselves, by the numbers that preprocess gives for ours.
    expects = sources.preprocess("vgg16", "flaxmodels")
    logits = ours((pixels - np.float32(expects["mean"])) / np.float32(expects["std"]))
    assert np.abs(logits - theirs).max() <= 1e-5 * np.abs(theirs).max()


def test_the_other_sizes_have_our_shapes():
    """From eval_shape alone: no weights are made."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    for name, build in {
        "resnet34": jax_resnet.ResNet34,
        "resnet101": jax_resnet.ResNet101,
        "resnet152": jax_resnet.ResNet152,
        "wide_resnet101_2": jax_resnet.WideResNet101,
        "resnext101_32x8d": jax_resnet.ResNeXt101,
        "resnest101e": jax_resnet.ResNeSt101,
        "resnest200e": jax_resnet.ResNeSt200,
        "resnest269e": jax_resnet.ResNeSt269,
    }.items():
        module = build(n_classes=1000)
        shapes = jax.eval_shape(module.init, jax.random.key(0), images)
        found = flatten(from_jax_resnet(module, shapes))
        expected = flatten(fz.models.get(name).shapes())
        assert {k: v.shape for k, v in found.items()} == {
            k: v.shape for k, v in expected.items()
        }, name


@pytest.fixture
def serve(monkeypatch, tmp_path):
    """Puts bytes on a server in PyTorch's place, as the weights of resnet18."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    asked = []

    def start(body, digest=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(httpd)
        digest = digest or hashlib.sha256(body).hexdigest()[:8]
        url = f"http://127.0.0.1:{httpd.server_port}/models/resnet18-{digest}.pth"
        monkeypatch.setitem(
            source._WEIGHTS, "resnet18", source._WEIGHTS["resnet18"]._replace(url=url)
        )
        return tmp_path / "hub" / "checkpoints" / f"resnet18-{digest}.pth"

    servers: list[http.server.ThreadingHTTPServer] = []
    start.asked = asked
    yield start
    for httpd in servers:
        httpd.shutdown()
        httpd.server_close()


def saved(tmp_path, content):
    file = tmp_path / "saved.pth"
    torch.save(content, file)
    return file.read_bytes()


def test_load_fetches_once_and_converts(timm, serve, tmp_path):
    _, tensors = state_dict(timm, "resnet18")
    file = serve(saved(tmp_path, tensors))
    found = as_reference(sources.load("resnet18", "jax_resnet"))
    for path, array in found.items():
        np.testing.assert_array_equal(array, tensors[path].numpy(), err_msg=path)
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]
    sources.load("resnet18", "jax_resnet")
    assert len(serve.asked) == 1
    # Cut off, as torch.hub leaves it when the connection breaks.
    good = file.read_bytes()
    file.write_bytes(good[: len(good) // 2])
    sources.load("resnet18", "jax_resnet")
    assert len(serve.asked) == 2
    assert file.read_bytes() == good


class Payload:
    """What a malicious pickle does: calls a function when it is loaded."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return open, (self.target, "w")


def test_load_refuses_what_is_no_state_dict(serve, tmp_path):
    victim = tmp_path / "victim"
    hostile = pickle.dumps({"conv1.weight": Payload(victim)})
    other = saved(tmp_path, {"conv1.weight": torch.zeros(1)})
    for body, digest, message in (
        (hostile, None, "it sent no usable file"),
        (saved(tmp_path, {"a": Payload(victim)}), None, "refused: .*open"),
        (other, "0" * 8, "SHA-256 begins with .* not with 00000000"),
        (other, None, r"pretrained_resnet takes: 'bn1\.weight' is missing"),
        (b"<html>no</html>", None, "web page"),
    ):
        file = serve(body, digest)
        with pytest.raises(DownloadError, match=message):
            sources.load("resnet18", "jax_resnet")
        assert not list(file.parent.iterdir())
    assert not victim.exists()
