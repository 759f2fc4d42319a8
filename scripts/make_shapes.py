"""Writes ``tests/conformance/shapes/<family>.json``: what each name's variables look like.

    python scripts/make_shapes.py [FAMILY ...]      # all by default

One line a name, for its usual input: the numbers of leaves and of parameters, a digest of all paths
with their shapes and dtypes, and the shape of the output. Nothing is compiled or computed: a name
costs one trace of each kind of block. A test holds every name against these files, so that a change
which moves a parameter of any of them shows, and a reviewer sees which.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.layers.lowering.initialise import output_and_variable_shapes
from flaxzoo.models.registry import MODELS, families

SHAPES = Path(__file__).resolve().parent.parent / "tests/conformance/shapes"


def names_of(family: str) -> list[str]:
    """The names that a family's file registers, sorted."""
    module = f"flaxzoo.models.{family}"
    return [name for name in fz.models.list() if MODELS.architecture(name).family == module]


def describe(name: str) -> dict[str, Any]:
    """The line of a name.

    Returns:
      ``input_shape``, the numbers of ``leaves`` (all collections) and ``parameters``, the
      ``digest`` of the tree, and ``output_shape``, both shapes without the batch.
    """
    model = fz.models.get(name)
    sample = model.spec.sample()
    output, variables = output_and_variable_shapes(model.module, sample)
    leaves = flatten(variables)
    lines = [f"{path} {list(leaf.shape)} {leaf.dtype}" for path, leaf in sorted(leaves.items())]
    return {
        "input_shape": list(sample.shape[1:]),
        "leaves": len(leaves),
        "parameters": sum(math.prod(leaf.shape) for leaf in flatten(variables["params"]).values()),
        "digest": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        "output_shape": list(output.shape[1:]),
    }


def build(family: str) -> dict[str, Any]:
    """The lines of all names of a family."""
    return {name: describe(name) for name in names_of(family)}


def to_text(lines: dict[str, Any]) -> str:
    """JSON with one name a line, so that a change shows as one line."""
    rows = [f"  {json.dumps(name)}: {json.dumps(line)}" for name, line in lines.items()]
    return "{\n" + ",\n".join(rows) + "\n}\n"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("families", nargs="*", help="all by default")
    options = parser.parse_args(arguments)
    SHAPES.mkdir(exist_ok=True)
    for family in options.families or families():
        path = SHAPES / f"{family}.json"
        path.write_text(to_text(build(family)), "utf-8", newline="\n")
        print(path.name)


if __name__ == "__main__":
    main()
