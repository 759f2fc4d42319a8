"""Calling what users bring: modules with or without ``train``, functions in Keras's order."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import numpy as np

from flaxzoo.errors import ShapeError, UninitializedError

# How modules name the mode, and whether the name means training or its opposite.
_MODES = {"train": True, "training": True, "is_training": True, "deterministic": False}


# How functions of predictions and targets name the two.
_TARGETS = frozenset(
    (
        *("y_true", "y", "y_train", "true", "truth", "gt", "ground_truth"),
        *("target", "targets", "label", "labels"),
    )
)
_PREDICTIONS = frozenset(
    (
        *("y_pred", "y_hat", "yhat", "pred", "preds", "prediction", "predictions"),
        *("logits", "output", "outputs", "scores"),
    )
)


@dataclasses.dataclass(frozen=True)
class TargetsFirst:
    """A function ``f(y_true, y_pred)`` as one that is called with the predictions first.

    It equals another around the same function, so that a compiled step may be shared.

    Attributes:
      function: in the order of Keras and Elegy.
    """

    function: Callable[..., Any]

    def __call__(self, predictions: Any, targets: Any, **options: Any) -> Any:
        """``function(targets, predictions, **options)``."""
        return self.function(targets, predictions, **options)

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self.function)
        first, second, *rest = signature.parameters.values()
        return signature.replace(
            parameters=[second.replace(name=first.name), first.replace(name=second.name), *rest]
        )


def predictions_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """A loss or metric function as one of predictions and targets, in this order.

    Its parameters' names tell: ``(y_true, y_pred)``, ``(target, preds)`` and the like are turned.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some compiled callables have none
        return function
    first_two = [p.name.lower() for p in parameters[:2] if p.kind is p.POSITIONAL_OR_KEYWORD]
    turned = len(first_two) == 2 and first_two[0] in _TARGETS and first_two[1] in _PREDICTIONS
    return TargetsFirst(function) if turned else function


# Bounded: a notebook defines its classes again and again.
@functools.lru_cache(maxsize=512)
def _mode_keyword(cls: type[nn.Module]) -> str | None:
    # A **kwargs says nothing: nn.Sequential hands it to its first layer.
    parameters = inspect.signature(cls.__call__).parameters
    return next((name for name in _MODES if name in parameters), None)


def mode_arguments(module: nn.Module, *, train: bool) -> dict[str, Any]:
    """The keyword that tells a module whether it trains, or none for one that does not ask.

    ``train``, ``training``, ``is_training`` and ``deterministic`` are understood.
    """
    cls: Any = type(module)
    keyword = _mode_keyword(cls)
    return {} if keyword is None else {keyword: train == _MODES[keyword]}


def call_module(module: nn.Module, inputs: Any, *, train: bool, **options: Any) -> Any:
    """``module(inputs, **options)`` in training or inference mode."""
    call: Any = module
    return call(inputs, **mode_arguments(module, train=train), **options)


def apply_module(
    module: nn.Module,
    variables: Any,
    inputs: Any,
    *,
    train: bool = False,
    rngs: Any = None,
    mutable: Any = False,
) -> Any:
    """Applies an unbound module, or initialises it where ``variables`` is None.

    Raises:
      ShapeError: the inputs do not fit the variables.
      UninitializedError: the variables lack a collection that the module reads.
    """
    kwargs: dict[str, Any] = mode_arguments(module, train=train)
    try:
        if variables is None:
            return module.init(rngs, inputs, **kwargs)
        return module.apply(variables, inputs, rngs=rngs, mutable=mutable, **kwargs)
    except flax.errors.ScopeCollectionNotFound as error:
        name = re.search(r'collection "([^"]*)"', str(error))
        collection = name[1] if name else "of the module"
        raise UninitializedError(
            f"{type(module).__name__} needs the collection {collection!r}, which its variables "
            "lack: give all that module.init returns (to TrainState.create as params=)"
        ) from error
    except flax.errors.ScopeParamShapeError as error:
        channels = _channels(error)
        shapes = ", ".join(str(list(np.shape(leaf))) for leaf in jax.tree.leaves(inputs))
        raise ShapeError(
            f"inputs of shape {shapes} do not fit the variables of {type(module).__name__}: "
            f"{channels or _first_sentence(error)}"
        ) from error


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(" (https://")[0]


def _channels(error: Exception) -> str:
    """For a convolution of other channels: how many it takes and got; else nothing."""
    match = re.search(
        r'"kernel" in "([^"]*)".*?shape \(([\d, ]+)\).*?shape \(([\d, ]+)\)', str(error), re.DOTALL
    )
    if match is None:
        return ""
    got, takes = (tuple(map(int, shape.split(","))) for shape in match.groups()[1:])
    differs = [i for i, (a, b) in enumerate(zip(got, takes, strict=False)) if a != b]
    # Convolutions have more than two axes; the last but one is the input's.
    if len(got) != len(takes) or len(got) < 3 or differs != [len(got) - 2]:
        return ""
    return f"{match[1].strip('/')} takes {takes[-2]} channels, got {got[-2]}"
