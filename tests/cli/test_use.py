"""``evaluate`` and ``predict``."""

import dataclasses
import json
import re

import pytest
from _commands import MODEL, fails, write_mnist

import flaxzoo as fz
from flaxzoo.cli import main
from flaxzoo.preprocess import Preprocess


def test_evaluate_a_run(run, capsys):
    expected = fz.Trainer.load(run).evaluate(fz.data.load_digits()[1])
    assert main(["evaluate", str(run), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["metrics"] == pytest.approx(expected, rel=1e-5)
    assert (document["data"], document["split"], document["examples"]) == (
        "digits", "validation", 359
    )  # fmt: skip
    assert main(["evaluate", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("on digits: 359 validation examples")
    assert lines[1:] == [f"  {k.ljust(8)}  {v:.4f}" for k, v in expected.items()]


@pytest.mark.parametrize("target", ["model", "best", "step"])
def test_evaluate_other_forms_of_the_run(run, capsys, target):
    step = fz.Trainer.load(run).step
    argv = {
        "model": [str(run / "model")],
        "best": [str(run), "--which", "best"],
        "step": [str(run), "--which", str(step)],
    }[target]
    assert main(["evaluate", *argv, "--data", "digits", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    # The last epoch of this run is its best.
    expected = fz.Trainer.load(run).history.last()
    assert metrics["loss"] == pytest.approx(expected["val_loss"], rel=1e-5)
    assert metrics["accuracy"] == pytest.approx(expected["val_accuracy"], rel=1e-5)


def test_evaluate_keeps_to_the_run_split(tmp_path, capsys):
    directory = str(tmp_path / "run")
    options = ["--validation-fraction", "0.1", "--epochs", "1", "--run-dir", directory]
    assert main([*MODEL, *options]) == 0
    for target in (directory, f"{directory}/model"):
        capsys.readouterr()
        assert main(["evaluate", target, "--data", "digits", "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out)["examples"] == 180
        assert captured.err == ""
    assert main(["evaluate", directory, "--validation-fraction", "0.2"]) == 0
    assert "warning" in capsys.readouterr().err


def test_evaluation_mistakes(run, tmp_path, capsys):
    write_mnist(tmp_path / "m", "t10k", 20)
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    for argv, message in (
        (
            [tmp_path / "nowhere"],
            "nowhere: there is no such directory. MODEL is a run's directory, ",
        ),
        (["nowhere"], "there is no directory 'nowhere', and unknown model 'nowhere'"),
        ([empty], "neither a run (no trainer.json) nor a saved model (no config.json)"),
        ([tmp_path / "damaged"], "damaged: its config.json is not readable as JSON"),
        ([run, "--which", "7"], "no checkpoint of step 7"),
        ([run, "--split", "test"], "no test part of its own"),
        ([run, "--metrics", "acuracy"], "Did you mean 'accuracy'"),
        ([run, "--data", f"mnist:{tmp_path / 'm'}"], "takes inputs [B, 8, 8, 1]; the images"),
        ([run / "model", "--which", "last"], "--which chooses a checkpoint of a run's"),
    ):
        assert message in fails(capsys, ["evaluate", *argv])
    fz.Model.load(run / "model").save(tmp_path / "moved")
    assert "pass --data" in fails(capsys, ["evaluate", tmp_path / "moved"])


@pytest.mark.parametrize("form", ["run", "model"])
def test_predict(run, files, capsys, form):
    paths, _ = files
    target = str(run if form == "run" else run / "model")
    expected = fz.Model.load(run / "model").predict(paths, top_k=2)
    assert main(["predict", target, *paths, "--top-k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, path, labels in zip(lines, paths, expected.labels, strict=True):
        assert re.fullmatch(rf"{re.escape(path)}: {labels[0]} \d+\.\d%, {labels[1]} \d+\.\d%", line)
    assert main(["predict", target, *paths, "--top-k", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["file"] for item in document] == paths
    for item, indices, values in zip(
        document, expected.indices, expected.probabilities, strict=True
    ):
        assert [p["index"] for p in item["predictions"]] == indices.tolist()
        assert [p["label"] for p in item["predictions"]] == [str(i) for i in indices]
        assert [p["probability"] for p in item["predictions"]] == pytest.approx(
            values.tolist(), rel=1e-5
        )


@pytest.mark.skipif(
    "cnn.digits" not in fz.models.list(pretrained=True), reason="needs the packaged weights"
)
def test_pretrained_names_are_models_too(files, capsys):
    paths, labels = files
    assert main(["predict", "cnn.digits", *paths, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["predictions"][0]["index"] for item in document] == labels.tolist()
    assert main(["evaluate", "cnn.digits", "--data", "digits", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["accuracy"] >= 0.98


def test_prediction_mistakes(run, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no image")
    assert "nowhere.png: no such file" in fails(capsys, ["predict", run, "nowhere.png"])
    message = fails(capsys, ["predict", run, tmp_path / "text.png"])
    assert "text.png: not a readable image" in message
    flat = fz.models.get("mlp", num_classes=3, features=(4,), input_shape=(5,)).init(0)
    flat.save(tmp_path / "flat")
    message = fails(capsys, ["predict", tmp_path / "flat", "nowhere.png"])
    assert "takes inputs [B, 5], no images" in message


def test_evaluate_normalises_as_predict_does(tmp_path, capsys):
    model = fz.models.get("cnn.digits", pretrained=True)
    preprocess = Preprocess(input_shape=(8, 8, 1), mean=(0.4, 0.5, 0.6), std=(0.25,))
    model = dataclasses.replace(
        model, spec=dataclasses.replace(model.spec, preprocess=preprocess, input_shape=(8, 8, 1))
    )
    model.save(tmp_path)
    images, labels = fz.data.load_digits()[1]
    expected = fz.Trainer(model).evaluate(((images - 0.5) / 0.25, labels))
    assert main(["evaluate", str(tmp_path), "--data", "digits", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-4)
