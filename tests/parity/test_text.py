"""The committed numbers of Keras's TextVectorization are those of the Keras that is installed."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_golden_file_is_keras_s(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow")
    pytest.importorskip("keras")
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import make_text_golden

    monkeypatch.delitem(sys.modules, "make_text_golden")
    made = tmp_path / "text_keras.json"
    make_text_golden.main(["--output", str(made)])
    committed = ROOT / "tests" / "golden" / "text_keras.json"
    assert json.loads(made.read_text("utf-8")) == json.loads(committed.read_text("utf-8"))
