"""The families that timm lacks, against torchvision: norms, sizes, features, photographs, files.

What is compared of all families, each kind of block, is in test_kinds_timm.py.
"""

import hashlib
import http.server
import threading

import jax
import numpy as np
import pytest
from conformance.families import FAMILIES
from PIL import Image
from sklearn.datasets import load_sample_image

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.cli import main
from flaxzoo.errors import DownloadError, UnknownNameError
from flaxzoo.models import catalog
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import (
    compare,
    fill_reference,
    reference_network,
    verify,
    with_reference,
)
from flaxzoo.weights.names import to_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
models = pytest.importorskip("torchvision").models

SIZES = {
    "alexnet": [(63, 64), (99, 131)],
    "googlenet": [(15, 17), (75, 107)],
    "shufflenet_v2": [(1, 33), (75, 107)],
    "squeezenet": [(17, 18), (75, 107)],
}
NAMES = {
    "alexnet": ["alexnet"],
    "googlenet": ["googlenet"],
    "shufflenet_v2": ["shufflenet_v2_x0_5", "shufflenet_v2_x1_5"],
    "squeezenet": ["squeezenet1_0"],
}

every_family = pytest.mark.parametrize("family", SIZES)


def pair(family, **options):
    """Our small network of a family and torchvision's, with the same random weights."""
    kind = FAMILIES[family].kinds[0]
    reference = (kind.create or reference_network)(kind.name, num_classes=5, **options).eval()
    tensors = fill_reference(reference)
    for module in reference.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model = fz.models.get(kind.name, num_classes=5, **kind.fields)
    return with_reference(model, tensors, source="random weights"), reference


def as_torch(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@every_family
def test_images_of_any_size_and_features(family):
    model, reference = pair(family)
    kind = FAMILIES[family].kinds[0]
    bare = fz.models.get(kind.name, num_classes=0, **kind.fields)
    groups = {name: {"backbone": tree["backbone"]} for name, tree in model.variables.items()}
    bare = bare.with_variables(groups)
    for size in SIZES[family]:
        images = synthetic_images((2, *size, 3), 0)
        differences = compare(model, reference, images)
        assert max(difference.relative for difference in differences.values()) < 1e-5
        with torch.no_grad():
            last, _ = reference.forward_intermediates(as_torch(images))
        expected = reference.forward_head(last, pre_logits=True).numpy()
        limit = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(bare(images), expected, rtol=0, atol=limit)


@pytest.mark.parametrize("family", ["googlenet", "shufflenet_v2"])
def test_a_training_step_moves_the_statistics_as_torchvision_s(family):
    model, reference = pair(family)
    images = synthetic_images((3, 64, 96, 3), 0)
    _, after = model.module.apply(model.variables, images, train=True, mutable=["batch_stats"])
    rules = MODELS.architecture(model.spec.name).reference
    found = to_reference(flatten(after), rules)
    with torch.no_grad():
        reference.train()(as_torch(images))
    state = reference.state_dict()
    running = {key for key in state if ".running_" in key}
    assert running == {key for key in found if ".running_" in key}
    for key in running:
        np.testing.assert_allclose(found[key], state[key], rtol=1e-4, atol=1e-6, err_msg=key)


@pytest.mark.parametrize(
    ("family", "name"), [(family, name) for family, names in NAMES.items() for name in names]
)
def test_a_photograph_as_torchvision_prepares_it(family, name):
    """GoogLeNet's weights are of a network that prepares the pixels once more."""
    photograph = Image.fromarray(load_sample_image("china.jpg"))
    options = {"transform_input": True} if family == "googlenet" else {}
    reference = reference_network(name, **options).eval()
    tensors = fill_reference(reference)
    (weights,) = models.get_model_weights(name)
    with torch.no_grad():
        expected = reference(weights.transforms()(photograph)[None]).numpy()
    model = with_reference(fz.models.get(f"{name}.tv_in1k"), tensors, source="the same")
    logits = model(model.spec.preprocess([photograph]))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@every_family
def test_the_catalogue_is_torchvision_s(family):
    for key, entry in catalog.document(family)["weights"].items():
        name = key.partition(".")[0]
        (weights,) = models.get_model_weights(name)
        assert entry["url"] == weights.url
        assert entry["top1"] == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
        assert catalog.known(name)["parameters"] == weights.meta["num_params"]
        # The first places after the point, of multiply-adds.
        assert catalog.known(name)["gflops"] / 2 == pytest.approx(weights.meta["_ops"], abs=1e-3)
    known = {
        name
        for name in models.list_models(module=models)
        if models.get_model_builder(name).__module__.endswith(
            f".{catalog.document(family)['source']['module']}"
        )
    }
    assert known == set(catalog.document(family)["architectures"])


@pytest.mark.family("squeezenet")
def test_verify_asks_torchvision(tmp_path, monkeypatch, capsys):
    assert main(["verify", "squeezenet1_1", "--size", "64"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("squeezenet1_1 against torchvision 0.")
    reference = reference_network("squeezenet1_1", num_classes=7)
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    report = verify("squeezenet1_1", tmp_path / "w.pth", size=64)
    assert report.ok
    assert report.differences["logits"].shape == (2, 7)
    fz.models.get("squeezenet1_1", pretrained=tmp_path / "w.pth").save(tmp_path / "saved")
    assert verify("squeezenet1_1", tmp_path / "saved", size=64).ok
    monkeypatch.setattr(models, "list_models", lambda: ["resnet18"])
    with pytest.raises(UnknownNameError, match=r"torchvision 0\..* has no 'squeezenet1_1'"):
        verify("squeezenet1_1")


@pytest.mark.family("squeezenet")
def test_what_timm_lacks_is_saved_for_flaxzoo(tmp_path):
    model = fz.models.get("squeezenet1_1", num_classes=3).init(rng=0)
    model.save_pretrained(tmp_path)
    again = fz.Model.from_pretrained(tmp_path)
    for path, leaf in flatten(model.variables).items():
        np.testing.assert_array_equal(flatten(again.variables)[path], leaf, err_msg=path)
    reference = reference_network("squeezenet1_1", num_classes=3)
    reference.load_state_dict(model.to_torch_state_dict(), strict=True)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server in PyTorch's place that answers with (status, declared length, body)."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    replies, asked = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, length, body = replies.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    httpd.replies, httpd.asked, httpd.folder = replies, asked, tmp_path / "torch/hub/checkpoints"

    def name(digest):
        file = f"squeezenet1_1-{digest}.pth"
        url = f"http://127.0.0.1:{httpd.server_port}/models/{file}"
        monkeypatch.setitem(catalog.entry("squeezenet1_1", "tv_in1k"), "url", url)
        return httpd.folder / file

    httpd.name = name
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A network of torchvision's, and the bytes of its file in the form that old files have."""
    reference = reference_network("squeezenet1_1").eval()
    fill_reference(reference)
    file = tmp_path_factory.mktemp("published") / "w.pth"
    torch.save(reference.state_dict(), file, _use_new_zipfile_serialization=False)
    return reference, file.read_bytes()


@pytest.mark.family("squeezenet")
def test_published_weights_are_fetched_once(server, published):
    reference, good = published
    file = server.name(hashlib.sha256(good).hexdigest()[:8])
    server.replies.append((200, len(good), good))
    model = fz.models.get("squeezenet1_1", pretrained=True)
    assert (model.spec.tag, model.spec.licence) == ("tv_in1k", "bsd-3-clause")
    assert [entry.name for entry in server.folder.iterdir()] == [file.name]
    images = synthetic_images((2, 64, 64, 3))
    with torch.no_grad():
        expected = reference(as_torch(images)).numpy()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    two = fz.models.get("squeezenet1_1.tv_in1k", pretrained=True, num_classes=2)
    assert two.variables["params"]["head"]["fc"]["kernel"].shape == (512, 2)
    assert server.asked == [f"/models/{file.name}"]
    # Left by a download that was cut off.
    file.write_bytes(good[: len(good) // 2])
    server.replies.append((200, len(good), good))
    fz.models.get("squeezenet1_1", pretrained=True)
    assert file.read_bytes() == good


PAGE = b"<!DOCTYPE html><html>Sign in to see this file</html>"


@pytest.mark.family("squeezenet")
@pytest.mark.parametrize("fault", ["refused", "page", "cut", "another"])
def test_a_damaged_download_is_named_and_leaves_nothing(server, published, fault):
    _, good = published
    digest = hashlib.sha256(good).hexdigest()[:8]
    reply, message = {
        "refused": ((403, 0, b""), "HTTP 403 Forbidden"),
        "page": ((200, len(PAGE), PAGE), f"SHA-256 begins with .* not with {digest}"),
        "cut": ((200, len(good), good[:5000]), r"broke after 5,000 of [\d,]+ bytes"),
        "another": ((200, len(good), good[:-1] + b"!"), f"SHA-256 .* not with {digest}"),
    }[fault]
    server.name(digest)
    server.replies.append(reply)
    with pytest.raises(DownloadError, match=message) as caught:
        fz.models.get("squeezenet1_1", pretrained=True)
    assert "weights of squeezenet1_1.tv_in1k cannot be had from http" in str(caught.value)
    assert "pretrained=<its path>" in str(caught.value)
    assert not list(server.folder.iterdir())


LABELS = np.array([0, 1])


@pytest.mark.family("googlenet")
def test_a_step_of_googlenet_s_three_losses_in_float64():
    kind = FAMILIES["googlenet"].kinds[0]
    _, reference = pair("googlenet", aux_logits=True)
    fields = {**kind.fields, "auxiliary": True, "auxiliary_dropout": 0.0}
    tensors = {key: value.numpy() for key, value in reference.state_dict().items()}
    model = fz.models.get("googlenet", num_classes=5, **fields)
    model = with_reference(model, tensors, source="the same")
    images = synthetic_images((2, 96, 64, 3), 0).astype(np.float64)
    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: np.asarray(x, np.float64), dict(model.variables))
        state = fz.create_train_state(
            model.with_variables(variables), optimizer="sgd", learning_rate=1.0
        )
        after, metrics = fz.train_step(state, (images, LABELS))
        gradients = jax.tree.map(lambda a, b: np.asarray(a - b), state.params, after.params)
        loss = float(metrics.compute()["loss"])
    gradients = to_reference(
        flatten({"params": gradients}), MODELS.architecture("googlenet").reference
    )
    labels, entropy = torch.from_numpy(LABELS), torch.nn.functional.cross_entropy
    reference.double().train().zero_grad()
    logits, second, first = reference(as_torch(images))
    expected = entropy(logits, labels) + 0.3 * (entropy(first, labels) + entropy(second, labels))
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-6)
    derivatives = {key: p.grad.numpy() for key, p in reference.named_parameters()}
    assert gradients.keys() == derivatives.keys()
    for key, value in derivatives.items():
        limit = 1e-6 * np.abs(value).max() + 1e-12
        np.testing.assert_allclose(gradients[key], value, rtol=0, atol=limit, err_msg=key)


@pytest.mark.family("googlenet")
def test_files_with_and_without_googlenet_s_auxiliary_classifiers(tmp_path):
    """torchvision's published file has them, though they were not trained."""
    kind = FAMILIES["googlenet"].kinds[0]
    _, reference = pair("googlenet", aux_logits=True)
    state = reference.state_dict()
    torch.save(state, tmp_path / "whole.pth")
    torch.save({k: v for k, v in state.items() if k[:3] != "aux"}, tmp_path / "bare.pth")

    def get(file, **options):
        found = fz.models.get("googlenet", pretrained=tmp_path / file, **kind.fields, **options)
        return found.variables, found.to_torch_state_dict()

    _, whole = get("whole.pth", auxiliary=True)
    assert {
        key for key in whole if not torch.equal(whole[key].float(), state[key].float())
    } == set()
    for file in ("whole.pth", "bare.pth"):
        _, without = get(file)
        assert not any(key.startswith("aux") for key in without)
        assert all(torch.equal(v.float(), state[k].float()) for k, v in without.items())
    _, fresh = get("bare.pth", auxiliary=True)
    changed = {k.split(".")[0] for k, v in fresh.items() if not torch.equal(v, state[k])}
    assert changed == {"aux1", "aux2"}
    variables, exchanged = get("whole.pth", auxiliary=True, num_classes=2)
    changed = {k.rpartition(".")[0] for k, v in exchanged.items() if not torch.equal(v, state[k])}
    assert changed == {"fc", "aux1.fc2", "aux2.fc2"}
    assert variables["params"]["backbone"]["aux1"]["fc2"]["kernel"].shape[-1] == 2
