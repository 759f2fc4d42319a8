"""From a recipe to an optax transformation: learning rate, weight decay, own keywords."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import optax

from flaxzoo import schedules
from flaxzoo.optimizers import catalog, decay


def transformation(
    recipe: catalog.Recipe,
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
    if kind == "rebuilt":
        return _schedule_free_adamw(rate, weight_decay, mask, **own)
    return decay.coupled(plain({}), weight_decay, mask)


def _make(
    recipe: catalog.Recipe, rate: Any, own: Mapping[str, Any], managed: Mapping[str, Any]
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
    recipe: catalog.Recipe, rate: Any, options: Mapping[str, Any]
) -> optax.GradientTransformation:
    if recipe.factory is optax.rprop:
        # Its learning rate is the first step size only, so a schedule scales what it adapts.
        return optax.chain(optax.rprop(1.0, **options), optax.scale_by_schedule(rate))

    def factory(learning_rate: Any) -> optax.GradientTransformation:
        return recipe.factory(**{str(recipe.rate_keyword): learning_rate}, **options)

    return optax.inject_hyperparams(factory)(learning_rate=rate)


def _schedule_free_adamw(
    learning_rate: Any,
    weight_decay: float,
    mask: Any,
    *,
    warmup_steps: int | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_lr_power: float = 2.0,
    state_dtype: Any = None,
) -> optax.GradientTransformation:
    """``optax.contrib.schedule_free_adamw`` with a mask, which it has no argument for."""
    if warmup_steps is not None:
        learning_rate = optax.warmup_constant_schedule(0.0, learning_rate, warmup_steps)
    base = optax.chain(
        optax.scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
    return optax.contrib.schedule_free(
        base,
        learning_rate,
        b1=b1,
        weight_lr_power=weight_lr_power,
        state_dtype=state_dtype,
    )
