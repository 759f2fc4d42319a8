"""What may stand for a model: a run, a checkpoint, a saved model, a name, a repository."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from _commands import fails, predicted

import flaxzoo as fz
from flaxzoo.cli import main


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A small ResNet, written in every form, and a picture."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path_factory.mktemp("tiny")
    model = fz.models.get("test_resnet", num_classes=4, input_shape=(32, 32, 3)).init(0)
    # A fresh network answers with next to the same number for every class.
    model = model.with_variables(jax.tree.map(lambda x: x * 2, model.variables))
    model.save(root / "own")
    model.save_pretrained(root / "both")
    (root / "timm").mkdir()
    config = json.loads((root / "both" / "config.json").read_text())
    del config["flaxzoo"]
    (root / "timm" / "config.json").write_text(json.dumps(config))
    weights = (root / "both" / "model.safetensors").read_bytes()
    (root / "timm" / "model.safetensors").write_bytes(weights)
    np.savez(root / "weights.npz", **model.to_torch_state_dict(as_numpy=True))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8)
    image.fromarray(pixels).save(root / "picture.png")
    return root, model


def by_class(predictions):
    return predictions.probabilities[0][np.argsort(predictions.indices[0])]


@pytest.mark.parametrize("form", ["own", "both", "timm"])
def test_predict_with_a_saved_model_of_any_form(tiny, capsys, form):
    root, _ = tiny
    expected = by_class(fz.Model.from_pretrained(root / form).predict(root / "picture.png"))
    assert np.ptp(expected) > 0.01
    assert predicted(capsys, [root / form, root / "picture.png"]) == pytest.approx(
        expected.tolist(), rel=1e-4
    )


def test_predict_with_a_repository(tiny, capsys, monkeypatch, tmp_path):
    root, model = tiny
    path = Path(__file__).parents[1] / "weights" / "hub_server.py"
    spec = importlib.util.spec_from_file_location("hub_server", path)
    hub_server = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, hub_server)
    spec.loader.exec_module(hub_server)
    files = {file.name: file.read_bytes() for file in (root / "both").iterdir()}
    expected = pytest.approx(by_class(model.predict(root / "picture.png")).tolist(), rel=1e-4)
    with hub_server.HubServer() as server:
        server.patch(monkeypatch, tmp_path / "hf")
        server.repos["me/tiny"] = hub_server.Repo(files)
        for argv in (
            ["hf:me/tiny"],
            ["hf:me/tiny@main"],
            ["test_resnet", "--weights", "hf:me/tiny", "--set", "input_shape=32,32,3"],
        ):
            assert predicted(capsys, [argv[0], root / "picture.png", *argv[1:]]) == expected
        assert main(["info", "hf:me/tiny"]) == 0
        assert "input      float32 [B, 32, 32, 3]" in capsys.readouterr().out
        message = fails(capsys, ["predict", "hf:me/absent", "x.png"])
        assert "me/absent" in message


@pytest.mark.parametrize("file", ["both/model.safetensors", "weights.npz", "own"])
def test_predict_with_weights_for_a_name(tiny, capsys, file):
    root, _ = tiny
    model = fz.models.get("test_resnet", pretrained=root / file, input_shape=(32, 32, 3))
    expected = by_class(model.predict(root / "picture.png"))
    argv = ["test_resnet", root / "picture.png", "--weights", root / file]
    argv += ["--set", "input_shape=32,32,3"]
    assert predicted(capsys, argv) == pytest.approx(expected.tolist(), rel=1e-4)


def test_evaluate_weights_for_a_name(run, capsys):
    expected = fz.Trainer.load(run).history.last()
    weights = str(run / "model" / "model.safetensors")
    argv = ["mlp", "--weights", weights, "--data", "digits", "--set", "features=8"]
    argv += ["--set", "num_classes=10", "--set", "input_shape=8,8,1"]
    assert main(["evaluate", *argv, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["model"], document["weights"]) == ("mlp", weights)
    assert document["metrics"]["accuracy"] == pytest.approx(expected["val_accuracy"], rel=1e-5)
    assert main(["evaluate", *argv]) == 0
    assert capsys.readouterr().out.startswith(f"mlp with {weights} on digits: 359 validation")


def test_targets_that_are_no_model(tiny, run, tmp_path, monkeypatch, capsys):
    root, _ = tiny
    file = root / "weights.npz"
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "model.safetensors").write_bytes(b"")
    for argv, message in (
        ([file], f"is a file: weights are read by NAME --weights {file}"),
        ([tmp_path / "bare"], f"weights alone are read by NAME --weights {tmp_path / 'bare'}"),
        (["timm/resnet18"], "there is no such directory. MODEL is a run's directory, a saved"),
        (["hf:resnet18"], "a Hub repository is org/repo"),
        (["test_resnet", "--weights", "hf:x"], "a Hub repository is org/repo"),
        (["test_resnet", "--weights", "gone.npz"], "gone.npz"),
        (["tst_resnet", "--weights", file], "Did you mean 'test_resnet'"),
        ([run, "--weights", file], "--weights goes with a model's name"),
        (["hf:me/tiny", "--weights", file], "--weights goes with a model's name"),
        (["cnn", "--weights", "jax_resnet"], "jax_resnet"),
        ([run, "--set", "features=4"], "--set goes with a model's name"),
        (["cnn", "--set", "pretrained=x"], "use --weights"),
        (["cnn.digits", "--set", "feature=4"], "Did you mean 'features'"),
        (["cnn", "--weights", file, "--which", "best"], "--which chooses a checkpoint of a run's"),
    ):
        for command in (["predict", *argv, "x.png"], ["evaluate", *argv, "--data", "digits"]):
            assert message in fails(capsys, command)
