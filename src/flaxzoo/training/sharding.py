"""Where a training state and its batches lie on several devices: the mesh, the rules, the placing.

The devices form a ``jax.sharding.Mesh``. Batches are divided along its axis ``"data"``. Parameters
follow rules, and all that belongs to a parameter (its gradient, its moments, its average) lies as
it does. The compiled steps are those of one device: ``jax.jit`` over a mesh of automatic axes puts
the communication in, and here is said only where arrays begin and end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flaxzoo._meshes import DATA, batches_on
from flaxzoo._spread import local_range, put, put_part
from flaxzoo._trees import map_by_path
from flaxzoo.data.arrays import filled_up, next_multiple
from flaxzoo.data.batch import Batch
from flaxzoo.errors import ArgumentError, DataError, ShapeError

# From a path to the leaf's shape and to what each of its dimensions is divided along.
Specs = tuple[tuple[str, tuple[int, ...], tuple[Any, ...]], ...]


@dataclasses.dataclass(frozen=True)
class StateSharding:
    """How a training state is divided among the devices of a mesh, and batches with it.

    Attributes:
      mesh: of automatic axes, ``"data"`` among them.
      specs: for each parameter its path, its shape, and for each of its dimensions the axis of the
        mesh that divides it, or None.
    """

    mesh: Mesh
    specs: Specs

    def __reduce__(self) -> Any:
        return _restored, (self.mesh, self.specs)

    def __deepcopy__(self, memo: dict[int, Any]) -> StateSharding:
        return self

    @property
    def shares(self) -> int:
        """How many parts a batch is divided into."""
        return self.mesh.shape[DATA]

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        """The sharding of what is whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @functools.cached_property
    def _by_path(self) -> dict[str, tuple[tuple[int, ...], tuple[Any, ...]]]:
        return {path: (shape, spec) for path, shape, spec in self.specs if any(spec)}

    def of(self, tree: Any) -> Any:
        """The sharding of each leaf of a state, or of a part of one.

        A leaf whose path ends in that of a parameter and that has its shape, such as a moment or
        an average, lies as the parameter does; so does one with a further axis in front, such as
        the memory of L-BFGS. All else (counters, keys, running statistics, the factors of
        Adafactor) is whole on every device.

        Args:
          tree: any pytree of arrays, or of their shapes.

        Returns:
          The tree with a ``NamedSharding`` at each leaf.
        """
        return map_by_path(lambda path, leaf: self._of_leaf(path, np.shape(leaf)), tree)

    def _of_leaf(self, path: str, shape: tuple[int, ...]) -> NamedSharding:
        parts = path.split("/")
        for start in range(len(parts)):
            found = self._by_path.get("/".join(parts[start:]))
            if found is not None and found[0] == shape:
                return self._named(found[1])
            if found is not None and found[0] == shape[1:]:
                return self._named((None, *found[1]))
        return self.replicated

    def _named(self, spec: tuple[Any, ...]) -> NamedSharding:
        # Without the dimensions at the end that nothing divides, as a compiled step returns it:
        # another form would be another sharding, for which the next step compiles anew.
        while spec and spec[-1] is None:
            spec = spec[:-1]
        return NamedSharding(self.mesh, PartitionSpec(*spec))

    def placed(self, tree: Any) -> Any:
        """The arrays of a state, or of a part of one, where they belong; one leaf at a time."""
        return jax.tree.map(put, tree, self.of(tree))

    def constrained(self, tree: Any) -> Any:
        """The same within a compiled step: its results lie here, not where the compiler likes."""
        return jax.lax.with_sharding_constraint(tree, self.of(tree))

    def everywhere(self, tree: Any) -> Any:
        """Arrays, such as metrics, whole on every device; within a compiled step as well."""
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
            return jax.lax.with_sharding_constraint(tree, self.replicated)
        return jax.tree.map(lambda leaf: put(leaf, self.replicated), tree)

    def rows(self, axis: int = 0) -> NamedSharding:
        """The sharding of an array one of whose dimensions is the batch."""
        return self._named((*(None,) * axis, DATA))

    def by_rows(self, tree: Any) -> Any:
        """Within a compiled step, arrays ``[B, ...]`` divided along the batch; others stay."""

        def divided(leaf: Any) -> Any:
            if not leaf.ndim or leaf.shape[0] % self.shares:
                return leaf
            return jax.lax.with_sharding_constraint(leaf, self.rows())

        return jax.tree.map(divided, tree)

    def rounded(self, size: int) -> int:
        """The next number of examples that the devices divide."""
        return next_multiple(size, self.shares)

    def padded(self, batch: Batch, *, axis: int = 0, whole: bool = False) -> Batch:
        """A batch of as many examples as the devices divide: further ones have the weight 0.

        Args:
          batch: the batch.
          axis: that of the examples: 1 in several batches ``[K, B, ...]``.
          whole: whether there must be an example for each device.

        Raises:
          DataError: ``whole``, and there are fewer.
        """
        size = jax.tree.leaves(batch.inputs)[0].shape[axis]
        if whole:
            self.check_size(size, "the batch")
        if size == self.rounded(size):
            return batch
        if axis:
            count = len(jax.tree.leaves(batch.inputs)[0])
            each = (jax.tree.map(lambda x, i=i: x[i], batch) for i in range(count))
            return jax.tree.map(lambda *x: np.stack(x), *map(self.padded, each))
        return filled_up(batch, self.rounded(size))

    def check_size(self, size: int, name: str) -> None:
        """Refuses batches that leave devices without an example.

        Raises:
          DataError: there are fewer examples than devices along the axis ``"data"``.
        """
        if size < self.shares:
            raise DataError(
                f"{name} has {size} example{'s' if size > 1 else ''}, fewer than the {self.shares} "
                f"devices that batches are divided among: take a batch_size of at least "
                f"{self.shares}, or fewer devices (devices={size})"
            )

    def placed_batch(self, batch: Any, axis: int = 0) -> Any:
        """A batch's arrays, each device's examples on it.

        Args:
          batch: arrays whose batch axis is a multiple of the devices.
          axis: which one that is: 1 in a group of batches ``[K, B, ...]``.

        Raises:
          ShapeError: an array has been divided among devices in another way, or cannot be.
        """
        size = jax.tree.leaves(batch)[0].shape[axis]
        if size % self.shares:
            raise ShapeError(
                f"a batch of {size} examples cannot be divided among {self.shares} devices, and "
                "the loss or the optimizer takes no further examples of weight 0: use a batch "
                f"size that {self.shares} divides, and drop_last=True in flaxzoo.data.ArrayDataset"
            )

        def placed(leaf: Any) -> Any:
            _check_placed(leaf, sharding)
            return put(leaf, sharding)

        sharding = self.rows(axis)
        return jax.tree.map(placed, batch)

    @property
    def several_processes(self) -> bool:
        """Whether some of the devices are those of other processes."""
        return not self.replicated.is_fully_addressable

    def local_range(self, size: int) -> tuple[int, int]:
        """Which examples of a batch this process's devices have: the first, and the one behind."""
        return local_range(self.rows(), size)

    def placed_part(self, batch: Any, axis: int = 0) -> Any:
        """What ``placed_batch`` makes of a whole batch, from this process's part of it.

        Args:
          batch: NumPy arrays with the examples of this process's devices; others have as many.
          axis: that of the examples.
        """
        sharding = self.rows(axis)
        begin, end = self.local_range(self.shares)
        size = jax.tree.leaves(batch)[0].shape[axis] * self.shares // (end - begin)

        def placed(leaf: Any) -> Any:
            shape = (*leaf.shape[:axis], size, *leaf.shape[axis + 1 :])
            return put_part(leaf, sharding, shape)

        return jax.tree.map(placed, batch)


@contextlib.contextmanager
def divided_outputs(sharding: StateSharding | None, examples: int) -> Iterator[None]:
    """Within it, what modules compute is divided along the batch, however their parameters are.

    Else the compiler may divide what a layer returns as it does the layer's kernel, and bring the
    examples of all devices together for it.

    Args:
      sharding: that of the state.
      examples: in a batch; an array whose first axis is a multiple of them begins with the batch.
    """
    if sharding is None:
        yield
        return

    def divided(leaf: Any) -> Any:
        batched = isinstance(leaf, jax.Array) and leaf.ndim > 1 and leaf.shape[0] % examples == 0
        return sharding.by_rows(leaf) if batched else leaf

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        outputs = next_fun(*args, **kwargs)
        if context.method_name != "__call__":
            return outputs
        return jax.tree.map(divided, outputs)

    with contextlib.ExitStack() as stack:
        stack.enter_context(batches_on(sharding.mesh))
        if sharding._by_path:
            stack.enter_context(nn.intercept_methods(intercept))
        yield


def _check_placed(leaf: Any, sharding: NamedSharding) -> None:
    """Refuses a batch that lies on several devices in another way than the steps take it.

    Raises:
      ShapeError: it does.
    """
    if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer):
        return
    own = leaf.sharding
    here = own.device_set == sharding.device_set and (
        own.is_fully_replicated or own.is_equivalent_to(sharding, leaf.ndim)
    )
    if len(own.device_set) > 1 and not here:
        raise ShapeError(
            f"the batch lies on {len(own.device_set)} devices already, as {_shown(own)}, and the "
            f"state takes its examples as {_shown(sharding)}: pass NumPy arrays, which are placed "
            "for you, or place them with jax.device_put(batch, NamedSharding("
            "state.sharding.mesh, PartitionSpec('data')))"
        )


def _shown(sharding: Any) -> str:
    spec, mesh = getattr(sharding, "spec", None), getattr(sharding, "mesh", None)
    if spec is None or mesh is None:
        return str(sharding)
    axes = ", ".join(f"{name}: {size}" for name, size in mesh.shape.items())
    return f"PartitionSpec({', '.join(map(repr, spec))}) of a mesh ({axes})"


def check_mesh(state: Any) -> None:
    """Refuses a state whose arrays have been moved away from its own mesh.

    Args:
      state: a ``TrainState`` with a sharding; arrays that are being traced pass.

    Raises:
      ArgumentError: they have.
    """
    step, mesh = state.step, state.sharding.mesh
    if isinstance(step, jax.core.Tracer) or not isinstance(step, jax.Array):
        return
    if getattr(step.sharding, "mesh", None) != mesh:
        lies, belongs = (
            sorted(device.id for device in devices)
            for devices in (step.sharding.device_set, mesh.devices.flat)
        )
        raise ArgumentError(
            f"the state is of another mesh: its arrays lie on the devices {lies}, and it was made "
            f"for {belongs}: state.sharding.placed(state) brings it back, and a state for other "
            "devices is made by flaxzoo.create_train_state(..., devices=...)"
        )


def each_axis(axes: Any) -> tuple[str, ...]:
    """The axes that divide a dimension: none, one or several."""
    if axes is None:
        return ()
    return (axes,) if isinstance(axes, str) else tuple(axes)


def _restored(mesh: Mesh, specs: Specs) -> StateSharding | None:
    """A sharding that another process wrote, on the devices that there are."""
    if mesh.size == 1:
        return None

    def fits(n: int, axes: Any) -> bool:
        return n % math.prod(mesh.shape[axis] for axis in each_axis(axes)) == 0

    kept = (
        (path, shape, tuple(a if fits(n, a) else None for n, a in zip(shape, spec, strict=True)))
        for path, shape, spec in specs
    )
    return StateSharding(mesh, tuple(kept))
