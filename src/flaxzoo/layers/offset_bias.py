"""Learnt biases of attention by how far apart two cells of a grid are, whichever comes first."""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.errors import ShapeError
from flaxzoo.layers.initializers import zeros
from flaxzoo.layers.pos_embed import Grid, resample_positions, square

NAME = "attention_biases"


def offset_bias(
    module: nn.Module, grid: Grid, heads: int, *, stride: int = 1, param_dtype: Any = jnp.float32
) -> jax.Array:
    """Returns what a grid's attention adds to its logits, from a module's own table.

    Graham et al. 2021 (LeViT), https://arxiv.org/abs/2104.01136, section 3.5. The parameter is
    ``attention_biases``, as in timm: a number for each distance of rows and of columns.

    Args:
      module: a bound module.
      grid: the rows and columns of the keys.
      heads: the number of heads.
      stride: the distance of the cells that ask.
      param_dtype: the dtype of the parameter ``[heads, rows * columns]``.

    Returns:
      ``[1, heads, Q, K]``, row by row of the grid.
    """
    table = jnp.asarray(module.param(NAME, zeros, (heads, math.prod(grid)), param_dtype))
    index = offset_index(tuple(grid), stride)
    return table.at[:, index].get(mode="promise_in_bounds")[None]


@functools.lru_cache(maxsize=64)
def offset_index(grid: Grid, stride: int = 1) -> np.ndarray:
    """Returns the column of the table for each query and key, int32 ``[Q, K]``.

    Args:
      grid: the rows and columns of the keys.
      stride: the distance of the cells that ask.
    """
    rows, columns = np.indices(grid)
    down, right = (
        np.abs(axis[::stride, ::stride].reshape(-1, 1) - axis.reshape(1, -1))
        for axis in (rows, columns)
    )
    index = (down * grid[1] + right).astype(np.int32)
    index.flags.writeable = False
    return index


def resample_offsets(table: np.ndarray, grid: Grid, *, old_grid: Grid | None = None) -> np.ndarray:
    """Returns the table of one grid for another, bicubic and antialiased.

    ``resize_rel_pos_bias_table_levit`` of timm is the same for square grids.

    Args:
      table: ``[heads, cells]``.
      grid: the rows and columns wanted.
      old_grid: those that there are; None where the grid is square.

    Returns:
      ``[heads, rows * columns]`` of the same dtype.

    Raises:
      ShapeError: ``old_grid`` is None and the table that of no square grid, or of other cells.
    """
    old = square(table.shape[1]) if old_grid is None else old_grid
    if math.prod(old) != table.shape[1]:
        raise ShapeError(
            f"attention_biases of a grid of {old[0]} x {old[1]} must have {math.prod(old)} "
            f"columns, got {list(table.shape)}"
        )
    return resample_positions(table.T[None], grid, old_grid=old)[0].T
