"""Recipes of optimizers, and from a recipe to an optax transformation."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import optax

import flaxzoo.schedules as schedules
from flaxzoo.optimizers import decay

Factory = Callable[..., optax.GradientTransformation]
Decay = Literal["native", "coupled", "decoupled", "penalised", "selected", "separated"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the builder must know about one optimizer.

    Attributes:
      name: its name in messages.
      factory: the function that makes the transformation.
      rate_keyword: the factory's keyword for the learning rate; None if it has none.
      default_rate: learning rate where the caller gives none.
      constant_rate: the factory takes a number only, not a schedule.
      decay: how weight decay is added.
      decay_keyword: the factory's keyword for the amount of weight decay, if it has one.
      mask_keyword: the factory's keyword for the mask, if it has one.
      needs: see ``Optimizer.needs``.
      own: the factory's other parameters, with the defaults that apply.
    """

    name: str
    factory: Factory
    rate_keyword: str | None
    default_rate: float
    constant_rate: bool
    decay: Decay
    decay_keyword: str | None
    mask_keyword: str | None
    needs: frozenset[str]
    own: Mapping[str, inspect.Parameter]


def transformation(
    recipe: Recipe,
    rate: Any,
    weight_decay: float | None,
    mask: Any,
    own: Mapping[str, Any],
) -> optax.GradientTransformation:
    """Calls a factory, adding weight decay in the way that suits it.

    Args:
      recipe: what to make.
      rate: learning rate, a number or a schedule.
      weight_decay: amount of decay; None for the factory's default.
      mask: where decay applies, a tree of booleans or a function to one.
      own: the factory's own keywords.
    """
    plain = functools.partial(_make, recipe, rate, own)
    kind = recipe.decay
    # Muon's Adam part can be given its own decay; then both are optax's.
    if kind == "decoupled" and "adam_weight_decay" in own and recipe.mask_keyword:
        kind = "native"
    amount = {str(recipe.decay_keyword): weight_decay}
    if kind == "native":
        masked = {recipe.mask_keyword: mask} if recipe.mask_keyword else {}
        return plain(masked if weight_decay is None else {**masked, **amount})
    if weight_decay is None:
        return plain({})
    if kind == "selected":
        return decay.selected(plain(amount), plain({}), mask)
    if kind == "separated":
        return decay.separated(plain(amount), plain({}), mask)
    if kind == "decoupled":
        return decay.decoupled(plain({}), schedules.as_schedule(rate), weight_decay, mask)
    if kind == "penalised":
        return decay.penalised(plain({}), weight_decay, mask)
    return decay.coupled(plain({}), weight_decay, mask)


def _make(
    recipe: Recipe, rate: Any, own: Mapping[str, Any], managed: Mapping[str, Any]
) -> optax.GradientTransformation:
    defaults = {
        key: p.default
        for key, p in recipe.own.items()
        if p.default is not inspect.Parameter.empty and key in ("key", "seed")
    }
    options = {**defaults, **own, **managed}
    with warnings.catch_warnings():
        # optax.contrib.dpsgd passes on a keyword that optax itself has deprecated.
        warnings.filterwarnings("ignore", message='"seed" is deprecated')
        if recipe.rate_keyword is None:
            tx = recipe.factory(**options)
        elif callable(rate) and recipe.constant_rate:
            tx = _scheduled(recipe, rate, options)
        else:
            tx = recipe.factory(**{recipe.rate_keyword: rate}, **options)
    if not isinstance(tx, optax.GradientTransformation):
        raise TypeError(
            f"optimizer {recipe.name!r} must return an optax.GradientTransformation, "
            f"its factory returned {tx!r}"
        )
    return tx


def _scheduled(
    recipe: Recipe, rate: Any, options: Mapping[str, Any]
) -> optax.GradientTransformation:
    if recipe.factory is optax.rprop:
        # Its learning rate is the first step size only, so a schedule scales what it adapts.
        return optax.chain(optax.rprop(1.0, **options), optax.scale_by_schedule(rate))

    def factory(learning_rate: Any) -> optax.GradientTransformation:
        return recipe.factory(**{str(recipe.rate_keyword): learning_rate}, **options)

    return optax.inject_hyperparams(factory)(learning_rate=rate)
