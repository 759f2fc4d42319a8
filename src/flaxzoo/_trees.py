"""Trees of variables by path: flattening, comparing and naming what differs.

A path is text: ``"params/backbone/conv_0/kernel"``. ``flatten`` and ``unflatten`` are for nested
dictionaries; ``by_path`` is for any pytree, such as the state of an optimizer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax.core import FrozenDict

from flaxzoo._spread import copied_parts, is_spread
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


def plain(tree: Any) -> Any:
    """The tree with dictionaries in place of other mappings, such as Flax's FrozenDict."""
    return {k: plain(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def copied(tree: Any) -> Any:
    """The pytree with its arrays in memory of their own, which a step may take over.

    They lie where they lay. Nothing is compiled for it, as ``jnp.copy`` is for each new shape.
    """
    # NumPy's memory is taken over even where aliases are forbidden (jax 0.10), and is read later:
    # first a copy that nobody else writes to, then one on the device, which can be donated.
    tree = jax.tree.map(lambda x: x.copy() if isinstance(x, np.ndarray) else x, tree)
    if any(map(is_spread, jax.tree.leaves(tree))):
        return jax.tree.map(lambda x: copied_parts(x) if is_spread(x) else copied(x), tree)
    return jax.device_put(jax.device_put(tree), may_alias=False)


@dataclasses.dataclass(frozen=True)
class Thawed:
    """A tree of masks or labels for parameters that may be a FrozenDict or not, whatever it is.

    Attributes:
      tree: a FrozenDict.
    """

    tree: Any

    def __call__(self, params: Any) -> Any:
        """The tree, with the mappings that the parameters have."""
        return self.tree if isinstance(params, FrozenDict) else plain(self.tree)


def path_of(keys: tuple[Any, ...]) -> str:
    """The path that JAX's functions over trees give as keys: ``"opt_state/0/mu/kernel"``."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of any pytree by path, in tree order."""
    return {path_of(keys): leaf for keys, leaf in jax.tree.leaves_with_path(tree)}


def map_by_path(function: Callable[..., Any], tree: Any) -> Any:
    """The pytree of ``function(path, leaf)``."""
    return jax.tree.map_with_path(lambda keys, leaf: function(path_of(keys), leaf), tree)


def is_weight(path: str, leaf: Any) -> bool:
    """Whether shrinking a parameter makes a model simpler: no bias, and no part of a norm layer.

    Those are leaves of rank 0 or 1, and leaves called ``bias`` or ``scale``.
    """
    return np.ndim(leaf) > 1 and path.rpartition("/")[2] not in ("bias", "scale")


def prefixes(path: str) -> list[str]:
    """The path and all that lead to it, the shortest first: ``["a", "a/b", "a/b/c"]``."""
    parts = path.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


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
