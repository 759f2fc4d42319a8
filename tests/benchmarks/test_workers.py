import sys
from pathlib import Path

import pytest
from _workers import Worker, WorkerError, measure, reason

FAKE = """
import sys, time
sys.path.insert(0, {directory!r})
from _workers import serve
from types import SimpleNamespace
def start():
    {start}
    print("a library prints")
    def call():
        {call}
    return SimpleNamespace(call=call, wait=lambda result: None, value=lambda result: [result, 2.0],
        device="cpu", same_weights=True, gflop=1.5, steps=2)
serve(start)
"""

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def fake(start="", call="return 1.0"):
    code = FAKE.format(directory=str(BENCHMARKS), start=start or "pass", call=call)
    return [sys.executable, "-c", code]


def test_workers_take_turns_and_a_missing_one_has_a_reason():
    commands = {
        "ours": fake(call="time.sleep(0.06); return 1.0"),
        "absent": fake(start="import no_such_library"),
        "broken": fake(start="raise ValueError('first line\\nsecond line')"),
        "crashing": fake(start="sys.exit('out of memory')"),
    }
    measured = measure(commands, rounds=4, seconds=0.1)
    # As many as the time allows, but three.
    assert measured.rounds == 3
    assert len(measured.timings["ours"].seconds) == 3
    # Of one of the two steps in a call.
    assert min(measured.timings["ours"].seconds) >= 0.03
    assert measured.missing == {
        "absent": "not installed (no_such_library)",
        "broken": "ValueError: first line",
        "crashing": "ended with exit code 1: out of memory",
    }
    ready = measured.ready["ours"]
    assert ready["values"] == [[1.0, 2.0]] * 3
    assert (ready["device"], ready["same_weights"], ready["gflop"]) == ("cpu", True, 1.5)
    assert list(measured.ready) == ["ours"]


def test_the_check_comes_before_the_rounds():
    def check(ready):
        raise SystemExit(f"{ready['ours']['values'][0]}")

    with pytest.raises(SystemExit, match=r"\[1.0, 2.0\]"):
        measure({"ours": fake()}, rounds=3, seconds=1.0, check=check)


def test_a_worker_that_ends_in_a_run_says_so():
    worker = Worker(
        fake(
            call="sys.exit('killed') if done.append(0) or len(done) > 3 else 0; return 0.0",
            start="global done; done = []",
        )
    )
    assert worker.ready()["values"][0] == [0.0, 2.0]
    with pytest.raises(WorkerError, match="exit code 1: killed"):
        worker.run(1)
    worker.close()


def test_reason_is_one_short_line():
    assert reason(ImportError("verify needs timm\nmore")) == "verify needs timm"
    assert reason(RuntimeError("\n\nfirst\nsecond")) == "RuntimeError: first"
    assert len(reason(RuntimeError("x" * 1000))) < 250
