"""The LSTM recurrence, arranged for speed, and one layer of it in one direction.

What makes it fast: the input projection of all steps is one matmul, so that only
``h @ kernel_hh`` is left in the loop; all four gates go through one ``tanh`` over contiguous rows,
because ``sigmoid(x) = tanh(x / 2) / 2 + 1 / 2``; and the gradient of the recurrent kernel is one
matmul over all steps after the backward loop instead of a sum updated in every step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax import lax

from flaxzoo.errors import ShapeError, UnknownNameError, did_you_mean

Array = jax.Array
Initializer = Callable[..., Array]
# (h, c), each [B, H].
Carry = tuple[Array, Array]

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
    """A rematerialisation policy from its name in ``jax.checkpoint_policies``.

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


def _gate_scale(hidden_size: int, dtype: Any) -> Array:
    """Factors [4 * H] that let one ``tanh`` serve all gates: 1/2 for i, f, o and 1 for g."""
    half, one = jnp.full(hidden_size, 0.5, dtype), jnp.ones(hidden_size, dtype)
    return jnp.concatenate([half, half, one, half])


def _forward(
    z: Array,
    kernel: Array,
    bias: Array,
    h: Array,
    c: Array,
    mask: Array | None,
    reverse: bool,
    unroll: int,
    save: bool,
) -> tuple[Carry, Any]:
    """The loop; with ``save`` it also stacks what the reverse pass needs."""
    scale = _gate_scale(kernel.shape[0], z.dtype)

    def step(carry: Carry, xs: tuple[Array, Array | None]) -> tuple[Carry, Any]:
        (h, c), (z_t, valid) = carry, xs
        # One tanh over whole rows vectorises on CPU; four over column blocks of them do not.
        gates = jnp.split(jnp.tanh(scale * (z_t + h @ kernel + bias)), 4, axis=-1)
        i, f, g, o = gates
        c_next = (0.5 * f + 0.5) * c + (0.5 * i + 0.5) * g
        h_next = (0.5 * o + 0.5) * jnp.tanh(c_next)
        if valid is not None:
            h_next, c_next = jnp.where(valid, h_next, h), jnp.where(valid, c_next, c)
        return (h_next, c_next), ((h_next, c_next, gates) if save else h_next)

    return lax.scan(step, (h, c), (z, mask), reverse=reverse, unroll=unroll)


def recurrence_autodiff(
    z: Array,
    kernel: Array,
    bias: Array,
    h: Array,
    c: Array,
    mask: Array | None,
    reverse: bool,
    unroll: int,
) -> tuple[Array, Array, Array]:
    """Runs the recurrence; its derivatives, of any order and mode, are JAX's own.

    Args:
      z: input projections [T, B, 4 * H], gates in the order i, f, g, o.
      kernel: recurrent kernel [H, 4 * H].
      bias: [4 * H].
      h: hidden state [B, H] before the first step.
      c: cell state [B, H] before the first step.
      mask: bool [T, B, 1] or None; a step that is False leaves the state as it was.
      reverse: run from the last step to the first.
      unroll: steps per iteration of the compiled loop.

    Returns:
      The hidden state after each step [T, B, H], and the final h and c [B, H].
    """
    (h, c), hs = _forward(z, kernel, bias, h, c, mask, reverse, unroll, save=False)
    return hs, h, c


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def recurrence(
    z: Array,
    kernel: Array,
    bias: Array,
    h: Array,
    c: Array,
    mask: Array | None,
    reverse: bool,
    unroll: int,
) -> tuple[Array, Array, Array]:
    """``recurrence_autodiff`` with a faster, hand-written reverse pass.

    The kernel's gradient is a single matmul over all steps, as in Appleyard et al. 2016
    (arXiv:1604.01946). Only first derivatives in reverse mode are defined. Arguments and results
    are those of ``recurrence_autodiff``.
    """
    return recurrence_autodiff(z, kernel, bias, h, c, mask, reverse, unroll)


def _recurrence_fwd(
    z: Array,
    kernel: Array,
    bias: Array,
    h: Array,
    c: Array,
    mask: Array | None,
    reverse: bool,
    unroll: int,
) -> tuple[tuple[Array, Array, Array], Any]:
    last, (hs, cs, gates) = _forward(z, kernel, bias, h, c, mask, reverse, unroll, save=True)
    return (hs, *last), (kernel, h, c, mask, hs, cs, gates)


def _recurrence_bwd(reverse: bool, unroll: int, residuals: Any, cotangents: Any) -> tuple[Any, ...]:
    kernel, h0, c0, mask, hs, cs, gates = residuals
    d_hs, dh, dc = cotangents
    kernel_t = kernel.T

    def before(states: Array, first: Array) -> Array:
        """The state that each step started from, given the states they ended in."""
        parts = [states[1:], first[None]] if reverse else [first[None], states[:-1]]
        return jnp.concatenate(parts)

    def step(carry: Carry, xs: Any) -> tuple[Carry, Array]:
        (dh, dc), (d_out, c_before, c, (i, f, g, o), valid) = carry, xs
        dh = dh + d_out
        if valid is not None:
            # A skipped step hands its gradient on untouched and contributes none of its own.
            held_h, held_c = jnp.where(valid, 0, dh), jnp.where(valid, 0, dc)
            dh, dc = jnp.where(valid, dh, 0), jnp.where(valid, dc, 0)
        tanh_c = jnp.tanh(c)
        dc = dc + dh * (0.5 * o + 0.5) * (1 - tanh_c * tanh_c)
        # i, f and o hold tanh(x / 2), and d sigmoid(x) / dx = (1 - tanh(x / 2)^2) / 4.
        dz = jnp.concatenate(
            [
                dc * g * (0.25 - 0.25 * i * i),
                dc * c_before * (0.25 - 0.25 * f * f),
                dc * (0.5 * i + 0.5) * (1 - g * g),
                dh * tanh_c * (0.25 - 0.25 * o * o),
            ],
            axis=-1,
        )
        dh, dc = dz @ kernel_t, dc * (0.5 * f + 0.5)
        if valid is not None:
            dh, dc = dh + held_h, dc + held_c
        return (dh, dc), dz

    (dh, dc), dz = lax.scan(
        step,
        (dh, dc),
        (d_hs, before(cs, c0), cs, gates, mask),
        reverse=not reverse,
        unroll=unroll,
    )
    d_kernel = jnp.einsum("tbh,tbk->hk", before(hs, h0), dz)
    return dz, d_kernel, jnp.sum(dz, axis=(0, 1)), dh, dc, None


recurrence.defvjp(_recurrence_fwd, _recurrence_bwd)


def forget_bias_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Bias [4 * H] of zeros, with ones for the forget gate (Jozefowicz et al., ICML 2015)."""
    del key
    hidden_size = shape[0] // 4
    return jnp.zeros(shape, dtype).at[hidden_size : 2 * hidden_size].set(1)


def recurrent_init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Kernel [H, 4 * H] made of one orthogonal matrix [H, H] per gate (Saxe et al., 2014)."""
    one_gate = nn.initializers.orthogonal()
    keys = jax.random.split(key, 4)
    return jnp.concatenate([one_gate(k, (shape[0], shape[1] // 4), dtype) for k in keys], axis=-1)


class LSTMLayer(nn.Module):
    """One LSTM layer in one direction over a batch of sequences.

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
      dtype: of the computation; None keeps the promotion of inputs and parameters.
      param_dtype: of the parameters.
      kernel_init: initialiser of ``kernel_ih``.
      recurrent_init: initialiser of ``kernel_hh``.
      bias_init: initialiser of ``bias``.
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
    """A block of consecutive steps: one projection [T * B, F] x [F, 4 * H], then the loop."""
    kernel_ih, kernel_hh, bias = weights
    x, mask = xs
    steps, batch, features = x.shape
    z = (x.reshape(steps * batch, features) @ kernel_ih).reshape(steps, batch, -1)
    run = recurrence if layer.custom_gradient else recurrence_autodiff
    hs, h, c = run(z, kernel_hh, bias, *carry, mask, layer.reverse, layer.unroll)
    return (h, c), hs
