"""The command line: what it prints, what it writes, and how it fails."""

import argparse
import dataclasses
import gzip
import importlib.util
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.cli import main
from flaxzoo.cli import train as train_module
from flaxzoo.cli.data import DataSource, data_source, load
from flaxzoo.cli.look import KINDS, in_columns
from flaxzoo.cli.values import Choice, checkpoint, choice, fraction, integer, key_value, literal
from flaxzoo.models import catalog
from flaxzoo.models import registry as model_registry
from flaxzoo.models.build import counted
from flaxzoo.preprocess import Preprocess

MODEL = ["train", "mlp", "--data", "digits", "--set", "features=8"]


@pytest.fixture(autouse=True)
def no_extras(request, monkeypatch):
    """Plots and logs take longer than the training; the tests that look at them ask for them."""
    if "extras" not in request.fixturenames:
        monkeypatch.setattr(train_module, "_installed", lambda module: False)


@pytest.fixture
def extras():
    """For tests that want plots and logs."""


def run_dir(tmp_path_factory, *options):
    directory = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "_installed", lambda module: False)
        assert main([*MODEL, "--epochs", "2", "--run-dir", str(directory), *options]) == 0
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_dir(tmp_path_factory, "--lr", "0.01")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three held-out digits as PNG files, and what they show."""
    image = pytest.importorskip("PIL.Image")
    directory = tmp_path_factory.mktemp("png")
    images, labels = fz.data.load_digits()[1]
    paths = [str(directory / f"{i}.png") for i in range(3)]
    for path, pixels in zip(paths, images, strict=False):
        image.fromarray((pixels[..., 0] * 255).round().astype(np.uint8)).save(path)
    return paths, labels[:3]


def fails(capsys, argv, code=1):
    """Runs a command that must fail; returns its only line on standard error."""
    capsys.readouterr()
    assert main([str(a) for a in argv]) == code
    captured = capsys.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("flaxzoo")
    assert "Traceback" not in captured.err
    return last.partition("error: ")[2]


def predicted(capsys, argv):
    """The probabilities that ``predict`` prints, by class."""
    capsys.readouterr()
    assert main(["predict", *map(str, argv), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[0]["predictions"]
    return [p["probability"] for p in sorted(found, key=lambda p: p["index"])]


# --- parsing -----------------------------------------------------------------------------------


def test_parsing_loads_no_heavy_module():
    code = (
        "import sys\n"
        "from flaxzoo.cli import main\n"
        "codes = [main(a) for a in (['--version'], ['--help'], ['train', '--help'], ['train'])]\n"
        "heavy = [m for m in ('jax', 'flax', 'numpy', 'optax', 'tqdm') if m in sys.modules]\n"
        "print(codes, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 2] []"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"flaxzoo {fz.__version__}\n"


@pytest.mark.parametrize(
    "command", [[], ["list"], ["info"], ["train"], ["evaluate"], ["predict"], ["verify"]]
)
def test_help_has_examples(capsys, command):
    assert main([*command, "--help"]) == 0
    captured = capsys.readouterr()
    assert f"\n  flaxzoo {' '.join(command)}" in captured.out.partition("examples:")[2]
    assert captured.err == ""


def test_help_shows_defaults_that_say_something(capsys):
    main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "examples per step (default: 64)" in text
    assert "default: None" not in text
    assert "default: []" not in text
    for title in ("data:", "model:", "training:", "output:"):
        assert title in text


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "commands:" in captured.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["trian"], "invalid choice: 'trian'"),
        (["--verson"], "Did you mean '--version'"),
        (["train", "mlp"], "required: --data"),
        (["train", "mlp", "--data", "digit"], "Did you mean 'digits'"),
        (["train", "mlp", "--data", "mnist"], "mnist:DIR"),
        (["train", "mlp", "--data", "digits", "--epoch", "3"], "Did you mean '--epochs'"),
        (["train", "mlp", "--data", "digits", "--epochs", "0"], "at least 1, got 0"),
        (["train", "mlp", "--data", "digits", "--epochs", "x"], "an integer, got 'x'"),
        (["train", "mlp", "--data", "digits", "--steps-per-call", "0"], "at least 1, got 0"),
        (["train", "mlp", "--data", "digits", "--lr", "nan"], "finite"),
        (["train", "mlp", "--data", "digits", "--lr", "0"], "above 0"),
        (["train", "mlp", "--data", "digits", "--validation-fraction", "1"], "between 0 and 1"),
        (["train", "mlp", "--data", "digits", "--set", "features"], "KEY=VALUE"),
        (["train", "mlp", "--data", "digits", "--metrics", "a,,b"], "separated by commas"),
        (["train", "mlp", "--data", "digits", "--resume", "--overwrite"], "not allowed with"),
        (["train", "mlp", "--data", "digits", "--schedule-set", "a=1"], "goes with --schedule"),
        (["evaluate", "run", "--which", "first"], "'last', 'best' or a step"),
        (["predict", "run"], "required: FILE"),
        (["list", "--pretrained", "--kind", "losses"], "--kind models"),
    ],
)
def test_wrong_usage(capsys, argv, message):
    assert message in fails(capsys, argv, code=2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 1e-3),
        ("64,32", (64, 32)),
        ("64,", (64,)),
        ("true", True),
        ("None", None),
        ("gelu", "gelu"),
        ("'1'", "1"),
        ("2 +", "2 +"),
        ("{1}", "{1}"),
    ],
)
def test_literal(text, value):
    assert literal(text) == value
    assert type(literal(text)) is type(value)


def test_values():
    assert key_value("a=b=c") == ("a", "b=c")
    assert choice("f1:average=macro:threshold=0.2") == Choice(
        "f1", (("average", "macro"), ("threshold", 0.2))
    )
    assert checkpoint("12") == 12
    assert integer(0)("0") == 0
    assert fraction("0.5") == 0.5
    assert data_source("mnist:a:b") == DataSource("mnist", "a:b")
    assert str(data_source("mnist:a")) == "mnist:a"
    for bad in ("1=2", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="KEY=VALUE"):
            key_value(bad)


# --- list and info -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_list_prints_a_name_per_line(capsys, kind):
    assert main(["list", "--kind", kind]) == 0
    assert capsys.readouterr().out.splitlines() == getattr(fz, kind).list()


def test_list_with_a_pattern(capsys):
    assert main(["list", "c*n"]) == 0
    assert "cnn" in capsys.readouterr().out.splitlines()
    assert "Did you mean 'adam'" in fails(capsys, ["list", "--kind", "optimizers", "adm*"])


def test_list_pretrained(capsys):
    names = fz.models.list(pretrained=True)
    assert main(["list", "--pretrained"]) == (0 if names else 1)
    assert capsys.readouterr().out.split() == names


def test_list_on_a_terminal_makes_columns(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["list", "--kind", "activations"]) == 0
    out = capsys.readouterr().out
    assert sorted(out.split()) == fz.activations.list()
    assert len(out.splitlines()) < len(out.split())
    assert max(map(len, out.splitlines())) <= 60


def test_columns_read_downwards():
    assert in_columns(["a", "b", "c", "d", "e"], 8) == "a  c  e\nb  d"
    assert in_columns(["long_name", "b"], 3) == "long_name\nb"
    # A long name widens its own column only.
    assert in_columns(["a", "long_name", "c", "d"], 16) == "a          c\nlong_name  d"
    assert in_columns(["a", "b", "c", "long_name"], 18) == "a  b  c  long_name"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["resnet18.a1*"],
            "no models match 'resnet18.a1*'. It matches pretrained weights (1): "
            "flaxzoo list --pretrained 'resnet18.a1*'",
        ),
        (["cnn.digits"], "(1): flaxzoo list --pretrained cnn.digits"),
        (
            ["--pretrained", "cnn"],
            "no pretrained weights match 'cnn'. They are listed as NAME.TAG: "
            "flaxzoo list --pretrained 'cnn.*'",
        ),
        (["--pretrained", "cnn.digit"], "Did you mean 'cnn.digits'"),
    ],
)
def test_a_pattern_for_the_other_list_says_which(capsys, argv, message):
    assert message in fails(capsys, ["list", *argv])
    if "flaxzoo list" in message:
        command = message[message.index("flaxzoo list") :]
        assert main(shlex.split(command)[1:]) == 0
        assert capsys.readouterr().out


def test_info_has_a_line_for_each_weights(capsys):
    spec = fz.models.info("resnet50")
    assert main(["info", "resnet50"]) == 0
    out = capsys.readouterr().out
    before, _, table = out.partition("  pretrained (the first is the default)\n")
    rows = table.splitlines()
    assert [row.split()[0] for row in rows] == [f"resnet50.{tag}" for tag in spec.tags]
    first = fz.models.info(f"resnet50.{spec.tags[0]}")
    assert rows[0].split() == [
        f"resnet50.{first.tag}", "top-1", f"{first.top1:.2f}", "%", "224x224", first.licence
    ]  # fmt: skip
    assert f"parameters {spec.parameters:,}" in before
    assert max(map(len, out.splitlines())) <= 100


def test_info_of_weights_counts_the_others(capsys):
    tags = fz.models.info("resnet18").tags
    assert main(["info", f"resnet18.{tags[1]}"]) == 0
    out = capsys.readouterr().out
    assert f"others     {len(tags) - 1} more weights: flaxzoo info resnet18\n" in out
    assert tags[0] not in out
    assert main(["info", "cnn.digits"]) == 0
    assert "more weights" not in capsys.readouterr().out


def test_info_of_a_saved_model(run, capsys, monkeypatch):
    parameters = fz.Model.load(run / "model").summary().parameters
    for target in (run, run / "model"):
        assert main(["info", str(target), "--layers"]) == 0
        out = capsys.readouterr().out
        assert "input      float32 [B, 8, 8, 1]" in out
        assert f"parameters {parameters:,}, " in out
    assert "--set goes with a model's name" in fails(capsys, ["info", run, "--set", "features=8"])
    monkeypatch.chdir(run)
    assert main(["info", "model"]) == 0
    assert f"parameters {parameters:,}" in capsys.readouterr().out


def test_info_of_a_model(capsys):
    assert main(["info", "mlp"]) == 0
    assert capsys.readouterr().out.strip() == str(fz.models.info("mlp"))
    assert main(["info", "mlp", "--layers", "--set", "features=8", "--set", "num_classes=3"]) == 0
    out = capsys.readouterr().out
    model = fz.models.get("mlp", features=(8,), num_classes=3)
    assert str(model.summary()) in out
    assert str(counted(model.module, model.spec)) in out
    assert "parameters 6,307" in out


def test_info_looks_in_all_registries(capsys):
    assert main(["info", "adamw"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("optimizer adamw: ")
    assert "  b1 (default: 0.9)\n" in out
    # A schedule and an activation share this name.
    assert main(["info", "linear"]) == 0
    out = capsys.readouterr().out
    assert "schedule linear" in out
    assert "activation identity" in out
    assert "also known as linear" in out
    assert main(["info", "linear", "--kind", "schedules"]) == 0
    assert "activation" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["info", "cn"], "unknown model 'cn'. Did you mean 'cnn'"),
        (["info", "adm", "--kind", "optimizers"], "Did you mean 'adam'"),
        (["info", "adam", "--kind", "optimizers", "--layers"], "go with models"),
        (["info", "adam", "--layers"], "unknown model 'adam'"),
        (["info", "mlp", "--set", "feature=3"], "Did you mean 'features'"),
        (["info", "mlp", "--set", "pretrained=1"], "reads no weights"),
        (["info", "cnn", "--layers", "--set", "pooling=sum"], "model 'cnn' with pooling='sum': "),
    ],
)
def test_info_mistakes(capsys, argv, message):
    assert message in fails(capsys, argv)


# --- data --------------------------------------------------------------------------------------


def test_held_out_digits_are_those_of_load_digits():
    (train_images, _), (test_images, test_labels) = fz.data.load_digits()
    splits = load(DataSource("digits"), 0.2)
    np.testing.assert_array_equal(splits.validation[0], test_images)
    np.testing.assert_array_equal(splits.validation[1], test_labels)
    np.testing.assert_array_equal(splits.train[0], train_images)
    assert splits.test is None


def write_mnist(directory, prefix, count, first=0):
    """Numbered images: the first two pixels of each tell which it is."""
    directory.mkdir(exist_ok=True)
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 0, 0] = np.arange(first, first + count)
    header = struct.pack(">4B3I", 0, 0, 8, 3, count, 28, 28)
    with gzip.open(directory / f"{prefix}-images-idx3-ubyte.gz", "wb") as file:
        file.write(header + images.tobytes())
    labels = (np.arange(count) % 10).astype(np.uint8)
    (directory / f"{prefix}-labels-idx1-ubyte").write_bytes(
        struct.pack(">4BI", 0, 0, 8, 1, count) + labels.tobytes()
    )


def numbers(part):
    return set((part[0][:, 0, 0, 0] * 255).round().astype(int).tolist())


def test_mnist_with_the_t10k_files_alone_is_split(tmp_path):
    write_mnist(tmp_path / "m", "t10k", 100)
    source = DataSource("mnist", str(tmp_path / "m"))
    splits = load(source, 0.2)
    assert numbers(splits.train) | numbers(splits.validation) == set(range(100))
    assert numbers(splits.train).isdisjoint(numbers(splits.validation))
    np.testing.assert_array_equal(np.bincount(splits.validation[1]), [2] * 10)
    assert splits.test is None
    assert "only the t10k files" in splits.note
    assert numbers(load(source, 0.2).validation) == numbers(splits.validation)


def test_mnist_with_both_parts_keeps_the_test_part(tmp_path):
    write_mnist(tmp_path / "m", "train", 100)
    write_mnist(tmp_path / "m", "t10k", 30, first=200)
    splits = load(DataSource("mnist", str(tmp_path / "m")), 0.1)
    assert numbers(splits.train) | numbers(splits.validation) == set(range(100))
    assert len(splits.validation[0]) == 10
    assert numbers(splits.test) == set(range(200, 230))
    assert splits.note == "mnist: 90 examples to train, 10 to validate, 30 to test"


def test_mnist_run_evaluates_on_the_test_part(tmp_path, capsys):
    write_mnist(tmp_path / "m", "train", 100)
    write_mnist(tmp_path / "m", "t10k", 30)
    data, directory = f"mnist:{tmp_path / 'm'}", str(tmp_path / "run")
    argv = ["train", "mlp", "--data", data, "--set", "features=4", "--epochs", "1"]
    assert main([*argv, "--run-dir", directory]) == 0
    assert "test_accuracy" in capsys.readouterr().out
    assert main(["evaluate", directory, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["split"], document["examples"]) == ("test", 30)
    assert main(["evaluate", directory, "--json", "--split", "train"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 80


# --- train -------------------------------------------------------------------------------------


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


@pytest.mark.full_compiler
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


@pytest.mark.parametrize(
    ("argv", "kind"),
    [
        (["train", "mlp", "--data", "digits", "--optimizer", "zzzz"], "optimizers"),
        (["train", "mlp", "--data", "digits", "--loss", "zzzz"], "losses"),
        (["train", "mlp", "--data", "digits", "--metrics", "zzzz"], "metrics"),
        (["info", "zzzz"], "models"),
    ],
)
def test_messages_point_to_commands_not_to_python(capsys, tmp_path, monkeypatch, argv, kind):
    monkeypatch.chdir(tmp_path)
    message = fails(capsys, argv)
    assert message.endswith(f"names: flaxzoo list --kind {kind}")
    assert main(["list", "--kind", kind]) == 0


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


def test_traceback_on_request(capsys, tmp_path):
    argv = [*MODEL, "--run-dir", str(tmp_path / "run"), "--optimizer", "adm"]
    assert main([*argv, "--traceback"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("flaxzoo: error: unknown optimizer")


@pytest.mark.parametrize("error", [RuntimeError, ValueError, KeyError])
def test_programming_errors_keep_their_traceback(tmp_path, monkeypatch, error):
    def broken(*args, **kwargs):
        raise error("a bug")

    monkeypatch.setattr(fz.Trainer, "fit", broken)
    with pytest.raises(error, match="a bug"):
        main([*MODEL, "--run-dir", str(tmp_path / "run")])


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


# --- evaluate and predict ----------------------------------------------------------------------


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
        ([tmp_path / "damaged"], "damaged: its config.json is not readable JSON"),
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


# --- processes ---------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no pipes of this kind")
def test_closed_pipe_is_silent():
    process = subprocess.Popen(
        [sys.executable, "-m", "flaxzoo.cli", "list", "--kind", "schedules"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 141


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


@pytest.mark.slow
def test_exit_code_of_a_mistake(tmp_path):
    argv = ["train", "nothing", "--data", "digits"]
    done = subprocess.run(
        [sys.executable, "-m", "flaxzoo.cli", *argv], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("flaxzoo: error: unknown model 'nothing'")
