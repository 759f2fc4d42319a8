"""Several processes on one machine: ``processes.py`` is what each of them runs."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import by_path
from flaxzoo.cli import main

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


def worker():
    spec = importlib.util.spec_from_file_location("processes", HERE / "processes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def popen(*arguments, **environment):
    """Starts Python; the simulated devices are those that it asks for."""
    flags = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**flags, **{k: str(v) for k, v in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def start(directory, *scenarios, count=2, devices=2, **environment):
    """Starts the processes; each has devices of its own."""
    port, script = free_port(), HERE / "processes.py"
    return [
        popen(script, index, count, devices, port, directory, *scenarios, **environment)
        for index in range(count)
    ]


def end(processes, seconds=180):
    """What the processes have returned and printed."""
    try:
        said = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def run(directory, *scenarios, **options):
    codes, said = end(start(directory, *scenarios, **options))
    assert codes == [0] * len(codes), "\n".join(text[-4000:] for text in said)
    return said


def answers(directory, scenario, count=2):
    return [json.loads((directory / f"{scenario}.{i}.json").read_text()) for i in range(count)]


def numbers(directory, name, index=0):
    return dict(np.load(directory / f"{name}.{index}.npz"))


def largest_error(a, b):
    """Of all arrays' largest differences, each by its array's largest number, the largest."""
    assert a.keys() == b.keys()
    errors = {k: np.abs(a[k] - b[k]).max() / max(np.abs(b[k]).max(), 1e-3) for k in a}
    return max(errors.items(), key=lambda item: item[1])


def assert_near(a, b, bound=1e-5):
    path, error = largest_error(a, b)
    assert error < bound, (path, error)


def assert_bitwise(a, b):
    assert a.keys() == b.keys()
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


@pytest.fixture(scope="module")
def alone():
    """The same training in one process, on one device."""
    module = worker()
    trained = module.trainer(devices=1)
    module.fit(trained)
    return module, trained


SCENARIOS = (
    "replicated",
    "fsdp",
    "features",
    "plan",
    "steps_per_call",
    "folder",
    "unequal_shares",
    "loaders",
    "tensor_axis",
    "failing_share",
    "only_main_writes",
    "mismatches",
    "uninterrupted",
    # It ends the processes.
    "terminated",
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two processes with two devices each, which go through all scenarios."""
    from PIL import Image

    directory = tmp_path_factory.mktemp("pair")
    module = worker()
    for number, label in enumerate(module.LABELS[:20]):
        path = directory / "images" / f"class{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(module.IMAGES[number] * 50 + 128, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    codes, said = end(start(directory, *SCENARIOS))
    assert codes == [143, 143], "\n".join(text[-4000:] for text in said)
    return directory, said


@pytest.mark.parametrize("name", ["replicated", "fsdp", "steps_per_call"])
def test_the_numbers_are_those_of_one_device(pair, alone, name):
    directory, _ = pair
    module, trained = alone
    for index in range(2):
        assert_near(numbers(directory, name, index), module.arrays_of(trained))


def test_evaluating_and_predicting_give_every_process_everything(pair, alone):
    directory, _ = pair
    module, trained = alone
    expected = trained.evaluate(module.DATA)
    outputs = np.asarray(trained.predict(module.IMAGES[:13]))
    for name in ("replicated", "fsdp"):
        for answer in answers(directory, name):
            assert answer["evaluate"] == pytest.approx(expected, rel=1e-5)
    for answer in answers(directory, "replicated"):
        np.testing.assert_allclose(answer["predict"], outputs, rtol=1e-4, atol=1e-5)


def test_features_and_probes_are_those_of_one_process(pair):
    directory, _ = pair
    module = worker()
    trained = module.trainer(devices=1)
    module.fit(trained, epochs=1)
    model, data = trained.model, (module.IMAGES[:21], module.LABELS[:21])
    expected = fz.transfer.extract_features(model, data, batch_size=8, progress=False)
    kernel = fz.transfer.linear_probe(expected, penalties=1.0).kernel
    neighbours = fz.transfer.KNN(expected, k=3).predict(expected)
    first, second = answers(directory, "features")
    assert first.pop("other_data") == second.pop("other_data")
    assert "the first batch of data is" in answers(directory, "features")[0]["other_data"]
    assert first == second
    for name in ("own", "divided", "stored"):
        np.testing.assert_allclose(first[name], expected.inputs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(first["probe"], kernel, rtol=1e-3, atol=1e-3)
    assert first["neighbours"] == neighbours.tolist()
    probabilities = model.predict(module.IMAGES[:5]).probabilities
    np.testing.assert_allclose(first["model"], probabilities, atol=1e-5)


def test_divided_parameters_are_nowhere_whole(pair):
    directory, _ = pair
    whole = sum(
        x.nbytes
        for k, x in numbers(directory, "fsdp").items()
        if k.startswith("params/params/") or "kernel" in k
    )
    assert all(answer["bytes"] < whole for answer in answers(directory, "fsdp"))


def test_the_plan_is_of_all_devices(pair):
    directory, _ = pair
    first, second = answers(directory, "plan")
    assert first == second
    assert "cnn on 4 devices" in first
    assert "batch of 16, 4 on each device" in first


def test_each_process_opens_its_own_files(pair, tmp_path):
    directory, _ = pair
    module = worker()
    # Two whole batches of 8 and one of 4, which is filled up: half of each.
    assert [answer["opened"] for answer in answers(directory, "folder")] == [12, 12]
    images = fz.data.ImageFolder(directory / "images", size=(8, 8), batch_size=8, seed=1)
    expected = module.trainer(devices=1)
    expected.fit(images, epochs=1, progress=False)
    assert_near(numbers(directory, "folder"), module.arrays_of(expected))


def test_unequal_shares_take_the_same_steps(pair):
    directory, _ = pair
    module = worker()
    first, second = answers(directory, "unequal_shares")
    assert first == second
    assert first["steps"] == list(range(1, 11))
    # The same batches in one process: what the second lacks has the weight 0.
    own = [module.shares(*module.DATA, index, 2) for index in range(2)]
    batches = []
    for number, (x, y) in enumerate(own[0]):
        x2, y2 = own[1][number] if number < len(own[1]) else own[1][0]
        weight = np.ones(16, np.float32)
        weight[len(x) : 8] = weight[8 + len(x2) :] = 0
        if number >= len(own[1]):
            weight[8:] = 0
        images, labels = np.concatenate([x, x2]), np.concatenate([y, y2])
        batches.append({"image": images, "label": labels, "weight": weight})
    expected = module.trainer(devices=1)
    module.fit(expected, batches, validation_data=batches)
    for name, values in first["history"].items():
        assert values == pytest.approx(list(expected.history[name]), rel=1e-5), name


def test_loaders_of_other_packages_give_each_process_its_share(pair):
    directory, _ = pair
    module = worker()
    first, second = answers(directory, "loaders")
    assert first == second
    assert {"grain_loader", "grain_iterable"} <= set(first)
    for name in first:
        expected = module.trainer(devices=1)
        shares = [module.LOADERS[name](index, 2) for index in range(2)]
        module.fit(expected, module.Together(shares), validation_data=None)
        assert_near(numbers(directory, name), module.arrays_of(expected))
    for name in module.SHUFFLED & set(first):
        assert_bitwise(numbers(directory, f"{name}_resumed"), numbers(directory, name))


def test_a_tensor_axis_spans_processes(pair):
    directory, _ = pair
    module = worker()
    expected = module.vit(devices=1)
    module.fit(expected)
    parts = {"model_4": 4, "data_2_model_2": 2, "model_2_across": 4}
    assert answers(directory, "tensor_axis") == [parts, parts]
    for name in parts:
        for index in range(2):
            assert_near(numbers(directory, name, index), module.arrays_of(expected))
    whole = numbers(directory, "model_2_across")
    assert_bitwise(numbers(directory, "model_2_across_resumed"), whole)
    # A checkpoint of divided layers opens on one device.
    alone = fz.Trainer.load(directory / "model_2_across_run", devices=1, sharding="replicated")
    assert alone.step == 7
    module.fit(alone, resume=True)
    assert_near(module.arrays_of(alone), module.arrays_of(expected))


def test_what_fails_in_one_is_said_by_all(pair):
    directory, _ = pair
    first, second = answers(directory, "failing_share")
    assert first == "DataError: the disk is gone (in process 1)"
    assert second == "OSError: the disk is gone"


def test_one_process_prints_and_writes(pair):
    directory, said = pair
    assert [answer["main"] for answer in answers(directory, "only_main_writes")] == [True, False]
    assert "val_accuracy" in said[0]
    assert "val_accuracy" not in said[1]
    assert len((directory / "written/history.csv").read_text().splitlines()) == 2
    assert (directory / "written/trainer.json").is_file()
    logs = sorted(
        path.parent.name for path in (directory / "written/tensorboard").glob("*/events*")
    )
    # The epochs, the hyper-parameters behind them, and the validation.
    assert logs == ["train", "train", "validation"]
    assert [path.name for path in (directory / "written/checkpoints").iterdir()] == ["5"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("batch_size", "batch_size is 16 in process 0 and 8 in process 1"),
        ("steps", "the number of batches of train_data is 2 in process 0 and 3 in process 1"),
        ("seed", "seed is 0 in process 0 and 1 in process 1"),
        ("data", "the first batch of train_data, which every process has whole, is"),
        ("code", "code0 in process 0 and"),
        ("parameters", "the processes differ, and must not: params/"),
        ("path", "is not seen by process 1"),
        ("devices", "there are 2 processes, and devices=None is one device"),
        ("idle", "none of process 1"),
        ("again", "has joined already"),
    ],
)
def test_differences_are_messages_on_all(pair, name, says):
    directory, _ = pair
    for answer in answers(directory, "mismatches"):
        assert says in answer[name]


def test_interrupted_runs_end_bitwise_as_the_uninterrupted_one(pair):
    directory, said = pair
    assert "Stopped by SIGTERM" in said[0]
    assert "Stopped by SIGTERM" not in said[1]
    # It goes on in one process with one device for two epochs, and in two processes again.
    shutil.copytree(directory / "run", directory / "elsewhere")
    worker().resume(directory / "elsewhere", epochs=3, devices=1)
    began = time.monotonic()
    codes, said = end(start(directory, "killed", HEARTBEAT=10))
    assert codes[1] == -9
    assert codes[0] not in (0, -9)
    assert time.monotonic() - began < 60
    assert "heartbeat" in said[0], said[0]
    run(directory, "resumed", "resumed_elsewhere")
    assert_bitwise(numbers(directory, "run"), numbers(directory, "uninterrupted"))
    assert_near(numbers(directory, "elsewhere"), numbers(directory, "uninterrupted"), 1e-6)


def test_the_command_line_goes_on_in_two_processes(tmp_path, capsys):
    """One epoch in one process and one in two are those of one process."""
    command = ["train", "cnn", "--data", "digits", "--batch-size", "256", "--optimizer", "sgd"]
    command += ["--lr", "0.05", "--set", "features=8,16", "--no-progress", "--no-tensorboard"]
    alone, several = tmp_path / "alone", tmp_path / "several"
    assert main([*command, "--epochs", "2", "--run-dir", str(alone)]) == 0
    assert main([*command, "--epochs", "1", "--run-dir", str(several)]) == 0
    capsys.readouterr()
    place = ["--coordinator-address", f"127.0.0.1:{free_port()}", "--num-processes", "2"]
    goes_on = ["-m", "flaxzoo.cli", *command, "--epochs", "2", "--resume", "--run-dir", several]
    options = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": 1}
    codes, said = end(
        [popen(*goes_on, *place, "--process-id", index, **options) for index in range(2)]
    )
    assert codes == [0, 0], said
    assert f"run in {several}, model in" in said[0]
    assert "cnn" not in said[1]
    variables = [
        {k: np.asarray(x) for k, x in by_path(fz.Model.load(d / "model").variables).items()}
        for d in (several, alone)
    ]
    assert_near(*variables)
    histories = [np.genfromtxt(d / "history.csv", delimiter=",")[1:] for d in (several, alone)]
    np.testing.assert_allclose(*histories, rtol=1e-5)
    assert not (alone / "history.png").exists() or (several / "history.png").stat().st_size
