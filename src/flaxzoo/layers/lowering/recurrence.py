"""The LSTM recurrence, arranged for speed.

All four gates go through one ``tanh`` over contiguous rows, because
``sigmoid(x) = tanh(x / 2) / 2 + 1 / 2``; and the gradient of the recurrent kernel is one product
over all steps after the backward loop instead of a sum that every step updates.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flaxzoo.layers.lowering.switch import is_plain

Array = jax.Array
# (h, c), each [B, H].
Carry = tuple[Array, Array]


def run_recurrence(*args: Any, custom_gradient: bool = True) -> tuple[Array, Array, Array]:
    """Runs the recurrence by the faster formulation that is allowed.

    Args:
      *args: those of ``recurrence_autodiff``.
      custom_gradient: whether reverse mode and first derivatives are enough.

    Returns:
      What ``recurrence_autodiff`` returns.
    """
    by_hand = custom_gradient and not is_plain()
    return (recurrence if by_hand else recurrence_autodiff)(*args)


def _gate_scale(hidden_size: int, dtype: Any) -> Array:
    """Returns factors [4 * H] by which one ``tanh`` serves all gates: 1/2 for i, f, o, 1 for g."""
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
    """Runs the loop; with ``save`` it also stacks what the reverse pass needs."""
    scale = _gate_scale(kernel.shape[0], z.dtype)

    def step(carry: Carry, xs: tuple[Array, Array | None]) -> tuple[Carry, Any]:
        (h, c), (z_t, valid) = carry, xs
        # One tanh over whole rows vectorises on CPU; four over column blocks of them do not.
        gates = jnp.split(jnp.tanh(scale[None] * (z_t + h @ kernel + bias[None])), 4, axis=-1)
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
    """Runs ``recurrence_autodiff`` with a faster, hand-written reverse pass.

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
        """Returns the state that each step started from, by the states they ended in."""
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
