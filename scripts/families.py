"""Prints the families of models whose tests a change is to run.

    make parity FAMILIES="$(python scripts/families.py --base origin/main)"

A family is a file of ``flaxzoo/models`` that registers names. A change is one of a family itself
if it changes that file, its catalogue, its tests, its row in the table of conformance, or its page
in docs/ (the one that docs/models.md links for it). A change touches those too that import what it
changes, directly or not, and all of them if it is one of any other source file, of what their tests
share or of what is installed, since every promise of the library is one for every family.

There are more families than a change can wait for. Its own come first, then those that it touches,
drawn until there are ``--most``, then ``--lot`` of the others. They are drawn by ``--seed``, the
commit by default, so that each commit draws others and a failure can be repeated. ``--most 0``
prints all that a change touches, and ``make conformance parity`` runs all that there are.

It needs git and nothing that has to be installed.
"""

import argparse
import ast
import functools
import random
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
MODELS = "src/flaxzoo/models"
# What CI can run in half an hour on two cores, beside the other lanes.
MOST = 12
TABLE = "tests/conformance/families.py"
# What changes no number of any model: the index is the catalogues' once more.
APART = ("docs/", "examples/", "benchmarks/", ".github/", "README.md", "CHANGELOG.md")
APART += ("CONTRIBUTING.md", "LICENSE", "mkdocs.yml", ".gitignore", ".pre-commit-config.yaml")
APART += (f"{MODELS}/catalog/index.json",)
# Of tests/ what the tests about families share; the rest runs in ``make test`` whatever changed.
SHARED = re.compile(r"tests/(\w+\.py|(conformance|parity|models)/.*)")

_FAMILY = re.compile(r"`flaxzoo\.models\.(\w+)\.")
_PAGE = re.compile(r"\((\w+)\.md\) \|")


def git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def registers(tree: ast.Module) -> bool:
    """Whether a module registers names: whether it imports what does."""
    imported = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module == "flaxzoo.models.registry":
            imported |= {alias.name for alias in node.names}
    return bool(imported & {"register", "variants"})


@functools.cache
def families() -> dict[str, Path]:
    """Returns the files of the families by their names."""
    files = sorted(path for path in (ROOT / MODELS).rglob("*.py") if path.stem != "__init__")
    return {path.stem: path for path in files if registers(ast.parse(path.read_text("utf-8")))}


def pages() -> dict[str, set[str]]:
    """Returns the families that a page of docs/ is about, by its name, as docs/models.md says."""
    about: dict[str, set[str]] = {}
    for row in (ROOT / "docs/models.md").read_text("utf-8").splitlines():
        page, family = _PAGE.search(row), _FAMILY.search(row)
        if row.startswith("|") and page and family:
            about.setdefault(page[1], set()).add(family[1])
    return about


def file_of(module: str) -> Path | None:
    path = SOURCE.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


@functools.cache
def imports(path: Path) -> set[Path]:
    """Returns the files of the package that a file imports, in functions as well.

    A package's own ``__init__`` does not count: it lists what the package has.
    """
    files = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            files |= {file_of(name) or file_of(node.module) for name in names}
        elif isinstance(node, ast.Import):
            files |= {file_of(alias.name) for alias in node.names}
    return {file for file in files if file is not None and file.name != "__init__.py"}


@functools.cache
def reach(path: Path) -> frozenset[Path]:
    """Returns a file and all that it imports, directly or not."""
    reached, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file not in reached:
            reached.add(file)
            waiting += imports(file)
    return frozenset(reached)


def own(changed: list[str], files: dict[str, Path]) -> set[str]:
    """Returns the names of the families of which a change of these paths is one."""
    names, pages_of = set(), pages()
    for path in changed:
        name = owner(path, files)
        names |= {name} if name else set()
        if path.startswith("docs/"):
            names |= pages_of.get(Path(path).stem, set())
    return names


def touched(changed: list[str], files: dict[str, Path]) -> set[str]:
    """Returns the names of the families that a change of these paths can touch."""
    reaches = {name: reach(path) for name, path in files.items()}
    names = own(changed, files)
    for path in changed:
        users = {name for name in files if ROOT / path in reaches[name]}
        # Layers and families are their importers' alone; the rest of the library is everyone's.
        if ROOT / path in files.values() or (path.startswith("src/flaxzoo/layers/") and users):
            names |= users
        elif path.startswith("tests/"):
            is_shared = SHARED.fullmatch(path) and not owner(path, files) and path != TABLE
            names |= set(files) if is_shared else set()
        elif not path.startswith(APART) and not owner(path, files):
            names |= set(files)
    return names


def owner(path: str, files: dict[str, Path]) -> str | None:
    """Returns the family whose file, catalogue, test or golden file this is, if it is one's."""
    parts = Path(path)
    if ROOT / path in files.values():
        return parts.stem
    stem = parts.name.removesuffix(".json").removesuffix(".certificates")
    if parts.suffix == ".json" and parts.parent.name in ("catalog", "shapes") and stem in files:
        return stem
    tests = [name for name in files if parts.stem.startswith(f"test_{name}")]
    return max(tests, key=len) if tests and path.startswith("tests/") else None


def rows(table: str) -> tuple[dict[str, str], str]:
    """Returns the rows of the table of conformance by family, and the rest of its file.

    Args:
      table: the text of the file; its code is compared, not how it is set.
    """
    tree, found = ast.parse(table), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "FAMILIES":
            # Its own syntax tree: a dictionary of calls.
            table_of: Any = node.value
            keys = map(ast.literal_eval, table_of.keys)
            found = {key: ast.dump(row) for key, row in zip(keys, table_of.values, strict=True)}
            node.value = None
    return found, ast.dump(tree)


def changed_rows(start: str, files: dict[str, Path]) -> set[str]:
    """Returns the families whose rows differ from those of a commit; all if the rest does."""
    now, rest = rows((ROOT / TABLE).read_text("utf-8"))
    try:
        before, rest_before = rows(git("show", f"{start}:{TABLE}"))
    except subprocess.CalledProcessError:
        return set(files)
    # A row leans on what is named above the table.
    if rest != rest_before:
        return set(files)
    return {name for name in {**before, **now} if before.get(name) != now.get(name)} & set(files)


def changed_since(base: str) -> tuple[str, list[str]] | None:
    """Returns where HEAD left ``base`` and the paths that differ; None where that is unknown."""
    try:
        start = git("merge-base", base, "HEAD").strip()
        paths = git("diff", "--name-only", start).splitlines()
        paths += git("ls-files", "--others", "--exclude-standard").splitlines()
    except (subprocess.CalledProcessError, FileNotFoundError):
        return None
    # On the base itself nothing tells what is new.
    return (start, paths) if paths else None


def choose(base: str, *, most: int, lot: int, seed: str | None) -> list[str]:
    """Returns the families to run for the change since ``base``; see the module.

    Args:
      base: a branch, tag or commit.
      most: how many of those that the change touches; 0 for all.
      lot: how many of the others.
      seed: of what is drawn; HEAD by default.
    """
    files, change = families(), changed_since(base)
    mine, reached = set(), set(files)
    if change is not None:
        start, paths = change
        mine, reached = own(paths, files), touched(paths, files)
        if TABLE in paths:
            by_row = changed_rows(start, files)
            reached |= by_row
            mine |= by_row if by_row != set(files) else set()
    draw = random.Random(seed if seed is not None else git("rev-parse", "HEAD").strip())
    # In an order drawn once, a family's own change first.
    order = draw.sample(sorted(files), len(files))
    first = sorted(mine, key=order.index) + sorted(reached - mine, key=order.index)
    others = [name for name in order if name not in reached]
    return sorted(first[: most or None] + others[:lot])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", default="origin/main", help="a branch, tag or commit")
    parser.add_argument(
        "--most", type=int, default=MOST, help="of those that it touches; 0 for all"
    )
    parser.add_argument("--lot", type=int, default=2, help="how many of the others to draw")
    parser.add_argument("--seed", help="of what is drawn; the commit by default")
    arguments = parser.parse_args()
    options = {"most": arguments.most, "lot": arguments.lot, "seed": arguments.seed}
    print(",".join(choose(arguments.base, **options)) or "none")


if __name__ == "__main__":
    main()
