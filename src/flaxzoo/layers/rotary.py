"""Rotary positions: queries and keys are turned by angles that grow with where a patch lies.

Su et al. 2021 (RoFormer), https://arxiv.org/abs/2104.09864; on grids, Heo et al. 2024
(https://arxiv.org/abs/2403.13298). The angles have timm's numbers, of its ``pos_embed_sincos``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_choice, check_number, check_size
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.checked import Checked
from flaxzoo.layers.pos_embed import Grid

COORDINATES = ("index", "centred", "mixed")
_ORDERS = ("yx", "xy")


class Rotation(flax.struct.PyTreeNode):
    """Sines and cosines of the angles by which pairs of units are turned.

    Attributes:
      sin: ``[1 or B, N, 1 or heads, D / 2]``, float32 at least; 0 for tokens of no patch.
      cos: likewise; 1 for these.
      halves: whether unit ``i`` is paired with ``i + D / 2``; or neighbours are, ``2 i`` and
        ``2 i + 1``.
    """

    sin: jax.Array
    cos: jax.Array
    halves: bool = flax.struct.field(pytree_node=False, default=False)

    def turn(self, x: jax.Array) -> jax.Array:
        """Turns queries or keys ``[B, N, heads, D]``, in float32 at least; the dtype stays.

        Raises:
          ShapeError: they are not of as many tokens as the angles.
        """
        if x.shape[1] != self.sin.shape[1]:
            raise ShapeError(
                f"tokens must be {self.sin.shape[1]}, as there are positions, got {x.shape[1]}: "
                "tokens of images of another size go through the first stage as well"
            )
        if self.halves:
            first, second = jnp.split(x, 2, axis=-1)
        else:
            first, second = x[..., 0::2], x[..., 1::2]
        turned = (
            first * self.cos - second * self.sin,
            second * self.cos + first * self.sin,
        )
        join = jnp.concatenate if self.halves else jnp.stack
        return join(turned, axis=-1).reshape(x.shape).astype(x.dtype)

    def take(self, tokens: jax.Array) -> Rotation:
        """Returns the angles of some tokens of each example, of numbers ``[B, K]``."""
        return self.replace(sin=self.sin[0][tokens], cos=self.cos[0][tokens])


@dataclasses.dataclass(frozen=True)
class TurnedFrequencies:
    """What the frequencies ``[2, depth, heads, D / 2]`` of mixed axes begin with.

    The first half are those of one axis and the second of the other, both turned by an angle that
    is drawn for each head.

    Attributes:
      temperature: by how much the lowest frequency is below the highest, nearly.
    """

    temperature: float = 10.0

    def __call__(self, key: Any, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        """Draws an array of this shape and dtype from ``key``."""
        bands = jnp.asarray(frequencies(shape[-1] // 2, self.temperature), dtype)
        angles = jax.random.uniform(key, (*shape[1:-1], 1), dtype) * (2 * math.pi)
        bands = bands.reshape((1,) * (angles.ndim - 1) + bands.shape)
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        along = jnp.concatenate([bands * cos, -bands * sin], axis=-1)
        across = jnp.concatenate([bands * sin, bands * cos], axis=-1)
        return jnp.stack([along, across])


class RotaryPositions(Checked):
    """The angles of a grid of patches, for each block of a network.

    In training the grid may be moved and stretched at random, the same for all examples and
    blocks, as DINOv3 does (https://arxiv.org/abs/2508.10104, section 3.2).

    Attributes:
      width: of a head, a multiple of 4.
      coordinates: ``"index"``, the patch's row and column (EVA-02); ``"centred"``, from -1 to 1
        over the image, times 2 pi (DINOv3); ``"mixed"``, rows and columns by frequencies that
        each head of each block learns for both: the parameter ``freqs``,
        ``[2, depth, heads, width / 2]``.
      temperature: by how much the lowest frequency is below the highest, nearly.
      offset: added to the coordinates; not to mixed ones.
      order: which of the coordinates is first, ``"yx"`` or ``"xy"``.
      reference: rows and columns of a grid that ``"index"`` stretches others to; None for none.
      halves: as a ``Rotation``'s; mixed ones pair neighbours.
      shift: in training, each axis is moved by a number up to this, either way; None for none.
      jitter: in training, each axis is stretched by a factor up to this or its inverse.
      rescale: likewise, both axes by one factor.
      depth: number of blocks, for ``"mixed"``.
      heads: number of heads, likewise.
      param_dtype: the dtype of the frequencies.
    """

    width: int
    coordinates: str = "index"
    temperature: float = 10000.0
    offset: float = 0.0
    order: str = "yx"
    reference: Grid | None = None
    halves: bool = False
    shift: float | None = None
    jitter: float | None = None
    rescale: float | None = None
    depth: int = 1
    heads: int = 1
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, grid: Grid, prefix: int = 0, train: bool = False) -> tuple[Rotation, ...]:
        """Returns the angles for each of ``depth`` blocks.

        Args:
          grid: rows and columns of patches.
          prefix: how many tokens of no patch stand before them.
          train: whether the coordinates are changed at random.
        """
        cells: Any = coordinates_of(
            tuple(grid), self.coordinates, self.offset, self.order, self.reference
        )
        if train and (self.shift, self.jitter, self.rescale) != (None, None, None):
            cells = self.changed(cells)
        if self.coordinates == "mixed":
            return self.mixed(cells, prefix)
        bands = frequencies(self.width // 4, self.temperature)
        if self.coordinates == "centred":
            bands = np.float32(2 * math.pi) * bands
        angles = (cells[:, :, None] * bands[None, None]).reshape(1, -1, 1, self.width // 2)
        return (_rotation(angles, prefix, self.halves),) * self.depth

    def mixed(self, cells: Any, prefix: int) -> tuple[Rotation, ...]:
        """Returns the angles by learnt frequencies."""
        shape = (2, self.depth, self.heads, self.width // 2)
        init = TurnedFrequencies(self.temperature)
        freqs = self.param("freqs", init, shape, self.param_dtype)
        freqs = freqs.astype(jnp.promote_types(freqs.dtype, jnp.float32))
        cells = jnp.asarray(cells, freqs.dtype)[:, :, None, None]
        return tuple(
            _rotation(
                (cells[:, 0] * freqs[:1, i] + cells[:, 1] * freqs[1:, i])[None], prefix, self.halves
            )
            for i in range(self.depth)
        )

    def changed(self, cells: np.ndarray) -> jax.Array:
        """Returns coordinates ``[N, 2]`` moved and stretched."""
        keys = jax.random.split(self.make_rng("dropout"), 3)
        moved = jnp.asarray(cells)
        if self.shift is not None:
            limit = self.shift
            moved = moved + jax.random.uniform(keys[0], (1, 2), moved.dtype, -limit, limit)
        for key, largest, axes in ((keys[1], self.jitter, 2), (keys[2], self.rescale, 1)):
            if largest is not None:
                limit = math.log(largest)
                factor = jnp.exp(jax.random.uniform(key, (1, axes), moved.dtype, -limit, limit))
                moved = moved * jnp.broadcast_to(factor, (1, 2))
        return moved

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_size("width", self.width)
        if self.width % 4:
            raise ArgumentError(
                f"heads of rotary positions must be of a multiple of 4 units, got {self.width}"
            )
        check_choice("coordinates", self.coordinates, COORDINATES)
        check_choice("order", self.order, _ORDERS)
        check_number("temperature", self.temperature, above=0)
        for name, least in (("shift", 0), ("jitter", 1), ("rescale", 1)):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), minimum=least)
        if self.coordinates == "mixed" and self.halves:
            raise ArgumentError("halves must be False for coordinates='mixed', got True")


def frequencies(count: int, temperature: float) -> np.ndarray:
    """Returns ``temperature ** -(i / count)`` for ``i`` up to ``count``, float32."""
    exponents = np.arange(count, dtype=np.float32) / np.float32(count)
    return np.float32(1) / np.power(np.float32(temperature), exponents)


@functools.lru_cache(maxsize=64)
def coordinates_of(
    grid: Grid,
    kind: str = "index",
    offset: float = 0.0,
    order: str = "yx",
    reference: Grid | None = None,
) -> np.ndarray:
    """Returns the coordinates of patches, row by row.

    Args:
      grid: rows and columns.
      kind: of ``COORDINATES``.
      offset: as of ``RotaryPositions``.
      order: likewise.
      reference: likewise.

    Returns:
      ``[rows * columns, 2]``, float32.
    """
    axes = []
    for axis, count in enumerate(grid):
        steps = np.arange(count, dtype=np.float32)
        if kind == "centred":
            steps = (steps + np.float32(0.5 + offset)) / np.float32(count) * 2 - 1
        elif kind == "index":
            steps = steps + np.float32(offset)
            if reference is not None:
                steps = steps / np.float32(count) * np.float32(reference[axis])
        axes.append(steps)
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.ascontiguousarray(cells if order == "yx" else cells[:, ::-1])


def _rotation(angles: Any, prefix: int, halves: bool) -> Rotation:
    """The rotation by angles ``[1, N, heads, D / 2]``, and by none of the tokens before."""
    numpy = np if isinstance(angles, np.ndarray) else jnp
    still = ((0, 0), (prefix, 0), (0, 0), (0, 0))
    sin = numpy.pad(numpy.sin(angles), still)
    cos = numpy.pad(numpy.cos(angles), still, constant_values=1)
    return Rotation(jnp.asarray(sin), jnp.asarray(cos), halves)
