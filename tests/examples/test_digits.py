"""The examples, run as a user runs them, with small settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(script, *arguments, cwd):
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The directory of the quickstart's run and what its scripts print, by their names.

    What ``make demo`` left where ``DEMO`` says so, a shorter run otherwise.
    """
    if "DEMO" in os.environ:
        directory = ROOT / os.environ["DEMO"]
        return directory, {path.stem: path.read_text("utf-8") for path in directory.glob("*.txt")}
    directory = tmp_path_factory.mktemp("demo") / "run"
    options = ("--run-dir", directory)
    return directory, {
        "quickstart": run("quickstart_digits.py", *options, "--epochs", 12, cwd=directory.parent),
        "predict": run("predict_from_checkpoint.py", *options, cwd=directory.parent),
    }


@pytest.mark.slow
@pytest.mark.demo
def test_quickstart_then_predict(demo):
    directory, printed = demo
    reached = float(printed["quickstart"].rpartition("% of the held-out")[0].split()[-1])
    assert reached > 95
    made = {path.name for path in directory.iterdir() if path.suffix != ".txt"}
    assert made - {"transfer"} == {
        "checkpoints",
        "history.csv",
        "history.png",
        "model",
        "predictions.png",
        "tensorboard",
        "trainer.json",
    }
    assert "packaged weights cnn.digits: 99" in printed["predict"]


@pytest.mark.slow
def test_autoencoder_beats_the_mean_image(tmp_path):
    out = run("autoencoder_digits.py", "--epochs", 8, "--run-dir", tmp_path, cwd=tmp_path)
    error, baseline = (float(x) for x in out.split("error ")[-1].split(", of the mean image "))
    assert error < 0.5 * baseline
    assert (tmp_path / "reconstructions.png").stat().st_size > 5000


@pytest.mark.slow
def test_comparison_of_optimizers(tmp_path):
    out = run("compare_optimizers.py", "adam", "adamw", "--epochs", 6, cwd=tmp_path)
    accuracies = [float(line.split()[-1].rstrip("%")) for line in out.strip().splitlines()]
    assert len(accuracies) == 2
    assert min(accuracies) > 80
    assert (tmp_path / "runs" / "optimizers" / "optimizers.png").stat().st_size > 5000


@pytest.mark.slow
def test_mnist_example(tmp_path):
    out = run(
        "mnist/main.py",
        "--config.num_epochs=2",
        "--config.batch_size=64",
        f"--workdir={tmp_path}/mnist",
        cwd=tmp_path,
    )
    assert "epoch:  2" in out
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "mnist")).Reload()
    assert len(events.Scalars("train_loss")) == 2
    assert events.Scalars("train_loss")[1].value < events.Scalars("train_loss")[0].value


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    directory = tmp_path / "run"
    script = "distributed/several_processes.py"
    options = ("--start", 2, "--cpu-devices", 2, "--run-dir", directory)
    first = run(script, *options, "--epochs", 1, cwd=tmp_path)
    assert "on 4 devices of 2 processes" in first
    # It goes on where it was.
    run(script, *options, "--epochs", 2, cwd=tmp_path)
    assert len((directory / "history.csv").read_text().splitlines()) == 3
