"""What several files of commands share."""

import gzip
import json
import struct

import numpy as np
import pytest

from flaxzoo.cli import main
from flaxzoo.cli import train as train_module

MODEL = ["train", "mlp", "--data", "digits", "--set", "features=8"]


def run_dir(tmp_path_factory, *options):
    directory = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "_installed", lambda module: False)
        assert main([*MODEL, "--epochs", "2", "--run-dir", str(directory), *options]) == 0
    return directory


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
