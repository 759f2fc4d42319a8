"""What is done along the channels, the last axis."""

from __future__ import annotations

import jax


def per_channel(vector: jax.Array, x: jax.Array) -> jax.Array:
    """Returns ``[C]`` in the rank of ``x`` ``[..., C]``, since users may forbid its promotion."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def shuffled(x: jax.Array, groups: int) -> jax.Array:
    """Deals the channels of ``[..., C]`` out to as many places as each group has channels.

    Output channel ``i * groups + g`` is input channel ``g * C / groups + i``: a first one of each
    group, then a second one, and so on, so that whatever reads some neighbours reads all groups.
    Zhang et al. 2017 (ShuffleNet), https://arxiv.org/abs/1707.01083, figure 1.

    Args:
      x: joined groups of channels.
      groups: how many there are; they divide ``C``.
    """
    apart = x.reshape(*x.shape[:-1], groups, -1)
    return apart.swapaxes(-1, -2).reshape(x.shape)


def flattened(x: jax.Array) -> jax.Array:
    """Lays out maps ``[B, H, W, C]`` as ``[B, C * H * W]``, one channel after the other.

    It is the order in which PyTorch's linear layers see a map.
    """
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
