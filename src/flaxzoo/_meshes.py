"""Arrays on meshes whose axes are explicit, which is the kind that ``jax.make_mesh`` makes.

Where such arrays meet others in a computation, JAX asks its author where the results lie. A step
cannot know; on a mesh of automatic axes the compiler says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# The axis of a mesh along which batches are divided.
DATA = "data"


# The mesh along whose data axis the batch is divided that is being traced; None for one device. It
# is part of the key of JAX's caches.
_BATCHES: Any = jax.make_user_context(None)


def batches_on(mesh: Mesh) -> AbstractContextManager[None]:
    """A context in which layers are traced for batches that are divided among devices."""
    return _BATCHES(mesh)


def mesh_of_batches() -> Mesh | None:
    """The mesh that ``batches_on`` was told of here."""
    return _BATCHES.value


def is_explicit(tree: Any) -> bool:
    """Whether some array, or shape, of a tree is on a mesh with explicit axes."""
    return any(map(_has_explicit_axes, jax.tree.leaves(tree)))


def beside(tree: Any, other: Any) -> Any:
    """Arrays that go into one computation with others: on automatic axes, unless those are not.

    Args:
      tree: arrays; what is none stays. Nothing is moved.
      other: the arrays that they meet, or their shapes; one that has been placed on a mesh with
        explicit axes by hand is to be computed with there.
    """
    if not is_explicit(tree) or is_explicit(other):
        return tree
    return jax.tree.map(lambda x: _with_auto_axes(x) if _has_explicit_axes(x) else x, tree)


def with_auto_axes(mesh: Mesh) -> Mesh:
    """The mesh, with axes along which the compiler places what a computation makes."""
    types = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=types)


def of_shape(axes: Mapping[str, int]) -> Mesh:
    """The mesh of these axes and sizes, or where there are fewer devices one of all of those.

    Args:
      axes: from the names of axes to their sizes. Where there are fewer devices the first axis has
        all of them, and the others are of size 1.
    """
    devices = jax.devices()
    sizes = tuple(axes.values())
    if math.prod(sizes) > len(devices):
        sizes = (len(devices), *(1,) * (len(sizes) - 1))
    grid = np.array(devices[: math.prod(sizes)]).reshape(sizes)
    return with_auto_axes(Mesh(grid, tuple(axes)))


def rows_beside(tree: Any) -> NamedSharding | None:
    """How a batch is divided that meets arrays on a mesh with an axis ``"data"``; else None."""
    for leaf in jax.tree.leaves(tree):
        mesh = getattr(getattr(leaf, "sharding", None), "mesh", None)
        if isinstance(mesh, Mesh) and mesh.shape.get(DATA, 1) > 1:
            return NamedSharding(mesh, PartitionSpec(DATA))
    return None


def shape_of(array: jax.Array) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array, and where it lies if that is on a mesh with explicit axes."""
    sharding = array.sharding if _has_explicit_axes(array) else None
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _has_explicit_axes(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) or isinstance(leaf, jax.core.Tracer):
        return False
    mesh = getattr(leaf.sharding, "mesh", None)
    return mesh is not None and AxisType.Explicit in mesh.axis_types


def _with_auto_axes(array: jax.Array) -> jax.Array:
    sharding: Any = array.sharding
    return jax.device_put(array, NamedSharding(with_auto_axes(sharding.mesh), sharding.spec))
