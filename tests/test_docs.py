"""Runs every Python block of the README and the docs pages, top to bottom, page by page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text("utf-8"))


def run(pages: list[Path], directory: Path) -> subprocess.CompletedProcess:
    """One process for several pages, each in a namespace and a directory of its own.

    Pages register names of their own, so they do not share the test process.
    """
    program = ["import os, traceback", "failed = []"]
    for page in pages:
        work = directory / page.stem
        work.mkdir()
        source = "\n".join(blocks(page))
        program.append(
            f"os.chdir({str(work)!r})\n"
            f"try:\n    exec(compile({source!r}, {page.name!r}, 'exec'), {{'__name__': 'doc'}})\n"
            f"except BaseException:\n    traceback.print_exc(); failed.append({page.name!r})"
        )
    program.append("raise SystemExit('failed: ' + ', '.join(failed) if failed else 0)")
    script = directory / "pages.py"
    script.write_text("\n".join(program))
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, env=environment
    )


@pytest.mark.slow
def test_every_page_runs(tmp_path):
    pages = [page for page in PAGES if blocks(page)]
    assert len(pages) > 10
    result = run(pages, tmp_path)
    assert result.returncode == 0, result.stderr[-6000:]


def test_every_public_name_is_in_the_docs():
    import flaxzoo as fz

    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    names = [f"fz.{name}" for name in fz.__all__ if name != "__version__"]
    modules = ("callbacks", "data", "debug", "plots", "transfer")
    for module in modules:
        public = getattr(fz, module)
        names += [f"{module}.{name}" for name in getattr(public, "__all__", [])]
    names += [f"models.{name}" for name in fz.models.__all__]
    missing = [name for name in names if not re.search(rf"\b{name.split('.')[-1]}\b", text)]
    assert not missing


def test_relative_links_resolve():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
