"""The committed golden file is what its script writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "tests" / "golden" / "resnet.npz"


def test_the_script_writes_the_committed_file(tmp_path):
    path = ROOT / "scripts" / "make_golden.py"
    spec = importlib.util.spec_from_file_location("make_golden", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(["--output", str(tmp_path / "resnet.npz")])
    with np.load(tmp_path / "resnet.npz") as written, np.load(COMMITTED) as committed:
        assert sorted(written) == sorted(committed)
        for key, value in written.items():
            # torch's rounding differs a little between processors.
            limit = 2e-6 * np.abs(value).max()
            np.testing.assert_allclose(committed[key], value, rtol=0, atol=limit)
    assert COMMITTED.stat().st_size < 100_000
