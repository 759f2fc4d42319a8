"""What startup.py and memory.py do with the figures of their processes; no timing is judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.full_compiler

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts():
    # As Python does for a script; the candidates import when they are used.
    sys.path.insert(0, str(BENCHMARKS))
    import _memory
    import memory
    import startup

    yield startup, memory, _memory
    sys.path.remove(str(BENCHMARKS))


def test_startup_table_has_ratios_and_missing_peers(scripts):
    startup, _, _ = scripts
    stages = ("trace and lower", "compile")
    found = {
        "flaxzoo": {"total": [3.0, 4.0], **{stage: [1.0, 2.0] for stage in stages}},
        "jax-resnet": "No module named 'jax_resnet'",
        "plain Linen": {"total": [6.0, 2.0], **{stage: [1.0, 1.0] for stage in stages}},
    }
    lines = startup.report("compile", found).splitlines()
    assert lines[2] == "| flaxzoo | 1.50 | 1.50 | 3.50 | 3.00 - 4.00 | 1.00 |"
    assert "No module named 'jax_resnet'" in lines[3]
    # The median of 2.0 and 0.5.
    assert lines[4].endswith("| 4.00 | 2.00 - 6.00 | 1.25 |")
    assert len({line.count("|") for line in lines}) == 1


def test_startup_rows_are_json(scripts):
    startup, _, _ = scripts
    found = {"logits": {"flaxzoo": {"total": [1.0], "import": [0.5]}, "timm": "not here"}}
    assert json.loads(json.dumps(startup.rows(found))) == [
        {"goal": "logits", "name": "flaxzoo", "seconds": [1.0], "stages": {"import": [0.5]}},
        {"goal": "logits", "name": "timm", "missing": "not here"},
    ]


def test_the_cache_is_filled_before_it_is_read(scripts):
    startup, _, _ = scripts
    names = list(startup.GOALS["step"][1])
    for i in range(-1, 2 * len(names)):
        order = startup.turn(names, i)
        assert sorted(order) == sorted(names)
        assert order.index(startup.FILLED) == order.index(startup.FILLING) + 1


def test_a_peer_that_is_not_installed_says_so(scripts, monkeypatch):
    startup, memory, _ = scripts
    # Python's own way to make an import fail.
    monkeypatch.setitem(sys.modules, "jax_resnet", None)
    answer = startup.work("step", "jax-resnet", file="", cache=None)
    assert list(answer) == ["missing"]
    assert "jax_resnet" in answer["missing"]
    assert "jax_resnet" in memory.work("resnet50", "jax-resnet", batch=1, file="")["missing"]


def test_memory_table_has_ratios_and_missing_peers(scripts):
    _, memory, _ = scripts
    ours = {"planned": [90.0], "temporary": [50.0], "before": [10.0], "resident": [100.0]}
    found = {"flaxzoo": ours, "timm": "not here", "torch": {"before": [1.0], "resident": [50.0]}}
    lines = memory.report(found).splitlines()
    assert lines[2] == "| flaxzoo | 90 | 50 | 10 | 100 | - | 100 - 100 | 1.00 |"
    assert lines[3].startswith("| timm | not here |")
    assert lines[4] == "| torch | - | - | 1 | 50 | - | 50 - 50 | 0.50 |"
    assert len({line.count("|") for line in lines}) == 1
    on_gpu = {"flaxzoo": {**ours, "device": [20.0]}, "jax-resnet": {**ours, "device": [30.0]}}
    assert memory.report(on_gpu).splitlines()[3].endswith("| 30 | 30 - 30 | 1.50 |")


def test_planned_memory_counts_donated_buffers_once(scripts):
    _, _, instruments = scripts
    x = jnp.zeros(2**20, jnp.float32)
    kept = jax.jit(lambda x: x + 1).lower(x).compile()
    donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert instruments.compiled_sizes(kept)["planned"] == pytest.approx(8, abs=0.1)
    assert instruments.compiled_sizes(donated)["planned"] == pytest.approx(4, abs=0.1)


def test_resident_memory_sees_an_array(scripts):
    _, _, instruments = scripts
    before = instruments.resident("VmHWM")
    array = np.ones(2**27, np.int8)
    peak = instruments.resident("VmHWM")
    assert peak >= instruments.resident() - 1
    # Freed memory of earlier tests may hold part of it.
    assert peak >= before
    assert instruments.resident() >= array.nbytes / instruments.MIB
