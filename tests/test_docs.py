"""Runs every Python block of the README and the docs pages, top to bottom, page by page."""

import os
import re
import subprocess
import sys
import types
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


def is_defined_in(item, module):
    name = getattr(item, "__name__", "_")
    return getattr(item, "__module__", None) == module.__name__ and not name.startswith("_")


def test_every_public_name_is_in_the_docs():
    import flaxzoo as fz

    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    names = []
    for name in fz.__all__:
        names.append(name)
        value = getattr(fz, name)
        if isinstance(value, types.ModuleType):
            public = getattr(value, "__all__", None) or [
                key for key, item in vars(value).items() if is_defined_in(item, value)
            ]
            names += [f"{name}.{key}" for key in public]
    # Type aliases, and the instances behind each module's functions.
    private = re.compile(r"REGISTRY|\w+(Like|Fn)|__version__")
    names = [name for name in names if not private.fullmatch(name.split(".")[-1])]
    assert len(names) > 100
    missing = [name for name in names if not re.search(rf"\b{name.split('.')[-1]}\b", text)]
    assert not missing


def test_relative_links_resolve():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
