import sys

import pytest
from _timing import Timing, results, write_results
from report import main, render

PAGE = """Before.

<!-- bench steps -->
old
<!-- /bench -->

<!-- bench steps work=mlp -->
<!-- /bench -->

<!-- bench steps environment -->
<!-- /bench -->

<!-- bench never_run -->
kept
<!-- /bench -->
"""


@pytest.fixture
def directory(tmp_path):
    ours, theirs = Timing("flaxzoo", (0.1, 0.1)), Timing("torch", (0.2, 0.3))
    rows = [
        *results({"flaxzoo": ours, "torch": theirs}, work="mlp", title="MLP"),
        *results({"flaxzoo": theirs}, {"torch": "not installed (torch)"}, work="cnn", title="CNN"),
    ]
    write_results(tmp_path / "steps.json", {"cpu": "a processor", "jax": "1.0"}, {}, rows)
    return tmp_path


def test_tables_replace_what_is_between_the_markers(directory):
    page = render(PAGE, directory)
    assert "old" not in page
    assert page.startswith("Before.\n\n<!-- bench steps -->\n")
    assert "| | flaxzoo, ms | min - max ms | torch |" in page
    assert "| MLP | 100 | 100 - 100 | 2.50 |" in page
    assert "| CNN | 250 | 200 - 300 | not installed (torch) |" in page
    assert "| torch | 250.0 | 200.0 - 300.0 | 2.50 |" in page
    assert "cpu a processor, jax 1.0." in page
    assert "<!-- bench never_run -->\nkept\n<!-- /bench -->" in page
    assert render(page, directory) == page


def test_convolutions_in_gflops(tmp_path):
    ours, theirs = Timing("ours", (0.01, 0.02, 0.03)), Timing("torch", (0.001,) * 3)
    rows = results({"ours": ours, "torch": theirs}, work="56, forward", gflop=2.0)
    rows += results({"ours": theirs}, work="56, backward", gflop=0.01)
    write_results(tmp_path / "convolutions.json", {}, {}, rows)
    page = render("<!-- bench convolutions -->\n<!-- /bench -->", tmp_path)
    assert "| GFLOP/s | ours | torch |" in page
    assert "| 56, forward | 100 | 2000 |" in page
    assert "| 56, backward | 10 | not installed |" in page


def test_a_marker_for_rows_that_are_not_there(directory):
    with pytest.raises(ValueError, match=r"steps work=vgg.*no such rows"):
        render("<!-- bench steps work=vgg -->\n<!-- /bench -->", directory)


def test_check_fails_until_the_page_is_written(directory, monkeypatch):
    page = directory / "page.md"
    page.write_text(PAGE)
    command = ["report.py", str(page), "--results", str(directory)]
    monkeypatch.setattr(sys, "argv", [*command, "--check"])
    with pytest.raises(SystemExit, match=r"page\.md"):
        main()
    assert page.read_text() == PAGE
    monkeypatch.setattr(sys, "argv", command)
    main()
    monkeypatch.setattr(sys, "argv", [*command, "--check"])
    main()
