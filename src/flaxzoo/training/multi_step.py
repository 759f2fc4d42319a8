"""Several training steps in one dispatch."""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.data.batch import Batch, as_batch, is_host
from flaxzoo.errors import ShapeError
from flaxzoo.metrics import MetricCollection
from flaxzoo.training.groups import one_of
from flaxzoo.training.packed import Flat, Packed
from flaxzoo.training.state import TrainState
from flaxzoo.training.steps import (
    as_configured,
    check_values,
    complete,
    empty_totals,
    owned,
    require_state,
    update,
    with_targets,
)


def train_steps(state: TrainState, batches: Any) -> tuple[TrainState, MetricCollection]:
    """Takes one optimizer step for each of several batches, all in one dispatch.

    It is ``train_step`` on one batch after the other, in a ``lax.scan``: the same updates, with
    the same random numbers. Where a step takes microseconds, handing it to the device takes
    longer than the step; here that is done once for all of them. It compiles once per number
    and shape of the batches.

    Args:
      state: from ``create_train_state``; it is left as it is and may be kept, unless it was made
        with ``donate=True``.
      batches: a batch as ``train_step`` takes it, but with arrays ``[K, B, ...]``: K batches of
        B examples, and a ``weight``, if there is one, of shape ``[K, B]``.

    Returns:
      The state after the K steps, and the metrics of all K batches together: on the device until
      ``.compute()``, mergeable with those of other batches.

    Raises:
      DataError: as for ``train_step``.
      ShapeError: an array has no leading axes ``[K, B]``, or they differ between arrays; or the
        batches do not fit the model or the loss.
      ValueError: a step changes the structure of the state, or the state was donated to an
        earlier step.
    """
    require_state(state)
    step = as_configured(_donating_steps) if state.donate else _train_steps
    batches = _as_batches(batches)
    completed = complete(state, batches)
    # Values are looked at as if it were one large batch; NumPy arrays are not copied for that.
    if is_host(batches.inputs) or is_host(batches.targets):
        trace = functools.partial(step.trace, state, completed)
        whole = with_targets(jax.tree.map(_joined, batches))
        check_values(state, whole, like=one_of(batches), trace=trace)
    return step(state, owned(completed))


def as_steps_per_call(value: Any) -> int:
    """``value`` as a number of steps.

    Raises:
      ValueError: it is not an int of at least 1.
    """
    try:
        number = 0 if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"steps_per_call must be an int of at least 1, got {value!r}")
    return number


@dataclasses.dataclass
class _Stacked:
    """Passes for an array of one batch, so that ``as_batch`` looks at several alike."""

    value: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape[1:])

    @property
    def ndim(self) -> int:
        return self.value.ndim - 1

    @property
    def dtype(self) -> Any:
        return self.value.dtype


def _as_batches(batches: Any) -> Batch:
    arrays = jax.tree.map(
        lambda x: x if isinstance(x, np.ndarray | jax.Array) else np.asarray(x), batches
    )
    shapes = [leaf.shape for leaf in jax.tree.leaves(arrays)]
    short = next((shape for shape in shapes if len(shape) < 2), None)
    if short is not None or len({shape[0] for shape in shapes}) > 1:
        raise ShapeError(
            "train_steps takes arrays [K, B, ...], K batches of B examples, the same K in all; "
            f"got {', '.join(str(list(shape)) for shape in shapes)}"
        )
    if shapes and shapes[0][0] == 0:
        raise ShapeError(f"train_steps needs one batch at least, got {list(shapes[0])}")
    return jax.tree.map(lambda x: x.value, as_batch(jax.tree.map(_Stacked, arrays)))


def _joined(array: Any) -> Any:
    return array.reshape(-1, *array.shape[2:])


def updates(
    state: TrainState, batches: Batch, totals: tuple[MetricCollection, ...]
) -> tuple[TrainState, tuple[MetricCollection, ...]]:
    """``update`` on one batch after the other: pure, for use under ``jit``.

    Args:
      state: the state.
      batches: arrays ``[K, B, ...]``.
      totals: metrics, with each of which those of the batches are merged in their order.

    Returns:
      The state and the totals.
    """

    def body(carry: Any, batch: Batch) -> tuple[Any, None]:
        state, totals = carry
        state, metrics = update(state, batch)
        return (state, tuple(metrics.merge(total) for total in totals)), None

    try:
        carry, _ = jax.lax.scan(body, (state, totals), batches)
    except TypeError as error:
        _check_structure(state, batches, error)
        raise
    return carry


def _check_structure(state: Any, batches: Batch, error: TypeError) -> None:
    """Says which part of the state a step changes, if that is what ``lax.scan`` refused."""
    new_state, _ = jax.eval_shape(update, state, one_of(batches))
    before, after = (
        {jax.tree_util.keystr(path): (x.shape, str(x.dtype)) for path, x in leaves}
        for leaves in (jax.tree.leaves_with_path(state), jax.tree.leaves_with_path(new_state))
    )
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if changed:
        raise ValueError(
            "several steps in one call need a state that keeps its arrays, their shapes and "
            f"dtypes; a step changes {', '.join(changed[:3])}: use one step per call"
        ) from error


def _train_steps_body(state: TrainState, batches: Batch) -> tuple[TrainState, MetricCollection]:
    state, (metrics,) = updates(state, batches, (empty_totals(state, one_of(batches)),))
    return state, metrics


def _fit_steps(state: Flat, batches: Batch, totals: Packed) -> tuple[Flat, Packed, Packed]:
    sums = totals.tree()
    # The group's own metrics are summed apart for the callbacks: the epoch's are merged batch by
    # batch, as they are with one step per call.
    nothing = jax.tree.map(jnp.zeros_like, sums)
    new_state, (sums, metrics) = updates(state.tree(), batches, (sums, nothing))
    return Flat.of(new_state, state.treedef), Packed.of(metrics, totals), Packed.of(sums, totals)


_train_steps = jax.jit(_train_steps_body)
_donating_steps = jax.jit(_train_steps_body, donate_argnums=0)
# The Trainer owns its state, so its buffers may be reused for the next one.
fit_steps = jax.jit(_fit_steps, donate_argnums=(0, 2))


__all__ = ["train_steps"]
