"""Prints the families of models that a change can touch, and a few more by lot.

    make parity FAMILIES="$(python scripts/families.py --base origin/main --lot 3)"

A family is a file of ``flaxzoo/models`` that registers names. A change touches it if it changes
that file, its catalogue, or a file that it imports, directly or not; a change of any other source
file, of what the tests share or of what is installed touches all of them, since every promise of
the library is one for every family. Of files that the package does not import a page of docs/ is
of the families for which the table in docs/models.md links it; the others touch none. The lot is
drawn by ``--seed``, the commit by default, so that each commit draws others and a failure can be
repeated.

It needs git and nothing that has to be installed.
"""

import argparse
import ast
import functools
import random
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
MODELS = "src/flaxzoo/models"
# What changes no number of any model.
APART = ("docs/", "examples/", "benchmarks/", ".github/", "README.md", "CHANGELOG.md")
APART += ("CONTRIBUTING.md", "LICENSE", "mkdocs.yml", ".gitignore", ".pre-commit-config.yaml")

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


def touched(changed: list[str], files: dict[str, Path]) -> set[str]:
    """Returns the names of the families that a change of these paths can touch."""
    reaches = {name: reach(path) for name, path in files.items()}
    names = set()
    pages_of = pages()
    for path in changed:
        if path.startswith("docs/"):
            names |= pages_of.get(Path(path).stem, set())
        if path.startswith(APART):
            continue
        own = owner(path, files)
        # Layers and families are their importers' alone; the rest of the library is everyone's.
        users = {own} if own else {name for name in files if ROOT / path in reaches[name]}
        is_narrow = own or ROOT / path in files.values() or path.startswith("src/flaxzoo/layers/")
        names |= users if is_narrow and users else set(files)
    return names


def owner(path: str, files: dict[str, Path]) -> str | None:
    """Returns the family to which a catalogue, a test or a golden file belongs, if it is one's."""
    parts = Path(path)
    if parts.suffix == ".json" and "catalog" in path and parts.stem in files:
        return parts.stem
    tests = [name for name in files if parts.stem.startswith(f"test_{name}")]
    return max(tests, key=len) if tests and path.startswith("tests/") else None


def changed_since(base: str) -> list[str] | None:
    """Returns the paths that differ from where HEAD left ``base``; None where that is unknown."""
    try:
        start = git("merge-base", base, "HEAD").strip()
        paths = git("diff", "--name-only", start).splitlines()
        paths += git("ls-files", "--others", "--exclude-standard").splitlines()
    except (subprocess.CalledProcessError, FileNotFoundError):
        return None
    # On the base itself nothing tells what is new.
    return paths or None


def choose(base: str, lot: int, seed: str | None) -> list[str]:
    """Returns the families that the change since ``base`` can touch, and ``lot`` of the others."""
    files = families()
    changed = changed_since(base)
    names = set(files) if changed is None else touched(changed, files)
    others = sorted(set(files) - names)
    draw = random.Random(seed if seed is not None else git("rev-parse", "HEAD").strip())
    return sorted(names | set(draw.sample(others, min(lot, len(others)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", default="origin/main", help="a branch, tag or commit")
    parser.add_argument("--lot", type=int, default=2, help="how many more families to draw")
    parser.add_argument("--seed", help="of the lot; the commit by default")
    arguments = parser.parse_args()
    print(",".join(choose(arguments.base, arguments.lot, arguments.seed)) or "none")


if __name__ == "__main__":
    main()
