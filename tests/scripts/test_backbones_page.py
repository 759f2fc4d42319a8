"""docs/backbones.md is what scripts/make_backbones_page.py makes of the catalogue and the times."""

import importlib.util
import re
from pathlib import Path

import pytest

from flaxzoo.models import catalog

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/backbones.md").read_text("utf-8")


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts/make_backbones_page.py"
    spec = importlib.util.spec_from_file_location("make_backbones_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_writes(script, tmp_path):
    script.main(["--output", str(tmp_path / "backbones.md")])
    written = (tmp_path / "backbones.md").read_text("utf-8")
    assert written == PAGE, "run python scripts/make_backbones_page.py"


def test_every_name_that_was_measured_is_on_the_page_once(script):
    names = re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE)
    assert sorted(names) == sorted({script.BASELINE, *script.rows()})


def test_names_in_the_advice_are_the_zoo_s():
    names = re.findall(r"`([a-z]\w*_?\d\w*)`", PAGE)
    assert len(names) > 30
    assert set(names) - set(catalog.names()) == {
        tag for _, tag in re.findall(r"^\| `(\w+)` `(\w+)`", PAGE, re.MULTILINE)
    } & (set(names) - set(catalog.names()))
