"""``train``: what it writes, and how it goes on."""

import json
import os
import signal
import subprocess
import sys

import flax.linen as nn
import numpy as np
import pytest
from _commands import MODEL, fails, predicted

import flaxzoo as fz
from flaxzoo._files import sole_writer
from flaxzoo.cli import main
from flaxzoo.models import catalog
from flaxzoo.models import registry as model_registry
from flaxzoo.preprocess import Preprocess


@pytest.mark.usefixtures("extras")
def test_train_writes_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["--epochs", "2", "--lr", "0.01", "--schedule", "cosine", "--clip-norm", "1"]
    assert main([*MODEL, *argv, "--schedule-set", "warmup_steps=5"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0] == "digits: 1438 examples to train, 359 to validate"
    assert lines[1].split() == [
        "epoch", "seconds", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[2:4]] == ["1/2", "2/2"]
    directory = tmp_path / "runs" / "mlp-digits"
    model = fz.Model.load(directory / "model")
    images, labels = fz.data.load_digits()[1]
    reached = np.mean(np.argmax(model(images), -1) == labels)
    assert lines[-1].startswith("mlp on digits: val_loss ")
    assert f"val_accuracy {reached:.4f} after 2 epochs; run in runs" in lines[-1]
    assert lines[-1].endswith(os.path.join("runs", "mlp-digits", "model"))
    assert model.spec.classes == tuple("0123456789")
    written = {path.name for path in directory.iterdir()}
    assert written == {
        "checkpoints", "confusion_matrix.png", "history.csv", "history.png", "model",
        "predictions.png", "run.json", "tensorboard", "trainer.json",
    }  # fmt: skip
    assert (directory / "history.csv").read_text().count("\n") == 3


def test_train_counts_what_it_is_told(run):
    history = fz.Trainer.load(run).history
    assert len(history) == 2
    assert history["learning_rate"] == pytest.approx([0.01, 0.01])
    # It learns: 10 classes, so guessing is right one time in ten.
    assert history["val_accuracy"][-1] > 0.4
    assert not (run / "tensorboard").exists()


def test_resumed_run_is_the_uninterrupted_one(tmp_path, capsys, assert_trees_equal):
    options = ["--lr", "0.01", "--optimizer", "sgd", "--optimizer-set", "momentum=0.9"]
    options += ["--steps-per-call", "3"]
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    assert main([*MODEL, *options, "--epochs", "2", "--run-dir", whole]) == 0
    resume = [*MODEL, *options, "--run-dir", parts, "--resume"]
    assert main([*resume, "--epochs", "1"]) == 0
    capsys.readouterr()
    assert main([*resume, "--epochs", "2"]) == 0
    captured = capsys.readouterr()
    assert "  2/2" in captured.out
    assert "  1/2" not in captured.out
    a, b = (fz.Model.load(f"{d}/model") for d in (whole, parts))
    assert_trees_equal(a.variables, b.variables)
    assert fz.Trainer.load(parts).steps_per_call == 3
    assert main([*resume, "--epochs", "2"]) == 0
    assert "had trained for 2 epochs already" in capsys.readouterr().err


def test_a_run_is_not_overwritten_unasked(run, tmp_path, capsys):
    options = [*MODEL, "--run-dir", run]
    before = (run / "history.csv").read_bytes()
    assert "--resume goes on with it, --overwrite" in fails(capsys, options)
    message = fails(capsys, [*options, "--resume", "--seed", "1", "--batch-size", "32"])
    assert "--batch-size was 64, is now 32; --seed was 0, is now 1" in message
    message = fails(capsys, [*options, "--resume", "--set", "norm=layer", "--schedule", "cosine"])
    assert "--set was features=8, is now features=8 norm=layer" in message
    assert "--schedule was not given, is now cosine" in message
    assert (run / "history.csv").read_bytes() == before
    # Nor is one that is still under way, even if asked.
    with sole_writer(run / "checkpoints", "checkpoints"):
        message = fails(capsys, [*options, "--overwrite"])
    assert "another process is writing checkpoints to" in message
    assert (run / "history.csv").read_bytes() == before
    # What others wrote is never removed.
    other = tmp_path / "other"
    (other / "model").mkdir(parents=True)
    assert "no run of flaxzoo wrote" in fails(capsys, [*MODEL, "--run-dir", other, "--overwrite"])
    assert (other / "model").is_dir()


def test_overwrite_and_transfer(run, tmp_path, capsys, assert_trees_equal):
    directory = tmp_path / "run"
    first = fz.Model.load(run / "model")
    options = [*MODEL, "--epochs", "1", "--run-dir", str(directory)]
    assert main(options) == 0
    (directory / "notes.txt").write_text("mine")
    weights = ["--weights", str(run / "model"), "--freeze", "backbone"]
    assert main([*options, *weights, "--overwrite"]) == 0
    model = fz.Model.load(directory / "model")
    backbone = model.variables["params"]["backbone"]
    assert_trees_equal(backbone, first.variables["params"]["backbone"])
    head = "head", "fc", "kernel"
    assert np.any(get(model.variables["params"], head) != get(first.variables["params"], head))
    assert (directory / "notes.txt").read_text() == "mine"
    assert len(fz.Trainer.load(directory).history) == 1


def get(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def test_early_stopping_and_the_best_epoch(tmp_path, capsys):
    directory = tmp_path / "run"
    # So large a rate overshoots: the loss rises again.
    options = ["--optimizer", "sgd", "--lr", "8", "--epochs", "30", "--early-stopping", "0"]
    assert main([*MODEL, *options, "--export", "best", "--run-dir", str(directory)]) == 0
    history = fz.Trainer.load(directory).history
    losses = history["val_loss"]
    assert len(losses) < 30
    assert losses[-1] >= losses[-2]
    images, labels = fz.data.load_digits()[1]
    best = fz.Trainer(fz.Model.load(directory / "model")).evaluate((images, labels))
    assert best["loss"] == pytest.approx(min(losses), rel=1e-5)


def test_measures_with_options(tmp_path, capsys):
    directory = str(tmp_path / "run")
    options = ["--loss", "crossentropy:label_smoothing=0.1", "--metrics", "f1:average=macro"]
    assert main([*MODEL, *options, "--epochs", "1", "--run-dir", directory]) == 0
    assert "val_f1_macro" in capsys.readouterr().out
    assert main(["evaluate", directory, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["metrics"]) == {"loss", "f1_macro"}


def test_reconstruction_needs_no_labels(tmp_path, monkeypatch, capsys):
    class Copy(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(x.shape[-1])(x)

    monkeypatch.setattr(model_registry.MODELS, "_entries", dict(model_registry.MODELS._entries))
    monkeypatch.setattr(
        model_registry.MODELS, "architectures", dict(model_registry.MODELS.architectures)
    )
    fz.models.register("copy", task="reconstruction", input_shape=(8, 8, 1))(Copy)
    directory = str(tmp_path / "run")
    argv = ["train", "copy", "--data", "digits", "--epochs", "1", "--run-dir", directory]
    assert main(argv) == 0
    assert "accuracy" not in capsys.readouterr().out
    assert main(["evaluate", directory, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["metrics"]) == {"loss"}
    assert "predict ranks classes" in fails(capsys, ["predict", directory, "x.png"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "feature=3"], "model 'mlp' does not take 'feature'"),
        (["--set", "features=wide"], "model 'mlp' with features=('wide',): "),
        (["--set", "activation=relo"], "Did you mean 'relu'"),
        (["--set", "norm=layr"], "norm must be one of 'batch', 'layer', 'rms' or None"),
        (["--set", "num_classes=3"], "taken from the data"),
        (["--set", "norm=layer", "--set", "norm=rms"], "given twice"),
        (["--optimizer", "adm"], "unknown optimizer 'adm'. Did you mean 'adam'"),
        (["--optimizer-set", "momentum=1"], "optimizer 'adam' does not take 'momentum'"),
        (["--optimizer-set", "learning_rate=1"], "use --learning-rate"),
        (["--optimizer-set", "b1=none"], "optimizer 'adam'"),
        (["--clip-norm", "0"], "clip_norm"),
        (["--schedule", "cosin"], "Did you mean 'cosine'"),
        (["--schedule", "cosine", "--schedule-set", "warmup_steps=900"], "warmup_steps"),
        (["--loss", "hubr"], "Did you mean 'huber"),
        (["--loss", "huber:delt=1"], "Did you mean 'delta'"),
        (["--metrics", "accuracy,acuracy"], "Did you mean 'accuracy'"),
        (["--freeze", "backbon"], "Did you mean 'backbone'"),
        (["--batch-size", "2000"], "batch_size 2000 is larger than the data"),
        (["--validation-fraction", "0.0001"], "neither part may be empty"),
        (["--weights", "nowhere.safetensors"], "no such weight file"),
        (["--weights", "hf:nothing"], "a Hub repository is org/repo"),
    ],
)
def test_training_mistakes(capsys, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    assert message in fails(capsys, ["train", "mlp", "--data", "digits", *options])


@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_a_rate_that_is_none(capsys, tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    argv = ["train", model, "--data", "digits", "--set", "dropout=abc"]
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert err.splitlines() == [
        f"flaxzoo: error: model '{model}' with dropout='abc': "
        "dropout must be a number in [0, 1), got 'abc'"
    ]
    assert not (tmp_path / "runs").exists()


def test_options_that_matter_in_training_alone_are_checked_before_it(capsys, tmp_path, monkeypatch):
    class Picky(nn.Module):
        num_classes: int = 10
        rate: float = 0.5

        @nn.compact
        def __call__(self, x, *, train=False):
            x = nn.BatchNorm(use_running_average=not train)(x)
            if train and self.rate > 1:
                raise ValueError("rate is too large")
            return nn.Dense(self.num_classes)(x.reshape(len(x), -1))

    monkeypatch.setattr(model_registry.MODELS, "_entries", dict(model_registry.MODELS._entries))
    monkeypatch.setattr(
        model_registry.MODELS, "architectures", dict(model_registry.MODELS.architectures)
    )
    monkeypatch.chdir(tmp_path)
    fz.models.register("picky", input_shape=(8, 8, 1))(Picky)
    message = fails(capsys, ["train", "picky", "--data", "digits", "--set", "rate=2"])
    assert message == "model 'picky' with rate=2: rate is too large"
    assert not (tmp_path / "runs").exists()


def test_data_that_is_not_there(capsys, tmp_path):
    argv = ["train", "mlp", "--data"]
    assert "no such directory" in fails(capsys, [*argv, f"mnist:{tmp_path}/nowhere"])
    assert "no train images; looked for" in fails(capsys, [*argv, f"mnist:{tmp_path}"])
    assert "Did you mean 'mlp'" in fails(capsys, ["train", "mpl", "--data", "digits"])


def test_unwritable_run_directory(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    message = fails(capsys, [*MODEL, "--run-dir", tmp_path / "file" / "run"])
    assert "cannot write to" in message


def test_diverging_run_says_where(capsys, tmp_path):
    argv = [*MODEL, "--run-dir", tmp_path / "run", "--optimizer", "sgd", "--lr", "1e30"]
    assert "training stopped at step 2: loss is nan" in fails(capsys, argv)
    # Nothing was saved, so that the directory is free for the next try.
    assert main([*MODEL, "--epochs", "1", "--run-dir", str(tmp_path / "run")]) == 0


def test_a_pretrained_model_is_trained_on_what_predict_gives_it(tmp_path, monkeypatch, capsys, rng):
    image = pytest.importorskip("PIL.Image")
    # Weights whose inputs are not those of the data.
    entry = {"mean": [0.5], "std": [0.25], "interpolation": "bicubic", "crop": 0.875}
    monkeypatch.setitem(catalog.document("cnn")["weights"]["cnn.digits"], "preprocess", entry)
    monkeypatch.setitem(
        catalog.document("cnn")["weights"]["cnn.digits"], "classes", list("abcdefghij")
    )
    assert fz.models.info("cnn.digits").preprocess.crop == 0.875
    directory = tmp_path / "run"
    argv = ["train", "cnn", "--data", "digits", "--pretrained", "--epochs", "1"]
    argv += ["--validation-fraction", "0.9"]
    assert main([*argv, "--run-dir", str(directory)]) == 0
    model = fz.Model.load(directory / "model")
    spec = model.spec
    assert spec.preprocess == Preprocess(input_shape=(8, 8, 1))
    assert spec.classes == tuple("0123456789")
    # Of the weights: their accuracy is gone, their licence holds on.
    assert (spec.top1, spec.licence) == (None, "apache-2.0")
    pixels = rng.integers(0, 256, (8, 8), np.uint8)
    image.fromarray(pixels).save(tmp_path / "noise.png")
    logits = np.asarray(model(pixels[None, ..., None].astype(np.float32) / 255))[0]
    expected = np.exp(logits - logits.max())
    expected /= expected.sum()
    got = predicted(capsys, [directory / "model", tmp_path / "noise.png", "--top-k", "10"])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-7)
    # What evaluate measures is what training measured.
    last = fz.Trainer.load(directory).history.last()
    assert main(["evaluate", str(directory), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["loss"] == pytest.approx(last["val_loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_resume_goes_on(tmp_path, number, code, capsys):
    directory = str(tmp_path / "run")
    argv = [*MODEL, "--epochs", "100000", "--run-dir", directory, "--no-tensorboard"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flaxzoo.cli", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = iter(process.stdout.readline, "")
    assert any(line.lstrip().startswith("2/") for line in lines)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "is saved in" in out
    assert "the same command with --resume goes on" in err
    assert "Traceback" not in err
    trainer = fz.Trainer.load(directory)
    assert trainer.step > 0
    epochs = len(trainer.history)
    assert main([*MODEL, "--epochs", str(epochs + 1), "--run-dir", directory, "--resume"]) == 0
    assert f"  {epochs + 1}/{epochs + 1}" in capsys.readouterr().out
