"""What packs and groups steps for dispatch: several in one call, and trees as bare arrays.

``jit`` takes the Python objects of its arguments apart at every call, and compares their static
data with those of the call that it has compiled. The second costs next to nothing where they are
the same objects: what a step here returns has the static data of what it was given. The first is
avoided by ``Flat`` and ``Packed``, between which the steps of a ``Trainer`` work, and shared by
many steps in ``train_steps``.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._explain import explained
from flaxzoo._programs import Jitted, once
from flaxzoo._trees import copied
from flaxzoo.data.batch import Batch, as_batch, is_host
from flaxzoo.errors import ShapeError
from flaxzoo.metrics import MetricCollection
from flaxzoo.training.batch_groups import Group, one_of
from flaxzoo.training.state import TrainState
from flaxzoo.training.step import (
    Shapes,
    as_configured,
    check_values,
    complete,
    empty_totals,
    evaluate,
    output_shapes,
    owned,
    parts_of,
    placed_for,
    require_state,
    update,
    with_targets,
)

# Calls with groups that may be under way: each holds its batches in memory.
_IN_FLIGHT = 2


@explained
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
    if state.sharding is not None:
        batches = state.sharding.padded(batches, axis=1, whole=True)
    completed = complete(state, batches)
    one = one_of(batches)
    # Values are looked at as if it were one large batch; NumPy arrays are not copied for that.
    if any(map(is_host, batches)):
        check_values(state, with_targets(jax.tree.map(_joined, batches)), like=one)
    placed = placed_for(state, owned(completed), axis=1)
    return step(state, placed, output_shapes(state, one.inputs))


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
    new_state, _ = jax.eval_shape(once(update), state, one_of(batches))
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


def _train_steps_body(
    state: TrainState, batches: Batch, outputs: Shapes
) -> tuple[TrainState, MetricCollection]:
    nothing = empty_totals(state, one_of(batches), outputs)
    state, (metrics,) = updates(state, batches, (nothing,))
    return state, metrics


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Flat:
    """A tree as its leaves: ``jit`` need not take its Python objects apart at every call.

    Attributes:
      leaves: the arrays.
      treedef: what they are the leaves of; static.
    """

    leaves: list[Any]
    treedef: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, tree: Any, treedef: Any = None) -> Flat:
        """The leaves of a tree; with the very treedef that is given if it is equal."""
        leaves, own = jax.tree.flatten(tree)
        return cls(leaves, treedef if treedef is not None and own == treedef else own)

    def tree(self) -> Any:
        """The tree."""
        return jax.tree.unflatten(self.treedef, self.leaves)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Packed:
    """A tree with many scalars, those of one dtype in one array: each array costs microseconds.

    Attributes:
      scalars: arrays ``[n]`` of scalars, by the name of their dtype.
      others: the leaves that are no scalars.
      kinds: for each leaf the name of its dtype, or None for one of ``others``; static.
      treedef: the structure of the tree; static.
    """

    scalars: dict[str, Any]
    others: list[Any]
    kinds: tuple[str | None, ...] = dataclasses.field(metadata={"static": True})
    treedef: Any = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, tree: Any, like: Packed | None = None) -> Packed:
        """Packs a tree of arrays; under ``jit``. With the very structure of ``like`` if equal."""
        leaves, treedef = jax.tree.flatten(tree)
        kinds = tuple(None if leaf.ndim else str(leaf.dtype) for leaf in leaves)
        if like and (kinds, treedef) == (like.kinds, like.treedef):
            kinds, treedef = like.kinds, like.treedef
        pairs = list(zip(leaves, kinds, strict=True))
        names = [kind for kind in dict.fromkeys(kinds) if kind is not None]
        scalars = {name: jnp.stack([x for x, kind in pairs if kind == name]) for name in names}
        return cls(scalars, [x for x, kind in pairs if kind is None], kinds, treedef)

    def tree(self) -> Any:
        """The tree; under ``jit``."""
        others = iter(self.others)
        # Slices of one element and a reshape: indexing would add a gather.
        parts = {k: iter(jnp.split(x, len(x))) for k, x in self.scalars.items()}
        leaves = [
            next(others) if kind is None else next(parts[kind]).reshape(()) for kind in self.kinds
        ]
        return jax.tree.unflatten(self.treedef, leaves)


@jax.jit
def unpacked(packed: Packed) -> Any:
    """The tree of what is packed, in one dispatch."""
    return packed.tree()


pack = jax.jit(Packed.of)


def _fit_step(state: Flat, batch: Batch, totals: Packed) -> tuple[Flat, Packed, Packed]:
    new_state, metrics = update(state.tree(), batch)
    new_totals = Packed.of(metrics.merge(totals.tree()), totals)
    return Flat.of(new_state, state.treedef), Packed.of(metrics, totals), new_totals


def _evaluate_and_total(state: Flat, batch: Batch, totals: Packed) -> Packed:
    return Packed.of(evaluate(state.tree(), batch).merge(totals.tree()), totals)


def _fit_steps(state: Flat, batches: Batch, totals: Packed) -> tuple[Flat, Packed, Packed]:
    sums = totals.tree()
    # The group's own metrics are summed apart for the callbacks: the epoch's are merged batch by
    # batch, as they are with one step per call.
    nothing = jax.tree.map(jnp.zeros_like, sums)
    new_state, (sums, metrics) = updates(state.tree(), batches, (sums, nothing))
    return Flat.of(new_state, state.treedef), Packed.of(metrics, totals), Packed.of(sums, totals)


# The hash of a treedef knows nothing of what is static in it: it is the handle alone.
_BY_TREEDEF: dict[str, Any] = {
    "key": lambda state, *_: parts_of(state.tree()),
    "handle": lambda state, *_: (state.treedef,),
}


_train_steps = Jitted(_train_steps_body, parts_of)
_donating_steps = Jitted(_train_steps_body, parts_of, donate_argnums=0)
# The Trainer owns its state, so its buffers may be reused for the next one.
fit_step = Jitted(_fit_step, **_BY_TREEDEF, donate_argnums=(0, 2))
fit_steps = Jitted(_fit_steps, **_BY_TREEDEF, donate_argnums=(0, 2))
evaluate_and_total = Jitted(_evaluate_and_total, **_BY_TREEDEF, donate_argnums=2)


class Carry:
    """The training state and the running metrics of the epoch.

    Around the arrays of a state there are dozens of Python objects, which ``jit`` would take
    apart and put together at every step. Steps therefore hand on the bare arrays, and the trees
    are made when somebody asks for them.

    A step takes the arrays of the state before it. While one thread trains, others are therefore
    given copies.

    Attributes:
      lock: held while a step takes the arrays over, and by whoever reads them.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        # The thread that trains, if one does.
        self._trainer: int | None = None
        # A token for each user of the present arrays that may outlast the start of training.
        self._borrowers: set[object] = set()
        # The state is in the one or the other: as a tree once somebody asked, who may change it.
        self._state: TrainState | None = None
        self._flat: Flat | None = None
        # The last treedef, which the next leaves share where they can.
        self._treedef: Any = None
        self._totals: Packed | None = None
        self._under_way: collections.deque[Any] = collections.deque()

    @property
    def state(self) -> TrainState | None:
        """The training state, or None; its arrays are gone after the next step.

        Where another thread trains it is a copy, whose arrays stay.
        """
        with self.lock:
            if self._trainer not in (None, threading.get_ident()):
                return copied(self.current)
            self._state, self._flat = self.current, None
            return self._state

    @state.setter
    def state(self, value: TrainState | None) -> None:
        with self.lock:
            self._state, self._flat = value, None

    @property
    def current(self) -> TrainState | None:
        """The training state, or None, to look at; its arrays stay while ``lock`` is held."""
        with self.lock:
            return self._state if self._flat is None else self._flat.tree()

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Any]:
        """The training state, or None, whose arrays stay until the end of the block."""
        token = object()
        with self.lock:
            state = self.state
            if self._trainer is None:
                self._borrowers.add(token)
        try:
            yield state
        finally:
            self._borrowers.discard(token)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """While this thread trains.

        Raises:
          RuntimeError: another one does.
        """
        with self.lock:
            before, me = self._trainer, threading.get_ident()
            if before not in (None, me):
                raise RuntimeError(
                    "fit of this trainer runs in another thread: wait for its end, or use a "
                    "trainer for each thread"
                )
            self._trainer = me
        try:
            yield
        finally:
            self._trainer = before

    @property
    def totals(self) -> MetricCollection | None:
        """Metrics of the epoch so far, or None; copies."""
        with self.lock:
            return None if self._totals is None else unpacked(self._totals)

    @totals.setter
    def totals(self, value: MetricCollection | None) -> None:
        self._totals = None if value is None else pack(value)
        sharding = None if value is None else getattr(self.current, "sharding", None)
        if sharding is not None:
            self._totals = sharding.everywhere(self._totals)

    @property
    def has_totals(self) -> bool:
        """Whether there are metrics of the epoch so far."""
        return self._totals is not None

    def advance(self, item: Batch | Group) -> Packed:
        """Takes the step of a batch, or those of a group; the state and totals must be there.

        Returns:
          The metrics of the batch or of the whole group.
        """
        if self._flat is None:
            self._flat = Flat.of(self._state, self._treedef)
        if self._borrowers:
            self._flat = copied(self._flat)
            self._borrowers.clear()
        if isinstance(item, Group):
            step = as_configured(fit_steps)
            self._flat, metrics, self._totals = step(self._flat, item.batch, self._totals)
            self._wait(metrics)
        else:
            step = as_configured(fit_step)
            self._flat, metrics, self._totals = step(self._flat, item, self._totals)
        self._treedef = self._flat.treedef
        # What has been donated is not to be kept.
        self._state = None
        return metrics

    def _wait(self, metrics: Packed) -> None:
        self._under_way.append(metrics)
        if len(self._under_way) > _IN_FLIGHT:
            jax.block_until_ready(self._under_way.popleft())


__all__ = ["train_steps"]
