"""Calling Linen modules that may or may not take ``train``, with errors in the user's terms."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import numpy as np

from flaxzoo.errors import ShapeError

# How modules name the mode, and whether the name means training or its opposite.
_MODES = {"train": True, "training": True, "is_training": True, "deterministic": False}


@functools.cache
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
    """
    kwargs: dict[str, Any] = mode_arguments(module, train=train)
    try:
        if variables is None:
            return module.init(rngs, inputs, **kwargs)
        return module.apply(variables, inputs, rngs=rngs, mutable=mutable, **kwargs)
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
