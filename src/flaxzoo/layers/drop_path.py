"""Stochastic depth: whole examples' branches are dropped."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp


class DropPath(nn.Dropout):
    """Drops a residual branch of some examples, and scales it up for the others.

    Huang et al. 2016, https://arxiv.org/abs/1603.09382. It is a ``flax.linen.Dropout`` that draws
    once for all of an example's elements; ``rate``, ``deterministic`` and the key ``"dropout"`` are
    its own.
    """

    @nn.compact
    def __call__(
        self, inputs: jax.Array, deterministic: bool | None = None, rng: jax.Array | None = None
    ) -> jax.Array:
        """Drops from ``[B, ...]``, to the same shape.

        Args:
          inputs: the branch.
          deterministic: whether nothing is dropped, as in inference.
          rng: a key; None takes the one of the collection.
        """
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        if self.rate == 0 or deterministic:
            return inputs
        if rng is None:
            rng = self.make_rng(self.rng_collection)
        keep = 1 - self.rate
        shape = (inputs.shape[0], *[1] * (inputs.ndim - 1))
        kept = jax.random.bernoulli(rng, keep, shape)
        # Rate 1 would divide by zero; where() keeps that out of the gradient.
        scaled = inputs / keep if keep else inputs
        return jnp.where(kept, scaled, jnp.zeros((), inputs.dtype))


def drop_path_rates(rate: float, blocks: int) -> tuple[float, ...]:
    """Returns the rate of each block: it grows linearly from 0 in the first to ``rate``."""
    return tuple(rate * i / max(blocks - 1, 1) for i in range(blocks))
