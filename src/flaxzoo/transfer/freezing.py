"""Freezing parameters: ``optax.multi_transform`` with zero updates for what stays."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optax

from flaxzoo.errors import UnknownNameError, did_you_mean
from flaxzoo.optimizers import Optimizer, partition
from flaxzoo.weights.trees import flatten, unflatten

FreezeSpec = str | Iterable[str] | Callable[[str], bool] | None

TRAIN, FREEZE = "train", "freeze"


def matching_paths(params: Mapping[str, Any], spec: FreezeSpec) -> frozenset[str]:
    """The paths of the parameters that ``spec`` freezes.

    Args:
      params: nested dictionaries of parameters, or of their shapes.
      spec: a group (``"backbone"``), a glob over paths (``"backbone/conv_[01]*"``; it matches a
        parameter or any group above it), several of these, ``"!head"`` for everything but a
        group, a predicate over paths such as ``"backbone/conv_0/kernel"``, or None for nothing.

    Returns:
      Paths joined by ``/``.

    Raises:
      UnknownNameError: (a KeyError) a pattern matches no parameter; it lists the nearest paths.
      TypeError: ``spec`` is none of these.
    """
    if spec is None:
        return frozenset()
    paths = list(flatten(params))
    if callable(spec):
        return frozenset(path for path in paths if spec(path))
    if isinstance(spec, str):
        spec = (spec,)
    if not isinstance(spec, Iterable):
        raise TypeError(
            f"freeze must be a pattern, several patterns, a predicate or None, got {spec!r}"
        )
    frozen: set[str] = set()
    for pattern in spec:
        if not isinstance(pattern, str):
            raise TypeError(f"a freeze pattern must be text, got {pattern!r}")
        wanted = pattern.removeprefix("!").strip("/")
        hits = {path for path in paths if _matches(path, wanted)}
        if not hits:
            groups = {prefix for path in paths for prefix in _prefixes(path)}
            hint = did_you_mean(wanted, groups)
            raise UnknownNameError(
                f"freeze pattern {pattern!r} matches no parameter.{hint} "
                f"Top-level groups: {', '.join(params)}"
            )
        frozen |= set(paths) - hits if pattern.startswith("!") else hits
    return frozenset(frozen)


def label_params(params: Mapping[str, Any], spec: FreezeSpec) -> dict[str, Any]:
    """The tree of ``params`` with ``"freeze"`` or ``"train"`` at each leaf.

    Args and errors are those of ``matching_paths``.
    """
    frozen = matching_paths(params, spec)
    return unflatten({path: FREEZE if path in frozen else TRAIN for path in flatten(params)})


def zero_grads() -> optax.GradientTransformation:
    """The transformation whose updates are zero and that keeps no state."""
    return optax.set_to_zero()


def freeze(
    tx: optax.GradientTransformation, params: Mapping[str, Any], spec: FreezeSpec
) -> Optimizer:
    """``tx`` for what trains and zero updates for what ``spec`` freezes.

    It is ``optax.multi_transform`` over ``label_params(params, spec)``. Frozen parameters hold no
    optimizer state, and neither weight decay nor clipping sees them.

    Args:
      tx: any optax transformation.
      params: the parameters, or their shapes.
      spec: as for ``matching_paths``.

    Returns:
      A transformation over the whole tree of parameters.
    """
    return partition({TRAIN: tx, FREEZE: zero_grads()}, label_params(params, spec))


def _prefixes(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def _matches(path: str, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(prefix, pattern) for prefix in _prefixes(path))
