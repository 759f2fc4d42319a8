"""One layer of an LSTM, in one direction.

The input projection of all steps is one product, so that only ``h @ kernel_hh`` is left in the
loop, which is in ``flaxzoo.layers.lowering.recurrence``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from flaxzoo.errors import ShapeError, UnknownNameError, did_you_mean
from flaxzoo.layers.lowering.recurrence import Carry, run_recurrence

Array = jax.Array
Initializer = Callable[..., Array]

# Policies that are used as they are; the other names in jax.checkpoint_policies make policies.
_POLICIES = (
    "checkpoint_dots",
    "checkpoint_dots_with_no_batch_dims",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
    "everything_saveable",
    "nothing_saveable",
)


def as_remat_policy(policy: str | Callable[..., Any] | None) -> Callable[..., Any] | None:
    """Returns a rematerialisation policy by its name in ``jax.checkpoint_policies``.

    Args:
      policy: a name, a policy (returned unchanged), or None, which saves nothing.

    Raises:
      UnknownNameError: no policy has that name.
    """
    if policy is None or callable(policy):
        return policy
    if policy not in _POLICIES:
        raise UnknownNameError(
            f"unknown remat policy {policy!r}.{did_you_mean(str(policy), _POLICIES)} "
            f"Names: {', '.join(_POLICIES)}; any other policy can be passed as a callable"
        )
    return getattr(jax.checkpoint_policies, policy)


def forget_bias_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Makes a bias [4 * H] of zeros, with ones for the forget gate (Jozefowicz et al. 2015)."""
    del key
    hidden_size = shape[0] // 4
    return jnp.zeros(shape, dtype).at[hidden_size : 2 * hidden_size].set(1)


def recurrent_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Makes a kernel [H, 4 * H] of one orthogonal matrix [H, H] per gate (Saxe et al., 2014)."""
    one_gate = nn.initializers.orthogonal()
    keys = jax.random.split(key, 4)
    return jnp.concatenate([one_gate(k, (shape[0], shape[1] // 4), dtype) for k in keys], axis=-1)


class LSTMLayer(nn.Module):
    """One LSTM layer in one direction over a batch of sequences.

    At each step the gates are ``[i, f, g, o] = x @ kernel_ih + h @ kernel_hh + bias``, and then
    ``c = sigmoid(f) * c + sigmoid(i) * tanh(g)`` and ``h = sigmoid(o) * tanh(c)``.

    Parameters: ``kernel_ih`` [F, 4 * H], ``kernel_hh`` [H, 4 * H] and ``bias`` [4 * H], gates in
    the order i, f, g, o: the transposes of torch's ``weight_ih`` and ``weight_hh`` and the sum of
    its two biases. Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.

    Attributes:
      hidden_size: units H.
      reverse: run from the last step to the first.
      remat: run the sequence in blocks of about ``sqrt(T)`` steps and keep only the state between
        them, recomputing a block when its gradient is taken.
      remat_policy: what a block may keep all the same; see ``as_remat_policy``.
      unroll: steps per iteration of the compiled loop.
      custom_gradient: the hand-written reverse pass; False for forward-mode or second derivatives.
      dtype: the dtype of the computation; None promotes inputs and parameters.
      param_dtype: the dtype of the parameters.
      kernel_init: the initialiser of ``kernel_ih``.
      recurrent_init: the initialiser of ``kernel_hh``.
      bias_init: the initialiser of ``bias``.
    """

    hidden_size: int
    reverse: bool = False
    remat: bool = False
    remat_policy: str | Callable[..., Any] | None = None
    unroll: int = 1
    custom_gradient: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Initializer = nn.initializers.lecun_normal()
    recurrent_init: Initializer = recurrent_init
    bias_init: Initializer = forget_bias_init

    @nn.compact
    def __call__(
        self, x: Array, carry: Carry | None = None, mask: Array | None = None
    ) -> tuple[Array, Carry]:
        """Runs the layer.

        Args:
          x: inputs [B, T, F].
          carry: the state (h, c) to start from, each [B, H]; None for zeros.
          mask: bool [B, T]; a step that is False is skipped: it leaves the state as it was, and
            its output is zero. None takes every step.

        Returns:
          The outputs [B, T, H], and the state (h, c) after the last step in the layer's direction.

        Raises:
          ShapeError: ``x`` is not [B, T, F], or has no steps or no features.
          UnknownNameError: no ``remat_policy`` has that name.
        """
        if x.ndim != 3 or 0 in x.shape[1:]:
            raise ShapeError(
                f"x must be [B, T, F] with at least one step and one feature, got {list(x.shape)}"
            )
        size = self.hidden_size
        kernel_ih = self.param(
            "kernel_ih", self.kernel_init, (x.shape[-1], 4 * size), self.param_dtype
        )
        kernel_hh = self.param("kernel_hh", self.recurrent_init, (size, 4 * size), self.param_dtype)
        bias = self.param("bias", self.bias_init, (4 * size,), self.param_dtype)
        x, kernel_ih, kernel_hh, bias = promote_dtype(
            x, kernel_ih, kernel_hh, bias, dtype=self.dtype
        )
        batch, steps, _ = x.shape
        if carry is None:
            carry = (jnp.zeros((batch, size), x.dtype),) * 2
        weights = (kernel_ih, kernel_hh, bias)
        xs = x.swapaxes(0, 1), None if mask is None else mask.swapaxes(0, 1)[..., None]

        length = math.ceil(math.sqrt(steps)) if self.remat else steps
        blocks = math.ceil(steps / length)
        if blocks * length > steps:
            # Blocks are of one length: fill up the last one with steps that are skipped.
            xs = xs[0], jnp.ones((steps, batch, 1), bool) if mask is None else xs[1]
            fill = ((0, blocks * length - steps), (0, 0), (0, 0))
            xs = jax.tree.map(lambda a: jnp.pad(a, fill), xs)
        xs = jax.tree.map(lambda a: a.reshape(blocks, length, *a.shape[1:]), xs)

        run = _run_block
        if self.remat:
            # Inside a scan nothing can be merged across iterations, so CSE needs no guarding.
            run = nn.remat(run, prevent_cse=False, policy=as_remat_policy(self.remat_policy))
        over_time = nn.scan(run, in_axes=(nn.broadcast, 0), out_axes=0, reverse=self.reverse)
        start = jax.tree.map(lambda a: a.astype(x.dtype), tuple(carry))
        carry, hs = over_time(self, start, weights, xs)
        hs = hs.reshape(blocks * length, batch, size)[:steps].swapaxes(0, 1)
        return hs if mask is None else jnp.where(mask[..., None], hs, 0), carry


def _run_block(
    layer: LSTMLayer, carry: Carry, weights: tuple[Array, Array, Array], xs: Any
) -> tuple[Carry, Array]:
    """Runs a block of consecutive steps: one projection [T * B, F] x [F, 4 * H], then the loop."""
    kernel_ih, kernel_hh, bias = weights
    x, mask = xs
    steps, batch, features = x.shape
    z = (x.reshape(steps * batch, features) @ kernel_ih).reshape(steps, batch, -1)
    arguments = (z, kernel_hh, bias, *carry, mask, layer.reverse, layer.unroll)
    hs, h, c = run_recurrence(*arguments, custom_gradient=layer.custom_gradient)
    return (h, c), hs
