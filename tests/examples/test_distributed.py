"""The example of several devices, on simulated ones."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "distributed"


@pytest.mark.slow
def test_one_machine():
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "one_machine.py"), "--epochs", "1"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    pattern = r"accuracy (\S+)  largest difference (\S+)  (\S+) MB"
    alone, replicated, fsdp = (map(float, m) for m in re.findall(pattern, done.stdout))
    (accuracy, _, whole), (same, difference, all_of_it) = alone, replicated
    assert same == accuracy
    assert difference < 1e-4
    assert all_of_it == pytest.approx(whole, rel=0.01)
    same, difference, part = fsdp
    assert same == accuracy
    assert difference < 1e-4
    assert part < whole / 3
