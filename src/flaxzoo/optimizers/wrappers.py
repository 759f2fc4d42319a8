"""Optimizers of optax that wrap another one, as factories that take its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import optax

from flaxzoo._checks import check_number, check_size
from flaxzoo.optimizers.build import as_optimizer
from flaxzoo.optimizers.catalog import register_wrapper
from flaxzoo.optimizers.core import Optimizer


def _base(
    wrapper: str,
    optimizer: Any,
    learning_rate: Any,
    options: Mapping[str, Any] | None,
    weight_decay: float | None,
    weight_decay_mask: Any,
    without: frozenset[str] = frozenset({"per_example_gradients"}),
) -> Optimizer:
    """The optimizer to wrap, which must not need what ``without`` names."""
    keywords: dict[str, Any] = dict(options or {})
    if isinstance(optimizer, str) or not isinstance(optimizer, optax.GradientTransformation):
        keywords["learning_rate"] = learning_rate
    keywords.update(weight_decay=weight_decay, weight_decay_mask=weight_decay_mask)
    base = as_optimizer(optimizer, **keywords)
    if base.needs & without:
        raise ValueError(
            f"{wrapper} cannot wrap {base.name!r}, which needs {', '.join(sorted(base.needs))}"
        )
    return base


@register_wrapper(default_rate=1e-2, needs=frozenset({"value_fn"}))
def sam(
    learning_rate: Any,
    base_optimizer: Any = "sgd",
    rho: float = 0.05,
    sync_period: int = 2,
    base_options: Mapping[str, Any] | None = None,
    weight_decay: float | None = None,
    weight_decay_mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Sharpness-aware minimization: the gradient is taken uphill from the parameters.

    Each update climbs ``sync_period - 1`` normalised gradient steps of length ``rho``, takes the
    gradient there through ``value_fn``, and lets ``base_optimizer`` use it; it costs
    ``sync_period`` gradients.

    Args:
      learning_rate: learning rate of the base optimizer, a number or a schedule.
      base_optimizer: name of a registered optimizer, a factory or a transformation.
      rho: length of one step uphill, in parameter units.
      sync_period: gradients per update, at least 2.
      base_options: further keywords of the base optimizer.
      weight_decay: see ``optimizers.get``; the base optimizer applies it.
      weight_decay_mask: see ``optimizers.get``.

    Source: Foret et al. (https://arxiv.org/abs/2010.01412); ``optax.contrib.sam``.
    """
    everything = frozenset({"value", "value_fn", "obj_fn", "per_example_gradients"})
    base = _base(
        "sam",
        base_optimizer,
        learning_rate,
        base_options,
        weight_decay,
        weight_decay_mask,
        without=everything,
    )
    climb = optax.chain(optax.contrib.normalize(), optax.sgd(check_number("rho", rho, above=0)))
    period = check_size("sync_period", sync_period, minimum=2)
    tx = optax.contrib.sam(base, climb, sync_period=period, opaque_mode=True)

    def update(
        updates: Any, state: Any, params: Any = None, *, value_fn: Any, **extra: Any
    ) -> tuple[Any, Any]:
        del extra
        gradient = jax.grad(value_fn)
        return tx.update(updates, state, params, grad_fn=lambda p, _: gradient(p))

    return optax.GradientTransformationExtraArgs(tx.init, update)


@register_wrapper(default_rate=1.0)
def mechanize(
    learning_rate: Any = 1.0,
    base_optimizer: Any = "adam",
    mechanic_decay: float = 1e-2,
    eps: float = 1e-8,
    s_init: float = 1e-6,
    num_betas: int = 6,
    base_options: Mapping[str, Any] | None = None,
    weight_decay: float | None = None,
    weight_decay_mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Mechanic: learns the scale of the learning rate of another optimizer.

    Args:
      learning_rate: learning rate of the base optimizer before scaling; a schedule that peaks
        at 1 keeps its shape.
      base_optimizer: name of a registered optimizer, a factory or a transformation.
      mechanic_decay: what ``optax.contrib.mechanize`` calls ``weight_decay``: a stabiliser of
        the scale, not a decay of the weights.
      eps: guards divisions.
      s_init: scale to begin with; too small is safe.
      num_betas: number of averaging horizons.
      base_options: further keywords of the base optimizer.
      weight_decay: see ``optimizers.get``; the base optimizer applies it.
      weight_decay_mask: see ``optimizers.get``.

    Source: Cutkosky et al. (https://arxiv.org/abs/2306.00144); ``optax.contrib.mechanize``.
    """
    decay = (weight_decay, weight_decay_mask)
    base = _base("mechanize", base_optimizer, learning_rate, base_options, *decay)
    tx = optax.contrib.mechanize(
        base, weight_decay=mechanic_decay, eps=eps, s_init=s_init, num_betas=num_betas
    )
    return _with_needs(tx, base)


@register_wrapper(default_rate=1.0)
def schedule_free(
    learning_rate: Any,
    base_optimizer: Any = "sgd",
    b1: float = 0.9,
    weight_lr_power: float = 2.0,
    state_dtype: Any = None,
    base_options: Mapping[str, Any] | None = None,
    weight_decay: float | None = None,
    weight_decay_mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Schedule-free averaging around another optimizer, which should have no momentum of its own.

    Evaluate with ``optimizers.eval_params(opt_state, params)``.

    Args:
      learning_rate: learning rate of the base optimizer: constant, or with a warm-up.
      base_optimizer: name of a registered optimizer, a factory or a transformation.
      b1: how near to the average the gradients are taken, in (0, 1].
      weight_lr_power: power of the learning rate that weighs an iterate in the average.
      state_dtype: dtype of the second copy of the parameters.
      base_options: further keywords of the base optimizer.
      weight_decay: see ``optimizers.get``; the base optimizer applies it.
      weight_decay_mask: see ``optimizers.get``.

    Source: Defazio et al. (https://arxiv.org/abs/2405.15682); ``optax.contrib.schedule_free``.
    """
    base = _base(
        "schedule_free",
        base_optimizer,
        learning_rate,
        base_options,
        weight_decay,
        weight_decay_mask,
    )
    tx = optax.contrib.schedule_free(
        base, learning_rate, b1=b1, weight_lr_power=weight_lr_power, state_dtype=state_dtype
    )
    return _with_needs(tx, base)


def _with_needs(tx: optax.GradientTransformationExtraArgs, base: Optimizer) -> Optimizer:
    return Optimizer(tx.init, tx.update, name=base.name, needs=base.needs)
