"""Freezing parameters: ``optax.multi_transform`` with zero updates for what stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import optax

from flaxzoo._explain import explained
from flaxzoo._globs import matched, paths_by_group
from flaxzoo._trees import flatten, unflatten
from flaxzoo.model import Model
from flaxzoo.models.stages import groups_of, position, stage_paths
from flaxzoo.optimizers import Optimizer, partition

FreezeSpec = str | Iterable[str] | Callable[[str], bool] | None

TRAIN, FREEZE = "train", "freeze"


@explained
def matching_paths(params: Mapping[str, Any], spec: FreezeSpec) -> frozenset[str]:
    """The paths of the parameters that ``spec`` freezes.

    Several patterns are read in order, as in a ``.gitignore``: each adds what it matches to what
    the ones before it chose, and one that begins with ``!`` takes what it matches out again. A
    list that begins with a ``!`` starts from everything: ``["backbone", "!backbone/layer4*"]`` is
    the backbone without its last stage, ``["!head", "!*/bias"]`` everything but the head and the
    biases. A ``!`` after other patterns has to leave some of what they chose, and to take some
    away: else it is a mistake.

    Args:
      params: nested dictionaries of parameters, or of their shapes.
      spec: a group (``"backbone"``), a glob over paths (``"backbone/conv_[01]*"``; it matches a
        parameter or any group above it), ``"!head"`` for everything but a group, several of
        these, a predicate over paths such as ``"backbone/conv_0/kernel"``, or None for nothing.

    Returns:
      Paths joined by ``/``.

    Raises:
      UnknownNameError: (a KeyError) a pattern matches no parameter; it lists the nearest paths.
      ValueError: a ``!`` takes out nothing, or all, of what the patterns before it chose.
      TypeError: ``spec`` is none of these, or ``params`` is a model or all of its variables.
    """
    if spec is None:
        return frozenset()
    if not isinstance(params, Mapping) or isinstance(params.get("params"), Mapping):
        raise TypeError(
            "params must be the nested dictionary of parameters, model.variables['params'], got "
            + ("all variables" if isinstance(params, Mapping) else type(params).__name__)
        )
    paths = list(flatten(params))
    if callable(spec):
        return frozenset(path for path in paths if spec(path))
    if isinstance(spec, str):
        spec = (spec,)
    if not isinstance(spec, Iterable):
        raise TypeError(
            f"freeze must be a pattern, several patterns, a predicate or None, got {spec!r}"
        )
    groups = paths_by_group(paths)
    chosen: set[str] = set()
    added = False
    for i, pattern in enumerate(spec):
        if not isinstance(pattern, str):
            raise TypeError(f"a freeze pattern must be text, got {pattern!r}")
        hits = matched(groups, pattern.removeprefix("!"), label=f"freeze pattern {pattern!r}")
        if not pattern.startswith("!"):
            chosen |= hits
            added = True
            continue
        if i == 0:
            chosen = set(paths)
        elif added and not (chosen & hits and chosen - hits):
            amount = "all" if chosen & hits else "nothing"
            raise ValueError(
                f"freeze pattern {pattern!r} takes out {amount} of what the patterns before it "
                "freeze. A list is read in order; only one that begins with a '!' starts from "
                "everything"
            )
        chosen -= hits
    return frozenset(chosen)


def paths_before(module: nn.Module, params: Mapping[str, Any], where: int | str) -> frozenset[str]:
    """The paths of all parameters before a stage, for ``freeze_until``.

    Args:
      module: a ``Classifier`` or a backbone with stages.
      params: the module's parameters, or their shapes.
      where: the first stage that is left out, by name (``"layer3_0"``), as a group of stages
        (``"layer3"``), or by position; negative ones count from the end, where the head of a
        ``Classifier`` is the last.

    Raises:
      UnknownNameError: (a KeyError) there is no such stage; it lists the nearest ones.
    """
    stages = stage_paths(module, params)
    names = list(stages)
    before = names[: position(groups_of(module), where)]
    return frozenset(path for name in before for path in stages[name])


def frozen_paths(
    module: nn.Module, params: Mapping[str, Any], freeze: FreezeSpec, until: int | str | None
) -> frozenset[str]:
    """What ``freeze=`` and ``freeze_until=`` freeze together: either is enough."""
    frozen = matching_paths(params, freeze)
    return frozen if until is None else frozen | paths_before(module, params, until)


@explained
def label_params(params: Mapping[str, Any], spec: FreezeSpec) -> dict[str, Any]:
    """The tree of ``params`` with ``"freeze"`` or ``"train"`` at each leaf.

    Args and errors are those of ``matching_paths``.
    """
    frozen = matching_paths(params, spec)
    return unflatten({path: FREEZE if path in frozen else TRAIN for path in flatten(params)})


def zero_grads() -> optax.GradientTransformation:
    """The transformation whose updates are zero and that keeps no state."""
    return optax.set_to_zero()


@explained
def freeze(
    tx: optax.GradientTransformation, params: Mapping[str, Any], spec: FreezeSpec
) -> Optimizer:
    """``tx`` for what trains and zero updates for what ``spec`` freezes.

    It is ``optax.multi_transform`` over ``label_params(params, spec)``. Frozen parameters hold no
    optimizer state, and neither weight decay nor clipping sees them.

    Args:
      tx: any optax transformation.
      params: the parameters, or their shapes.
      spec: what to freeze; see ``matching_paths``.

    Returns:
      A transformation over the whole tree of parameters.

    Raises:
      TypeError: ``tx`` is no transformation.
      As ``matching_paths``.
    """
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(
            f"tx must be an optax.GradientTransformation, got {tx!r}; flaxzoo.optimizers.get makes "
            "one from a name"
        )
    return partition({TRAIN: tx, FREEZE: zero_grads()}, label_params(params, spec))


def module_and_params(model: Any) -> tuple[nn.Module, Mapping[str, Any]]:
    """The module of a ``Model``, and its parameters or, before ``init``, their shapes.

    Raises:
      TypeError: ``model`` is something else.
      UninitializedError: there are no variables, and the input shape is not known.
    """
    if not isinstance(model, Model):
        raise TypeError(
            f"model must be a flaxzoo.Model, got {type(model).__name__}: "
            "flaxzoo.Model(module).init(inputs=...) makes one of a module"
        )
    variables = model.shapes() if model.variables is None else model.variables
    return model.module, variables["params"]
