"""Four processes, and kills at random moments: `make processes` runs them, in minutes."""

from __future__ import annotations

import importlib.util
import random
import time
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location(
    "test_processes", Path(__file__).parent / "test_processes.py"
)
two = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(two)

SEED = 16
KILLS = 10


@pytest.fixture(scope="module")
def alone():
    module = two.worker()
    trained = module.trainer(devices=1)
    module.fit(trained)
    return module, trained


@pytest.mark.parametrize(("count", "devices"), [(4, 2), (4, 1), (1, 4)])
def test_the_numbers_do_not_depend_on_the_processes(tmp_path, alone, count, devices):
    module, trained = alone
    two.run(tmp_path, "replicated", "fsdp", count=count, devices=devices)
    for name in ("replicated", "fsdp"):
        two.assert_near(two.numbers(tmp_path, name), module.arrays_of(trained))


def test_runs_that_are_killed_end_bitwise_as_the_uninterrupted_one(tmp_path):
    """A process is killed at some moment of training or saving, and all are started again."""
    two.run(tmp_path, "uninterrupted")
    expected = two.numbers(tmp_path, "uninterrupted")
    draw, kills, runs = random.Random(SEED), 0, 0
    directory = tmp_path / "0"
    while kills < KILLS or not runs:
        directory.mkdir(exist_ok=True)
        for said in directory.glob("began.*"):
            said.unlink()
        processes = two.start(directory, "slowly", HEARTBEAT=10)
        while kills < KILLS and not (directory / "began.0").exists():
            assert all(process.poll() is None for process in processes)
            time.sleep(0.02)
        if kills < KILLS:
            time.sleep(draw.uniform(0, 3))
            victim = draw.choice(processes)
            kills += victim.poll() is None
            victim.kill()
        codes, said = two.end(processes)
        if codes == [0, 0]:
            two.assert_bitwise(two.numbers(directory, "run"), expected)
            runs += 1
            directory = tmp_path / str(runs)
        else:
            assert -9 in codes, said
