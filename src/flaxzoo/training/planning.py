"""What training will take, before anything compiles: what lies where, and whether it fits."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var

from flaxzoo._trees import flatten, unflatten
from flaxzoo.data.batch import Batch, batch_size
from flaxzoo.preprocess import model_inputs
from flaxzoo.training.collectives import Collective, collectives
from flaxzoo.training.state import TrainState, merge, split
from flaxzoo.training.step import forward, update


@dataclasses.dataclass(frozen=True)
class ParameterPlan:
    """What becomes of one parameter.

    Attributes:
      path: where it is in the tree.
      shape: its shape as a whole.
      dtype: its dtype.
      divided: for each dimension the axis of the mesh that divides it, or None.
      bytes: of the part on one device.
      trains: whether it does.
      rate: the learning rate of the next step; None where it is frozen or the optimizer hides it.
      decay: whether weight decay shrinks it; None where the optimizer does not say.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    divided: tuple[Any, ...]
    bytes: int
    trains: bool
    rate: float | None
    decay: bool | None


@dataclasses.dataclass(frozen=True)
class TrainingPlan:
    """What training takes on each device; ``print`` it, or read its fields.

    Attributes:
      model: its name.
      devices: how many train.
      kind: what JAX calls them.
      mesh: sizes of the axes by name; empty for one device.
      batch: number of examples in a step.
      precision: that of the computation, as ``precision=`` says it.
      parameters: a ``ParameterPlan`` for each, in the order of the tree.
      bytes: on each device, for ``"parameters"``, ``"gradients"``, ``"optimizer"`` (its state, and
        averages), ``"statistics"`` (the other collections), ``"batch"`` and ``"activations"``:
        what the backward pass needs of the forward one, as JAX keeps it. The compiler computes
        some of that anew and needs room beside it, so that the sum is an estimate.
      compiled: with ``compile=True`` the bytes that the compiled step takes on each device, by
        ``compiled.memory_analysis()``; else None.
      traffic: with ``compile=True`` what the devices send each other in a step, else None.
      limit: bytes of memory that a device has for arrays, or None where it does not say.
    """

    model: str
    devices: int
    kind: str
    mesh: Mapping[str, int]
    batch: int
    precision: str
    parameters: tuple[ParameterPlan, ...]
    bytes: Mapping[str, int]
    compiled: int | None = None
    traffic: tuple[Collective, ...] | None = None
    limit: int | None = None

    @property
    def total(self) -> int:
        """Bytes on each device: the compiled step's where it is known, else the estimate."""
        return sum(self.bytes.values()) if self.compiled is None else self.compiled

    @property
    def per_device_batch(self) -> int:
        """Number of examples in a step on each device."""
        return self.batch // self.mesh.get("data", 1)

    @property
    def fits(self) -> bool | None:
        """Whether the total is within the limit; None where there is none."""
        return None if self.limit is None else self.total <= self.limit

    def __str__(self) -> str:
        lines = [*self._heading(), "", *self._groups(), "", *self._memory()]
        if self.traffic is not None:
            lines += ["", *self._traffic()]
        return "\n".join(lines)

    def _heading(self) -> list[str]:
        axes = ", ".join(f"{name} {size}" for name, size in self.mesh.items())
        on = f"{self.devices} devices ({axes}; {self.kind})" if self.mesh else f"1 {self.kind}"
        each = f", {self.per_device_batch} on each device" if self.mesh else ""
        return [f"{self.model} on {on}", f"batch of {self.batch}{each}, in {self.precision}"]

    def _groups(self) -> list[str]:
        """Parameters that are treated alike, as one line each, the largest first."""
        groups: dict[tuple[Any, ...], list[ParameterPlan]] = {}
        for leaf in self.parameters:
            place = _place(leaf.divided)
            key = (leaf.path.partition("/")[0], leaf.trains, leaf.rate, leaf.decay, place)
            groups.setdefault(key, []).append(leaf)
        rows = [("", "leaves", "parameters", "trains at", "decays", "lies", "on each device")]
        for (top, trains, rate, decay, place), leaves in groups.items():
            at = "frozen" if not trains else "" if rate is None else f"{rate:.3g}"
            decays = "" if decay is None or not trains else "yes" if decay else "no"
            count = f"{sum(math.prod(leaf.shape) for leaf in leaves):,}"
            size = _mib(sum(leaf.bytes for leaf in leaves))
            rows.append((top, str(len(leaves)), count, at, decays, place, size))
        return _aligned(rows, right=(1, 2, 6))

    def _memory(self) -> list[str]:
        rows = [("bytes on each device", "")]
        rows += [(f"  {name}", _mib(size)) for name, size in self.bytes.items() if size]
        rows.append(("  together, estimated", _mib(sum(self.bytes.values()))))
        if self.compiled is not None:
            rows.append(("  the compiled step", _mib(self.compiled)))
        if self.limit is not None:
            word = "fits" if self.fits else "DOES NOT FIT"
            rows.append((f"  of the device: {word}", _mib(self.limit)))
        return _aligned(rows, right=(1,))

    def _traffic(self) -> list[str]:
        traffic = self.traffic or ()
        rows = [("each device sends in a step", "times", "")]
        for kind in dict.fromkeys(one.kind for one in traffic):
            of_kind = [one for one in traffic if one.kind == kind]
            sent = round(sum(one.sent for one in of_kind))
            rows.append((f"  {kind}", str(sum(one.count for one in of_kind)), _mib(sent)))
        if not traffic:
            rows.append(("  nothing", "", ""))
        return _aligned(rows, right=(1, 2))


def plan_of(
    state: TrainState, batch: Batch, *, name: str, step: int = 0, compiling: bool = False
) -> TrainingPlan:
    """The plan of a state and a batch, which may both be shapes alone.

    Args:
      state: a ``TrainState`` with ``jax.ShapeDtypeStruct`` leaves.
      batch: a ``Batch``, which is filled up to what the state's devices divide; without targets
        nothing can be compiled.
      name: of the model.
      step: the number of steps so far, for the learning rates.
      compiling: whether to compile the step and ask the compiler.
    """
    sharding = state.sharding
    if sharding is not None:
        batch = _filled_up(batch, sharding.rounded(batch_size(batch)))
    size, shares = batch_size(batch), 1 if sharding is None else sharding.shares
    # Of several processes each asks a device of its own.
    device = jax.local_devices()[0] if sharding is None else sharding.mesh.local_devices[0]

    def share(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size // shares, *leaf.shape[1:]), leaf.dtype)

    trained, _ = split(state.params, state.frozen)
    taken, traffic = _compiled(state, batch) if compiling else (None, None)
    return TrainingPlan(
        model=name,
        devices=1 if sharding is None else sharding.mesh.size,
        kind=device.device_kind,
        mesh={} if sharding is None else dict(sharding.mesh.shape),
        batch=size,
        precision="float32" if state.precision is None else str(state.precision),
        parameters=_parameters(state, step),
        bytes={
            "parameters": _on_device(state, state.params),
            "gradients": _on_device(state, unflatten(trained)),
            "optimizer": _on_device(state, state.opt_state),
            "statistics": _on_device(state, state.model_state),
            "batch": sum(map(_size, jax.tree.leaves(batch))) // shares,
            "activations": _kept(state, jax.tree.map(share, batch.inputs)),
        },
        compiled=taken,
        traffic=traffic,
        limit=(device.memory_stats() or {}).get("bytes_limit"),
    )


def _filled_up(batch: Batch, size: int) -> Batch:
    """The shapes of a batch that is filled up to a size: it then has weights."""
    if size == batch_size(batch):
        return batch
    batch = batch._replace(weights=jax.ShapeDtypeStruct((size,), np.dtype(np.float32)))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), batch)


def _parameters(state: TrainState, step: int) -> tuple[ParameterPlan, ...]:
    rates, decays = _rates(state, step), _decays(state)
    divided = {} if state.sharding is None else flatten(state.sharding.of(state.params))
    plans = []
    for path, leaf in flatten(state.params).items():
        trains = path not in state.frozen
        spec = tuple(divided[path].spec) if path in divided else ()
        plans.append(
            ParameterPlan(
                path=path,
                shape=tuple(leaf.shape),
                dtype=str(leaf.dtype),
                divided=(*spec, *(None,) * (len(leaf.shape) - len(spec))),
                bytes=_size(leaf, divided.get(path)),
                trains=trains,
                rate=rates.get(path) if trains else None,
                decay=decays.get(path) if trains else None,
            )
        )
    return tuple(plans)


def _rates(state: TrainState, step: int) -> dict[str, float]:
    """The learning rate of each parameter that trains, where the optimizer says it."""
    number = step // state.optimizer.accumulate_steps
    if state.groups is not None:
        return state.groups.rates_by_path(number)
    rate = state.optimizer.learning_rate
    return {} if rate is None else dict.fromkeys(flatten(state.params), float(rate(number)))


def _decays(state: TrainState) -> dict[str, bool]:
    """Whether weight decay shrinks each parameter that trains, as far as that can be tried.

    No optimizer can be asked for its mask. Without a gradient it moves what decays and nothing
    else, and a single number of each parameter is enough to see that. A warm-up may begin at a
    rate of 0, hence more than one update.
    """
    ones = jax.tree.map(lambda leaf: jnp.ones((1,) * leaf.ndim, leaf.dtype), state.params)
    zeros, moved = jax.tree.map(jnp.zeros_like, ones), dict.fromkeys(flatten(ones), False)
    try:
        opt_state = state.tx.init(ones)
        for _ in range(2 * state.optimizer.accumulate_steps):
            updates, opt_state = state.tx.update(zeros, opt_state, ones)
            moved = {
                path: moved[path] or bool(leaf.any()) for path, leaf in flatten(updates).items()
            }
    except (TypeError, ValueError):
        # It wants values of the loss, or examples.
        return {}
    return moved


def _kept(state: TrainState, inputs: Any) -> int:
    """Bytes that are kept of the forward pass of some inputs for the backward one."""
    trained, frozen = split(state.params, state.frozen)
    inputs = jax.eval_shape(functools.partial(model_inputs, state.preprocess), inputs)
    # One device's part of the batch, on its own.
    alone = state.replace(sharding=None)

    def residuals(trained: Any, frozen: Any, state: TrainState, inputs: Any) -> Any:
        def outputs(trained: Any) -> Any:
            return forward(state, merge(trained, frozen), state.rng, Batch(inputs))[0]

        return jax.vjp(outputs, trained)

    jaxpr = jax.make_jaxpr(residuals)(trained, frozen, alone, inputs).jaxpr
    # What comes in is there in any case, and what is kept twice lies there once.
    given = set(map(id, jaxpr.invars))
    kept = {id(v): v.aval for v in jaxpr.outvars if isinstance(v, Var) and id(v) not in given}
    return sum(map(_size, kept.values()))


def _compiled(state: TrainState, batch: Batch) -> tuple[int, tuple[Collective, ...]]:
    """Bytes on each device of the compiled step, and what it sends; the state is donated to it."""
    sharding = state.sharding
    if sharding is not None:
        rows = sharding.rows()
        state = jax.tree.map(_placed, state, sharding.of(state))
        batch = jax.tree.map(lambda leaf: _placed(leaf, rows), batch)
    compiled = jax.jit(update, donate_argnums=0).lower(state, batch).compile()
    memory: Any = compiled.memory_analysis()
    total = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    total += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return total, collectives(compiled)


def _placed(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def _on_device(state: TrainState, tree: Any) -> int:
    """Bytes of a tree on one device."""
    if state.sharding is None:
        return sum(map(_size, jax.tree.leaves(tree)))
    sizes = jax.tree.map(_size, tree, state.sharding.of(tree))
    return sum(jax.tree.leaves(sizes))


def _size(leaf: Any, place: Any = None) -> int:
    shape = leaf.shape if place is None else place.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def _place(divided: tuple[Any, ...]) -> str:
    axes = sorted({str(axis) for axis in divided if axis is not None})
    return f"divided along {', '.join(axes)}" if axes else "whole"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.2f} MiB"


def _aligned(rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
