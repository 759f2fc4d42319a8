"""The data that a command names."""

import json

import numpy as np
from _commands import write_mnist

import flaxzoo as fz
from flaxzoo.cli import main
from flaxzoo.cli.data import DataSource, load


def test_held_out_digits_are_those_of_load_digits():
    (train_images, _), (test_images, test_labels) = fz.data.load_digits()
    splits = load(DataSource("digits"), 0.2)
    np.testing.assert_array_equal(splits.validation[0], test_images)
    np.testing.assert_array_equal(splits.validation[1], test_labels)
    np.testing.assert_array_equal(splits.train[0], train_images)
    assert splits.test is None


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
