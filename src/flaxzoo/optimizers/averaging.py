"""Evaluating at an average of the parameters instead of the last ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AverageState(NamedTuple):
    """State of ``average``.

    Attributes:
      updates: int32 scalar, their number so far.
      mean: the moving average of the parameters, in float32 at least.
      inner: state of the optimizer.
    """

    updates: jax.Array
    mean: Any
    inner: Any


def average(
    tx: optax.GradientTransformation, decay: float
) -> optax.GradientTransformationExtraArgs:
    """``tx``, with an exponential moving average of the parameters in its state.

    The average starts at the initial parameters. Update ``t`` (from 0) moves it by the factor
    ``min(decay, (1 + t) / (10 + t))``, so that a run of a few hundred steps is not held back by
    where it began. ``optimizers.eval_params`` finds the average wherever it sits.

    Args:
      tx: the optimizer; its updates are as they were.
      decay: weight of the old average, in [0, 1); 0.999 to 0.9999 are usual.

    Source: Polyak and Juditsky, 1992; the start is that of TensorFlow's
    ``ExponentialMovingAverage(num_updates=...)``.
    """
    inner = optax.with_extra_args_support(tx)

    def init(params: Any) -> AverageState:
        # Copies: a state whose buffers are donated may not hold one twice.
        mean = jax.tree.map(
            lambda p: jnp.array(p, jnp.promote_types(p.dtype, jnp.float32), copy=True), params
        )
        return AverageState(jnp.zeros([], jnp.int32), mean, inner.init(params))

    def update(
        updates: Any, state: AverageState, params: Any = None, **extra: Any
    ) -> tuple[Any, AverageState]:
        if params is None:
            raise ValueError("an average of the parameters needs update(grads, state, params)")
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        share = 1 - jnp.minimum(decay, (1 + state.updates) / (10 + state.updates))
        mean = jax.tree.map(
            lambda m, p: m + share.astype(m.dtype) * (p.astype(m.dtype) - m),
            state.mean,
            optax.apply_updates(params, updates),
        )
        return updates, AverageState(state.updates + 1, mean, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
