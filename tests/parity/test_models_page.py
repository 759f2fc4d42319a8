"""The whole of docs/zoo.md, written anew: a minute of tracing, so it is not in ``make test``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_script_writes_the_committed_page(tmp_path):
    script = [sys.executable, str(ROOT / "scripts/make_models_page.py")]
    made = tmp_path / "zoo.md"
    subprocess.run([*script, "--output", str(made)], check=True)
    assert made.read_bytes() == (ROOT / "docs/zoo.md").read_bytes()
