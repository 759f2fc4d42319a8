"""Calling Linen modules that may or may not take ``train``, with errors in the user's terms."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import numpy as np

from flaxzoo.errors import ShapeError


@functools.cache
def takes_train(cls: type[nn.Module], method: str = "__call__") -> bool:
    """Whether a module class's method accepts the keyword ``train``."""
    parameters = inspect.signature(getattr(cls, method)).parameters
    return "train" in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )


def call_module(module: nn.Module, inputs: Any, *, train: bool) -> Any:
    """``module(inputs, train=train)``, without ``train`` for modules that do not take it."""
    # A Module instance is callable, and its class hashable, whatever the stubs say.
    cls: Any = type(module)
    return module(inputs, train=train) if takes_train(cls) else module(inputs)


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
    cls: Any = type(module)
    kwargs: dict[str, Any] = {"train": train} if takes_train(cls) else {}
    try:
        if variables is None:
            return module.init(rngs, inputs, **kwargs)
        return module.apply(variables, inputs, rngs=rngs, mutable=mutable, **kwargs)
    except flax.errors.ScopeParamShapeError as error:
        shapes = ", ".join(str(list(np.shape(leaf))) for leaf in jax.tree.leaves(inputs))
        raise ShapeError(
            f"inputs of shape {shapes} do not fit the variables of {type(module).__name__}: "
            f"{_first_sentence(error)}"
        ) from error


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(" (https://")[0]
