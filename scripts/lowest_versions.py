"""Prints the oldest versions that pyproject.toml allows, as constraints for pip.

    python scripts/lowest_versions.py > lowest.txt
    pip install -e '.[test]' --constraint lowest.txt

A requirement ``name>=1.2`` becomes ``name==1.2``; one that pins its version is printed as it is.
"""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[\w,]+\])?(>=|==)([\w.]+)")


def lowest(project: dict, extras: set[str]) -> list[str]:
    """Returns ``name==version`` for the dependencies of a ``[project]`` table and of its extras.

    Raises:
      ValueError: if a requirement names no oldest version.
    """
    optional = project["optional-dependencies"]
    requirements = list(project["dependencies"])
    for extra in sorted(extras):
        requirements += optional[extra]
    found = {}
    for requirement in requirements:
        if requirement.startswith(f"{project['name']}["):
            continue
        match = _REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise ValueError(f"{requirement!r} names no oldest version; write name>=version")
        found[match[1]] = match[3]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def main() -> None:
    with PYPROJECT.open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = set(sys.argv[1:]) or set(project["optional-dependencies"]) - {"lint", "docs"}
    print("\n".join(lowest(project, extras)))


if __name__ == "__main__":
    main()
