"""Optimizers by name: every one of optax and optax.contrib, with common options on all.

``get`` builds an ``Optimizer``, which is an optax gradient transformation and works wherever
optax takes one::

    tx = optimizers.get("adamw", learning_rate="cosine", total_steps=1000, clip_norm=1.0)
"""

from __future__ import annotations

import dataclasses
import inspect

from flaxzoo._explain import explained, missing_from
from flaxzoo.optimizers import wrappers
from flaxzoo.optimizers.build import (
    as_optimizer,
    default_learning_rate,
    from_config,
    get,
    option_names,
)
from flaxzoo.optimizers.catalog import REGISTRY
from flaxzoo.optimizers.catalog import recipe as _recipe
from flaxzoo.optimizers.core import Optimizer, eval_params, fill_masked, partition
from flaxzoo.optimizers.decay import decay_mask
from flaxzoo.registry import EntryInfo

__all__ = [
    "REGISTRY",
    "Optimizer",
    "as_optimizer",
    "decay_mask",
    "default_learning_rate",
    "eval_params",
    "fill_masked",
    "from_config",
    "get",
    "info",
    "list",
    "option_names",
    "partition",
    "register",
]


# Importing it is what registers the wrappers.
del wrappers


@explained
def info(name: str) -> EntryInfo:
    """Summary, aliases and options of an optimizer: the common ones, then its own.

    Args:
      name: a name from ``optimizers.list()``.

    Raises:
      UnknownNameError: no optimizer has that name.
    """
    entry = REGISTRY.info(name)
    recipe = _recipe(entry.name, REGISTRY.entry(entry.name))
    common = [
        parameter
        for parameter in inspect.signature(get).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    rate = next(p for p in common if p.name == "learning_rate")
    common[common.index(rate)] = rate.replace(default=recipe.default_rate)
    # Without annotations: optax's spell out a union of eight types for every number.
    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=inspect.Parameter.empty)
        for p in (*common, *recipe.own.values())
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    return dataclasses.replace(entry, signature=inspect.Signature(parameters))


register = REGISTRY.register
list = REGISTRY.list
__getattr__ = missing_from(__name__, REGISTRY)
