"""Runs every Python block of the README and the docs pages, top to bottom, page by page."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    return _BLOCK.findall(page.read_text("utf-8"))


def cases():
    """The pages with blocks; those of a family marked as such, as scripts/families.py tells."""
    spec = importlib.util.spec_from_file_location("families", ROOT / "scripts/families.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    families = script.pages()
    for page in filter(blocks, PAGES):
        names = families.get(page.stem)
        marks = [pytest.mark.family(*sorted(names))] if names else []
        yield pytest.param(page, id=page.stem, marks=marks)


# Runs the pages that it is told, one line of JSON each, and answers with a traceback or null.
INTERPRETER = """
import json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    name, directory, source = json.loads(line)
    os.chdir(directory)
    try:
        exec(compile(source, name, "exec"), {"__name__": "doc"})
        error = None
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps(error), file=answers, flush=True)
# What all pages compiled takes seconds to let go of, one by one.
os._exit(0)
"""


# Pages that simulate devices, which JAX takes no more word about once it has computed.
ALONE = {"distributed"}


@pytest.fixture(scope="module")
def interpreters(tmp_path_factory):
    """A process for all pages, which share its imports and what it has compiled; some have theirs.

    Pages register names of their own, so they do not share the test process.
    """
    started = {}

    def of(page):
        name = page.stem if page.stem in ALONE else "docs"
        if name not in started:
            errors = tmp_path_factory.mktemp(name) / "errors.txt"
            with errors.open("w") as file:
                process = subprocess.Popen(
                    [sys.executable, "-c", INTERPRETER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    text=True,
                    env={**os.environ, "MPLBACKEND": "Agg"},
                )
            started[name] = process, errors
        return started[name]

    yield of
    for process, _ in started.values():
        process.stdin.close()
        assert process.wait(timeout=60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("page", list(cases()))
def test_page_runs(page, interpreters, tmp_path):
    """Top to bottom, in a namespace and a directory of its own."""
    process, errors = interpreters(page)
    # Lines of the traceback are those of the page.
    source, end = [], 0
    text = page.read_text("utf-8")
    for match in _BLOCK.finditer(text):
        source.append("\n" * (text.count("\n", end, match.start(1))) + match[1])
        end = match.end(1)
    print(json.dumps([page.name, str(tmp_path), "".join(source)]), file=process.stdin, flush=True)
    answer = process.stdout.readline()
    assert answer, f"the process died at {page.name}: {errors.read_text()[-6000:]}"
    error = json.loads(answer)
    assert error is None, error


def test_most_pages_have_blocks():
    assert sum(bool(blocks(page)) for page in PAGES) > 10
