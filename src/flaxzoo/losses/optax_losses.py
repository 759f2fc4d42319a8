"""Losses taken from optax as they are, found in optax itself so that none is missed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import optax

from flaxzoo.losses import shapes, values
from flaxzoo.losses.classification import INTEGER
from flaxzoo.losses.registry import REGISTRY, USER, define
from flaxzoo.losses.regression import ELEMENTWISE, VECTOR
from flaxzoo.losses.traits import Traits

# Public functions of optax.losses that are no losses, and why.
EXCLUDED = {
    "smooth_labels": "it transforms targets: flaxzoo.losses.smooth_labels",
}
# Deprecated names, and what they are now.
RENAMED = {"convex_kl_divergence": "generalized_kl_divergence"}

_SIGN = Traits(check=shapes.elementwise, check_values=values.sign)
_ZERO_ONE = Traits(check=shapes.elementwise, check_values=values.zero_or_one)
_PROBABILITIES = Traits(check=shapes.vector, check_values=values.non_negative)

_KNOWN: dict[str, tuple[Traits, tuple[str, ...]]] = {
    "squared_error": (ELEMENTWISE, ("mean_squared_error", "mse", "mse_loss")),
    "l2_loss": (ELEMENTWISE, ()),
    "huber_loss": (ELEMENTWISE, ("huber", "smooth_l1", "smooth_l1_loss")),
    "log_cosh": (ELEMENTWISE, ("logcosh",)),
    "hinge_loss": (_SIGN, ("hinge",)),
    "perceptron_loss": (_SIGN, ("perceptron",)),
    "sparsemax_loss": (_ZERO_ONE, ()),
    "multiclass_hinge_loss": (INTEGER, ()),
    "multiclass_perceptron_loss": (INTEGER, ()),
    "kl_divergence": (_PROBABILITIES, ("kl_div", "kl_div_loss")),
    "kl_divergence_with_log_targets": (VECTOR, ()),
    "generalized_kl_divergence": (_PROBABILITIES, ("convex_kl_divergence",)),
}
# Arrays are no options: masks are per-example weights here, and classes are the last axis.
_LEFT_OUT = ("axis", "where")


def functions() -> dict[str, Callable[..., Any]]:
    """Every public function of ``optax.losses`` by name."""
    return {
        name: function
        for name, function in vars(optax.losses).items()
        if inspect.isfunction(function) and not name.startswith("_")
    }


def unclassified() -> list[str]:
    """Functions of the installed optax that this module has not been told about."""
    return sorted(
        name
        for name in functions()
        if name not in EXCLUDED
        and name not in _KNOWN
        and (name not in REGISTRY or REGISTRY.entry(name) in _ADAPTED_AS_UNKNOWN)
    )


_ADAPTED_AS_UNKNOWN: set[Callable[..., Any]] = set()


def register_rest() -> None:
    """Registers the functions of optax that have no adapter of their own in this package.

    One that this version of flaxzoo does not know is registered too if it is called like a loss,
    ``f(predictions, targets, **options)``, and is then treated like a user's function.
    """
    for name, function in functions().items():
        if name in EXCLUDED or name in REGISTRY or name in RENAMED:
            continue
        if name in _KNOWN:
            traits, aliases = _KNOWN[name]
            define(name, traits, aliases)(_adapt(function, cast=not traits.integer_labels))
        elif _is_called_like_a_loss(function):
            adapted = define(name, USER)(_adapt(function, cast=False))
            _ADAPTED_AS_UNKNOWN.add(adapted)


def _is_called_like_a_loss(function: Callable[..., Any]) -> bool:
    parameters = list(inspect.signature(function).parameters.values())
    required = [p for p in parameters if p.default is inspect.Parameter.empty]
    return len(parameters) >= 2 and len(required) <= 2 and required == parameters[: len(required)]


def _adapt(function: Callable[..., Any], *, cast: bool) -> Callable[..., Any]:
    """``function`` with the parameter names of this package, and with keyword-only options.

    Args:
      function: one of optax's losses.
      cast: gives the targets the dtype of the predictions, which several functions insist on.
    """

    @functools.wraps(function)
    def loss(predictions: jax.Array, targets: jax.Array, **options: Any) -> jax.Array:
        targets = targets.astype(predictions.dtype) if cast else targets
        return function(predictions, targets, **options)

    first, second, *rest = inspect.signature(function).parameters.values()
    loss.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            first.replace(name="predictions"),
            second.replace(name="targets", default=inspect.Parameter.empty),
            # optax's annotations allow arrays; an option here is a number.
            *(
                p.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=inspect.Parameter.empty)
                for p in rest
                if p.name not in _LEFT_OUT
            ),
        ]
    )
    return loss
