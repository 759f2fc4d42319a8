"""Multinomial logistic regression with an L2 penalty, by L-BFGS, over blocks of rows.

One compiled function fits any subset of the rows with any penalty: rows are left out by a weight
of 0, so that all folds and all penalties of a cross-validation share it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Elements of the largest temporary array, per block of rows: 32 MB in float64.
_BLOCK_ELEMENTS = 2**22
_MEMORY = 10
# Data sets of similar sizes share compiled code: that costs more than some filling.
_ROUND = 256


class Rows(NamedTuple):
    """Examples in blocks ``[blocks, rows, ...]``; the filling at the end has weight 0."""

    features: jax.Array
    labels: jax.Array


class Fit(NamedTuple):
    """Kernel and bias for standardised features, and how the search for them ended."""

    params: tuple[jax.Array, jax.Array]
    iterations: jax.Array
    gradient: jax.Array


def block_size(rows: int, width: int) -> int:
    """Rows per block, for arrays of so many rows and columns."""
    return max(1, min(-(-rows // _ROUND) * _ROUND, _BLOCK_ELEMENTS // max(1, width)))


def in_blocks(array: np.ndarray, size: int) -> np.ndarray:
    """``[N, ...]`` as ``[blocks, size, ...]``, filled up with zeros; a view where nothing is."""
    missing = -len(array) % size
    if missing:
        array = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])
    return array.reshape(-1, size, *array.shape[1:])


@functools.partial(jax.jit, static_argnums=3)
def moments(rows: Rows, weights: jax.Array, standardize: jax.Array, dtype: Any) -> Any:
    """Weighted mean and standard deviation of each feature, ``[D]``; 0 and 1 for none.

    A feature that is constant where the weights are above 0 has the scale 1.
    """
    width = rows.features.shape[-1]
    zeros = jnp.zeros(width, dtype)

    def add(sums: Any, block: Any) -> Any:
        x, w = block
        x = x.astype(dtype)
        counted = (w > 0)[:, None]
        return (
            sums[0] + w @ jnp.where(counted, x, 0),
            jnp.minimum(sums[1], jnp.where(counted, x, jnp.inf).min(0)),
            jnp.maximum(sums[2], jnp.where(counted, x, -jnp.inf).max(0)),
        ), None

    def add_squares(total: Any, block: Any) -> Any:
        x, w = block
        return total + w @ jnp.square(x.astype(dtype) - mean), None

    count = weights.sum()
    with jax.default_matmul_precision("highest"):
        start = (zeros, zeros + jnp.inf, zeros - jnp.inf)
        (total, low, high), _ = jax.lax.scan(add, start, (rows.features, weights))
        mean = total / count
        squares, _ = jax.lax.scan(add_squares, zeros, (rows.features, weights))
    scale = jnp.where(low == high, 1, jnp.sqrt(squares / count))
    return jnp.where(standardize, mean, 0), jnp.where(standardize, scale, 1)


@jax.jit
def fit(
    rows: Rows,
    weights: jax.Array,
    scaling: Any,
    penalty: jax.Array,
    start: Any,
    tolerance: jax.Array,
    max_iterations: jax.Array,
) -> Fit:
    """Minimises the weighted cross-entropy plus ``penalty / 2`` times the squared kernel.

    Both are divided by the sum of the weights, which does not move the minimum. The bias carries
    no penalty. The search ends when no element of the gradient is larger than ``tolerance``, when
    a step no longer moves anything, or after ``max_iterations``.
    """
    objective = _objective(rows, weights, scaling, penalty)
    search = optax.scale_by_zoom_linesearch(max_linesearch_steps=30, initial_guess_strategy="one")
    solver = optax.lbfgs(memory_size=_MEMORY, linesearch=search)
    value_and_grad = optax.value_and_grad_from_state(objective)

    def largest(tree: Any) -> jax.Array:
        return jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)]).max()

    def step(carry: Any) -> Any:
        params, state, iteration, _, _ = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = solver.update(
            gradient, state, params, value=value, grad=gradient, value_fn=objective
        )
        new = optax.apply_updates(params, updates)
        moved = largest(jax.tree.map(jnp.subtract, new, params)) > 0
        # The line search has evaluated the gradient where it ended.
        return new, state, iteration + 1, largest(optax.tree.get(state, "grad")), moved

    def going(carry: Any) -> jax.Array:
        _, _, iteration, gradient, moved = carry
        return (iteration < max_iterations) & (gradient > tolerance) & moved

    # One step at least: the gradient at the start is part of it.
    unknown = jnp.asarray(jnp.inf, start[0].dtype)
    carry = (start, solver.init(start), jnp.asarray(0), unknown, jnp.asarray(True))
    params, _, iterations, gradient, _ = jax.lax.while_loop(going, step, carry)
    return Fit(params, iterations, gradient)


@jax.jit
def accuracy(rows: Rows, weights: jax.Array, scaling: Any, params: Any) -> jax.Array:
    """The share of the weights that is on rows whose label gets the largest logit."""

    def add(total: Any, block: Any) -> Any:
        x, labels, w = block
        right = _logits(x, scaling, params).argmax(-1) == labels
        return total + jnp.sum(right * w), None

    zero = jnp.zeros((), weights.dtype)
    total, _ = jax.lax.scan(add, zero, (rows.features, rows.labels, weights))
    return total / weights.sum()


def _logits(x: jax.Array, scaling: Any, params: Any) -> jax.Array:
    return _scaled(x, scaling, params[0].dtype) @ params[0] + params[1]


def _scaled(x: jax.Array, scaling: Any, dtype: Any) -> jax.Array:
    mean, scale = scaling
    return (x.astype(dtype) - mean) / scale


def _objective(rows: Rows, weights: jax.Array, scaling: Any, penalty: jax.Array) -> Any:
    count = weights.sum()

    def evaluate(params: Any) -> Any:
        kernel, bias = params

        def add(sums: Any, block: Any) -> Any:
            x, labels, w = block
            # Scaled block by block: a scaled copy of all rows would double the memory.
            x = _scaled(x, scaling, kernel.dtype)
            log_p = jax.nn.log_softmax(x @ kernel + bias)
            target = jax.nn.one_hot(labels, len(bias), dtype=kernel.dtype)
            residual = (jnp.exp(log_p) - target) * w[:, None]
            value = -jnp.sum(w * jnp.sum(log_p * target, -1))
            return (sums[0] + value, sums[1] + x.T @ residual, sums[2] + residual.sum(0)), None

        zeros = (jnp.zeros((), kernel.dtype), jnp.zeros_like(kernel), jnp.zeros_like(bias))
        blocks = (rows.features, rows.labels, weights)
        with jax.default_matmul_precision("highest"):
            (value, d_kernel, d_bias), _ = jax.lax.scan(add, zeros, blocks)
        value = value + 0.5 * penalty * jnp.sum(jnp.square(kernel))
        gradient = (d_kernel + penalty * kernel, d_bias)
        return value / count, jax.tree.map(lambda g: g / count, gradient)

    # Differentiating the scan would keep every block's probabilities for the way back.
    @jax.custom_vjp
    def objective(params: Any) -> jax.Array:
        return evaluate(params)[0]

    def backward(gradient: Any, scale: jax.Array) -> Any:
        return (jax.tree.map(lambda g: g * scale, gradient),)

    objective.defvjp(evaluate, backward)
    return objective
