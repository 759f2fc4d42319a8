"""Scaling of a float16 loss, so that small gradients are not flushed to zero.

float16 ends at 65,504 and at 6e-8. The loss is multiplied by a scale before gradients are taken,
and these are divided by it, in float32, before anything else sees them. A scale that is too large
makes gradients overflow: such a step is skipped, and the scale halves; after a number of finite
steps in a row it doubles. Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from flaxzoo.precision import PrecisionPolicy

# The parts of a state that a skipped step leaves as they are.
_LEARNT = ("params", "opt_state", "batch_stats", "collections")
_SMALLEST = 1.0


class LossScale(struct.PyTreeNode):
    """The scale of the loss, and how it came about; a pytree, which checkpoints hold.

    Attributes:
      scale: float32 scalar, what the loss is multiplied by.
      finite_steps: int32 scalar, the finite steps in a row since the scale last changed.
      skipped: int32 scalar, the steps so far that were skipped, as a gradient was not finite.
      growth_interval: after how many finite steps in a row the scale doubles; static.
    """

    scale: Any
    finite_steps: Any
    skipped: Any
    growth_interval: int = struct.field(pytree_node=False, default=2000)

    def scaled(self, objective: Callable[..., Any]) -> Callable[..., Any]:
        """The objective, ``(value, aux)`` of whatever it takes, with the value scaled."""

        def larger(*args: Any) -> tuple[Any, Any]:
            value, aux = objective(*args)
            return value * self.scale, aux

        return larger

    def unscaled(self, tree: Any) -> Any:
        """Values or gradients of the scaled objective as those of the objective."""
        return jax.tree.map(lambda x: (x.astype(jnp.float32) / self.scale).astype(x.dtype), tree)

    def after(self, finite: Any) -> LossScale:
        """The scale after a step.

        Args:
          finite: bool scalar, whether all gradients were.
        """
        steps = jnp.where(finite, self.finite_steps + 1, 0)
        grows = steps >= self.growth_interval
        grown = jnp.where(grows & jnp.isfinite(2 * self.scale), 2 * self.scale, self.scale)
        return self.replace(
            scale=jnp.where(finite, grown, jnp.maximum(self.scale / 2, _SMALLEST)),
            finite_steps=jnp.where(grows, 0, steps),
            skipped=self.skipped + ~finite,
        )


def first_scale(policy: PrecisionPolicy | None) -> LossScale | None:
    """What training begins with; None where the loss is not scaled."""
    if policy is None or policy.first_scale is None:
        return None
    zero = jnp.zeros((), jnp.int32)
    scale = jnp.asarray(policy.first_scale, jnp.float32)
    return LossScale(scale, zero, jnp.copy(zero), policy.growth_interval)


def zeros_unless(finite: Any, tree: Any) -> Any:
    """The arrays of a tree, or zeros: what a skipped step computes is thrown away."""
    return jax.tree.map(lambda x: jnp.where(finite, x, jnp.zeros_like(x)), tree)


def skipped_unless(finite: Any, after: Any, before: Any) -> Any:
    """The state after a step, or with what it was before where a gradient was not finite.

    ``step`` and so the random numbers go on in any case.

    Args:
      finite: bool scalar.
      after: the ``TrainState`` after the step.
      before: the one before it.
    """
    kept = {
        name: jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            getattr(after, name),
            getattr(before, name),
        )
        for name in _LEARNT
    }
    return after.replace(**kept, loss_scale=before.loss_scale.after(finite))
