"""Imports point one way: the layers of the package, held against what its files import."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import flaxzoo

SOURCE = Path(__file__).parents[1] / "src"

# Bottom to top: a module imports from its own row and from those above it here. A name stands for
# a module, or for a package with all that is in it; the longest that fits counts.
LAYERS = (
    # The ground: private modules of the package itself, unless they are named further down.
    ("errors", "registry", "_*", "images", "debug", "distributed", "precision", "schedules"),
    ("activations", "layers.lowering"),
    ("layers", "_flops"),
    ("classes", "licences", "spec", "tasks", "preprocess", "predictions", "summary"),
    ("models",),
    ("weights",),
    ("model",),
    # What users ask of the zoo; flaxzoo.models hands it on without importing it.
    ("zoo",),
    ("optimizers", "losses", "metrics"),
    ("data",),
    ("augment",),
    ("plots",),
    # The trainer calls callbacks by their base class, and knows none of them.
    ("callbacks.base",),
    ("training",),
    ("callbacks",),
    ("transfer",),
    ("_references", "verify"),
    # The package itself, whose names are the public ones.
    ("",),
    ("cli",),
)

# Arrows up, and arrows that close circles, which are still there: this list only gets shorter.
OPEN: frozenset[tuple[str, str]] = frozenset()


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name; a package's name is its ``__init__``."""
    named = {}
    for path in sorted((SOURCE / "flaxzoo").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


@functools.cache
def arrows() -> frozenset[tuple[str, str]]:
    """All imports of one module of the package by another, those inside functions as well."""
    return frozenset(
        (name, target)
        for name, path in modules().items()
        for node in _executed(ast.parse(path.read_text("utf-8")))
        for target in _targets(node)
        if target != name
    )


def _executed(node: ast.AST):
    """The nodes below ``node``, without those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _executed(child)


def _targets(node: ast.AST):
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide where they point"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    for name in names:
        if name.partition(".")[0] == "flaxzoo":
            # What is no module is something that the module before the last dot defines.
            yield name if name in modules() else name.rpartition(".")[0]


def rank(module: str) -> int:
    """The row of ``LAYERS`` that a module is in."""
    name = module.removeprefix("flaxzoo").removeprefix(".")
    rows = {entry: i for i, row in enumerate(LAYERS) for entry in row}
    if name.startswith("_") and name not in rows:
        name = "_*"
    while name not in rows:
        assert "." in name, f"{module} stands in no row of LAYERS: add it where it belongs"
        name = name.rpartition(".")[0]
    return rows[name]


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules that import one another, in whatever number of steps."""

    @functools.cache
    def reached(start: str) -> frozenset[str]:
        seen, waiting = set(), [start]
        while waiting:
            for target in graph.get(waiting.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    waiting.append(target)
        return frozenset(seen)

    both = {
        frozenset(other for other in reached(name) if name in reached(other))
        for name in graph
        if name in reached(name)
    }
    return sorted(map(set, both), key=sorted)


def test_no_arrow_points_up():
    up = {(a, b) for a, b in arrows() if rank(b) > rank(a)}
    assert up - OPEN == set()


def test_no_circles():
    graph: dict[str, set[str]] = {}
    for a, b in arrows() - OPEN:
        graph.setdefault(a, set()).add(b)
    assert circles(graph) == []


def test_what_is_private_stays_private():
    """A name with ``_`` is its file's own, a module with ``_`` its package's."""
    seen = set()
    for name, path in modules().items():
        for node in _executed(ast.parse(path.read_text("utf-8"))):
            for target in _targets(node):
                package = target.partition("._")[0]
                if package != target and not f"{name}.".startswith(f"{package}."):
                    seen.add((name, target))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flaxzoo"):
                names = {f"{node.module}.{alias.name}" for alias in node.names} - set(modules())
                private = {n for n in names if n.rpartition(".")[2].startswith("_")}
                seen |= {(name, target) for target in private - {"flaxzoo._version.__version__"}}
    assert seen == set()


def test_open_arrows_are_there():
    """Who removes one takes it off the list."""
    assert OPEN - arrows() == set()


def test_the_table_names_what_exists():
    planned = {"_*", "tasks", "predictions"}
    names = {entry for row in LAYERS for entry in row} - planned
    assert {name for name in names if f"flaxzoo.{name}".rstrip(".") not in modules()} == set()


def test_modules_do_not_import_lazy_attributes():
    """``from flaxzoo import losses`` at the top would wait for another thread's first use.

    That thread may wait for the module which is being imported: ``import flaxzoo.losses as losses``
    asks Python's import system, which knows of both.
    """
    lazy = {
        "flaxzoo": set(flaxzoo.__all__) - {"__version__"},
        "flaxzoo.models": set(flaxzoo.models.__all__),
    }
    seen = [
        f"{name}: from {node.module} import {alias.name}"
        for name, path in modules().items()
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in lazy.get(str(node.module), ())
    ]
    assert seen == []
