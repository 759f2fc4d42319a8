"""Variable trees by path: flattening, comparing and naming what differs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxzoo.errors import CheckpointError

SHOWN = 10


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """``{"params": {"conv": {"kernel": x}}}`` as ``{"params/conv/kernel": x}``, in tree order."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}/{inner}": leaf for inner, leaf in flatten(value).items()})
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``flatten``."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *groups, last = path.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = leaf
    return tree


def compare(
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    *,
    source: str,
    owner: str = "this model",
) -> None:
    """Checks that two flat trees have the same paths and shapes.

    Args:
      expected: what the model has, path to anything with ``.shape``.
      found: what the file has, likewise.
      source: names the file in the message.
      owner: says there what it should fit.

    Raises:
      CheckpointError: they differ; it lists the first ten missing, unused and mis-shaped paths.
    """
    missing = [k for k in expected if k not in found]
    unused = [k for k in found if k not in expected]
    shapes = [
        f"{k}: file {list(found[k].shape)}, expected {list(expected[k].shape)}"
        for k in expected
        if k in found and tuple(found[k].shape) != tuple(expected[k].shape)
    ]
    if not (missing or unused or shapes):
        return
    parts = [
        f"{len(keys)} {what}: {'; '.join(keys[:SHOWN])}{' ...' if len(keys) > SHOWN else ''}"
        for what, keys in (
            ("missing from the file", missing),
            ("only in the file", unused),
            ("of another shape", shapes),
        )
        if keys
    ]
    raise CheckpointError(f"{source} does not fit {owner}. {'. '.join(parts)}.")
