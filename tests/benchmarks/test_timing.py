import json
from pathlib import Path

import _timing
import pytest
from _timing import Timing, alternate, environment, results, table, turns, write_results


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    ours = Timing("ours", (1.0, 2.0, 10.0))
    theirs = Timing("theirs", (2.0, 6.0, 10.0))
    assert theirs.ratio(ours) == 2.0
    # The ratio of the medians is another number: the machine was slow in the last round.
    assert theirs.median / ours.median == 3.0


def test_a_ratio_needs_the_same_rounds():
    with pytest.raises(ValueError, match="argument 2"):
        Timing("a", (1.0,)).ratio(Timing("b", (1.0, 2.0)))


def test_every_round_has_all_and_starts_with_another():
    orders = turns({"a": 0, "b": 0, "c": 0}, 4)
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert [order[0] for order in orders] == ["b", "c", "a", "b"]


def test_alternate_times_each_in_each_round():
    calls = []
    found = alternate({n: lambda n=n: calls.append(n) for n in "ab"}, rounds=3, warmup=1)
    assert list(found) == ["a", "b"]
    assert {len(timing.seconds) for timing in found.values()} == {3}
    # One to warm up, and an untimed and a timed one per round.
    assert calls.count("a") == calls.count("b") == 1 + 2 * 3


def test_environment_names_the_processor_and_what_is_not_installed():
    env = environment(("jax", "no-such-package"))
    assert env["no-such-package"] == "not installed"
    assert env["jax"][0].isdigit()
    assert env["cpu"]
    assert env["cores"]


def test_the_processor_has_a_name_without_proc(monkeypatch):
    def read_text(self):
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert _timing.processor()


def test_table_has_a_row_for_what_is_missing():
    timings = {"ours": Timing("ours", (0.001, 0.003, 0.002)), "b": Timing("b", (0.2, 0.6, 0.4))}
    lines = table(timings, baseline="ours", missing={"c": "not installed (c)"}).splitlines()
    assert lines[2:] == [
        "| ours | 2.00 | 1.00 - 3.00 | 1.00 |",
        "| b | 400.0 | 200.0 - 600.0 | 200.00 |",
        "| c | not installed (c) | | |",
    ]


def test_results_file(tmp_path):
    rows = results({"ours": Timing("ours", (0.1, 0.2))}, {"b": "not installed"}, work="mlp")
    file = tmp_path / "new" / "mlp.json"
    write_results(file, {"cpu": "x"}, {"rounds": 2, "nested": {}}, rows)
    assert json.loads(file.read_text()) == {
        "environment": {"cpu": "x"},
        "arguments": {"rounds": 2, "nested": {}},
        "results": [
            {"work": "mlp", "name": "ours", "seconds": [0.1, 0.2]},
            {"work": "mlp", "name": "b", "missing": "not installed"},
        ],
    }
    assert list(file.parent.iterdir()) == [file]
