"""Runs every Python block of the README and the docs pages, top to bottom, page by page."""

import json
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


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    """A process for all pages, which share its imports and what it has compiled.

    Pages register names of their own, so they do not share the test process.
    """
    errors = tmp_path_factory.mktemp("docs") / "errors.txt"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERPRETER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, "MPLBACKEND": "Agg"},
        )
    yield process, errors
    process.stdin.close()
    assert process.wait(timeout=60) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem
)
def test_page_runs(page, interpreter, tmp_path):
    """Top to bottom, in a namespace and a directory of its own."""
    process, errors = interpreter
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
