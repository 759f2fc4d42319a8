"""Weight decay: which parameters it touches, and the ways to add it to an optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxzoo._explain import explained
from flaxzoo._trees import is_weight, map_by_path


@explained
def decay_mask(params: Any) -> Any:
    """The default mask: True for what weight decay shrinks.

    Biases and the parameters of norm layers are left alone: leaves of rank 0 or 1, and leaves
    called ``bias`` or ``scale``.

    Args:
      params: parameters, or a part of them.

    Returns:
      A tree of booleans of the same structure.
    """
    return map_by_path(is_weight, params)


def _require(params: Any) -> None:
    if params is None:
        raise ValueError("weight_decay needs the parameters: call update(grads, state, params)")


def _square_sum(leaf: Any) -> jax.Array:
    return jnp.sum(jnp.square(leaf))


def _resolve(mask: Any, params: Any) -> Any:
    return mask(params) if callable(mask) else mask


def coupled(
    tx: optax.GradientTransformation, weight_decay: float, mask: Any
) -> optax.GradientTransformationExtraArgs:
    """Adds ``weight_decay * params`` to the gradients that the optimizer sees (L2)."""
    return optax.chain(optax.add_decayed_weights(weight_decay, mask), tx)


def decoupled(
    tx: optax.GradientTransformation, rate: Callable[[Any], Any], weight_decay: float, mask: Any
) -> optax.GradientTransformationExtraArgs:
    """Subtracts ``learning_rate * weight_decay * params`` after the optimizer (AdamW's way)."""

    def init(params: Any) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.zeros([], jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        _require(params)
        amount = weight_decay * rate(state.count)
        new = jax.tree.map(lambda u, p: u - (amount * p).astype(u.dtype), updates, params)
        return new, optax.ScaleByScheduleState(count=optax.safe_increment(state.count))

    return optax.chain(tx, optax.masked(optax.GradientTransformation(init, update), mask))


def penalised(
    tx: optax.GradientTransformation, weight_decay: float, mask: Any
) -> optax.GradientTransformationExtraArgs:
    """Adds ``weight_decay / 2 * sum(params ** 2)`` to the loss: value, gradients and function.

    Optimizers that compare loss values need this form: were only the gradients changed, they
    would not be the gradients of the loss that a line search evaluates.
    """
    inner = optax.with_extra_args_support(tx)

    gradients = optax.add_decayed_weights(weight_decay, mask)

    def penalty(params: Any) -> Any:
        chosen = jax.tree.map(lambda on, part: part if on else (), _resolve(mask, params), params)
        return 0.5 * weight_decay * sum(map(_square_sum, jax.tree.leaves(chosen)), jnp.zeros([]))

    def shift(grads: Any, params: Any) -> Any:
        return gradients.update(grads, gradients.init(params), params)[0]

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        _require(params)
        if extra.get("value") is not None:
            extra["value"] = extra["value"] + penalty(params)
        if extra.get("grad") is not None:
            extra["grad"] = shift(extra["grad"], params)
        if extra.get("value_fn") is not None:
            fn: Callable[..., Any] = extra["value_fn"]

            @functools.wraps(fn)
            def value_fn(tree: Any, *args: Any, **kwargs: Any) -> Any:
                return fn(tree, *args, **kwargs) + penalty(tree)

            extra["value_fn"] = value_fn
        return inner.update(shift(updates, params), state, params, **extra)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def selected(
    decayed: optax.GradientTransformation, plain: optax.GradientTransformation, mask: Any
) -> optax.GradientTransformationExtraArgs:
    """Updates of ``decayed`` where the mask is True and of ``plain`` elsewhere.

    For optimizers that take an amount of decay but no mask and estimate one step size for all
    parameters, so that the groups cannot be optimized apart. Both run on the state of
    ``decayed``, so that there is one estimate.
    """
    inner, other = optax.with_extra_args_support(decayed), optax.with_extra_args_support(plain)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        with_decay, new_state = inner.update(updates, state, params, **extra)
        without, _ = other.update(updates, state, params, **extra)
        new = jax.tree.map(
            lambda on, a, b: a if on else b, _resolve(mask, params), with_decay, without
        )
        return new, new_state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def separated(
    decayed: optax.GradientTransformation, plain: optax.GradientTransformation, mask: Any
) -> optax.GradientTransformationExtraArgs:
    """``decayed`` on the parameters where the mask is True and ``plain`` on the others.

    For optimizers that take an amount of decay but no mask and treat every tensor on its own.
    """
    return optax.multi_transform({True: decayed, False: plain}, mask)


def masked_schedule_free_adamw(
    learning_rate: Any = 0.0025,
    warmup_steps: int | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    weight_lr_power: float = 2.0,
    state_dtype: Any = None,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
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
