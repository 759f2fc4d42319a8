"""Learnt biases of attention by the relative position of two patches on their grid."""

from __future__ import annotations

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.errors import ShapeError
from flaxzoo.layers.checked import Checked
from flaxzoo.layers.initializers import FanIn, Normal, plain_bias, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.pos_embed import Grid, square

NAME = "relative_position_bias_table"


def relative_bias(
    module: nn.Module,
    grid: Grid,
    heads: int,
    *,
    class_token: bool = False,
    init: Any = zeros,
    param_dtype: Any = jnp.float32,
) -> jax.Array:
    """Returns what a grid's attention adds to its logits, from a module's own table.

    Bao et al. 2021 (BEiT), https://arxiv.org/abs/2106.08254; Liu et al. 2021 (Swin),
    https://arxiv.org/abs/2103.14030. The parameter is ``relative_position_bias_table``, as in timm.

    Args:
      module: a bound module.
      grid: the rows and columns of patches.
      heads: the number of heads.
      class_token: whether a class token stands before the patches.
      init: the parameter's initialiser.
      param_dtype: the dtype of the parameter ``[positions, heads]``.

    Returns:
      ``[1, heads, N, N]`` for queries and keys, where N counts the patches and the class token.
    """
    shape = (table_length(grid, class_token), heads)
    table = jnp.asarray(module.param(NAME, init, shape, param_dtype))
    index = relative_index(tuple(grid), class_token)
    return jnp.moveaxis(table.at[index].get(mode="promise_in_bounds"), -1, 0)[None]


class RelativeTable(Checked):
    """The biases of ``relative_bias`` as a module by itself, as timm's ``RelPosBias``.

    Attributes:
      heads: the number of heads.
      init: the initialiser of the table.
      param_dtype: its dtype.
    """

    heads: int
    init: Any = Normal(0.02)
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, grid: Grid, class_token: bool = False, train: bool = False) -> jax.Array:
        """Returns the biases ``[1, heads, N, N]``.

        Args:
          grid: the rows and columns of patches.
          class_token: whether a class token stands before them.
          train: plays no part.
        """
        del train
        options = {"init": self.init, "param_dtype": self.param_dtype}
        return relative_bias(self, grid, self.heads, class_token=class_token, **options)


class RelativeMap(RelativeTable):
    """The same with a table that lies on its grid and is read from the key to the query.

    Tu et al. 2022 (MaxViT), https://arxiv.org/abs/2204.01697, in the form of its authors and of
    timm's ``RelPosBiasTf``; the table is ``[2 rows - 1, 2 columns - 1, heads]``.
    """

    @nn.compact
    def __call__(self, grid: Grid, class_token: bool = False, train: bool = False) -> jax.Array:
        """Returns the biases ``[1, heads, N, N]``, of grids without a class token."""
        del class_token, train
        shape = (2 * grid[0] - 1, 2 * grid[1] - 1, self.heads)
        table = jnp.asarray(self.param(NAME, self.init, shape, self.param_dtype))
        index = relative_index(tuple(grid)).T
        rows = table.reshape(-1, self.heads).at[index].get(mode="promise_in_bounds")
        return jnp.moveaxis(rows, -1, 0)[None]


class RelativeMlp(Layer):
    """Biases that two layers, ``mlp``, make of the logarithms of how far two patches are apart.

    Liu et al. 2021 (Swin V2, section 3.3), https://arxiv.org/abs/2111.09883, in the form of timm's
    ``RelPosMlp``. A class token has none.

    Attributes:
      heads: the number of heads.
      hidden: the units between the layers.
      dropout: the rate at which these are dropped.
      kernel_init: the initialiser of the kernels, by default that of PyTorch's layers.
      bias_init: that of the biases, likewise.
    """

    heads: int
    hidden: int = 128
    dropout: float = 0.125
    kernel_init: Any = FanIn()
    bias_init: Any = plain_bias

    @nn.compact
    def __call__(self, grid: Grid, class_token: bool = False, train: bool = False) -> jax.Array:
        """Returns the biases ``[1, heads, N, N]``.

        Args:
          grid: the rows and columns of patches.
          class_token: whether a class token stands before them.
          train: whether units are dropped.
        """
        mlp = Mlp(
            self.hidden,
            self.heads,
            activation="relu",
            dropout=self.dropout,
            drop_outputs=False,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            name="mlp",
            **self.dtypes,
        )
        biases = mlp(jnp.asarray(log_distances(tuple(grid)), self.param_dtype), train)
        index = relative_index(tuple(grid))
        biases = jnp.moveaxis(biases.at[index].get(mode="promise_in_bounds"), -1, 0)[None]
        return jnp.pad(biases, ((0, 0), (0, 0), *((int(class_token), 0),) * 2))


@functools.lru_cache(maxsize=64)
def log_distances(grid: Grid) -> np.ndarray:
    """Returns ``sign(x) log(1 + |x|)`` of each relative position, float32 ``[positions, 2]``.

    Args:
      grid: the rows and columns of patches.
    """
    axes = (np.arange(1 - count, count, dtype=np.float32) for count in grid)
    steps = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.sign(steps) * np.log1p(np.abs(steps))


def table_length(grid: Grid, class_token: bool) -> int:
    """Returns how many relative positions a grid has.

    A class token adds three: to a patch, from a patch, and to itself.
    """
    rows, columns = grid
    return (2 * rows - 1) * (2 * columns - 1) + 3 * class_token


@functools.lru_cache(maxsize=64)
def relative_index(grid: Grid, class_token: bool = False) -> np.ndarray:
    """Returns the row of the table for each query and key, int32 ``[N, N]``.

    Args:
      grid: the rows and columns of patches.
      class_token: whether a class token stands before them.
    """
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    down = rows[:, None] - rows + grid[0] - 1
    right = columns[:, None] - columns + grid[1] - 1
    index = (down * (2 * grid[1] - 1) + right).astype(np.int32)
    if class_token:
        count = table_length(grid, class_token)
        index = np.pad(index, ((1, 0), (1, 0)))
        index[0], index[:, 0] = count - 3, count - 2
        index[0, 0] = count - 1
    index.flags.writeable = False
    return index


def resample_table(
    table: np.ndarray, grid: Grid, *, old_grid: Grid | None = None, class_token: bool = False
) -> np.ndarray:
    """Returns the table of one grid for another, as timm and BEiT's authors resample it.

    Old positions are taken to lie ever farther apart with their distance from 0, in a geometric
    progression that reaches as far as the new grid; between them values are interpolated linearly,
    and beyond them constant. ``resize_rel_pos_bias_table`` of timm is the same.

    Args:
      table: ``[positions, heads]``.
      grid: the rows and columns wanted.
      old_grid: those that there are; None where the grid is square.
      class_token: whether the last three positions are a class token's, which stay as they are.

    Returns:
      ``[positions, heads]`` of the same dtype.

    Raises:
      ShapeError: ``old_grid`` is None and the grid not square, or the table is not of its length.
    """
    count = table.shape[0] - 3 * class_token
    old = square(count) if old_grid is None else (2 * old_grid[0] - 1, 2 * old_grid[1] - 1)
    if math.prod(old) != count:
        raise ShapeError(
            f"a table of relative positions of a grid of {(old[0] + 1) // 2} x "
            f"{(old[1] + 1) // 2} must have {math.prod(old) + 3 * class_token} rows, got "
            f"{list(table.shape)}"
        )
    new = (2 * grid[0] - 1, 2 * grid[1] - 1)
    if old == new:
        return table
    cells = table[:count].reshape(*old, -1).astype(np.float32)
    down, right = (_weights(m, n) for m, n in zip(old, new, strict=True))
    cells = np.einsum("wv,hvc->hwc", right, np.einsum("hg,gvc->hvc", down, cells))
    patches = cells.reshape(math.prod(new), -1).astype(table.dtype)
    return np.concatenate([patches, table[count:]])


def _weights(old: int, new: int) -> np.ndarray:
    """Returns how much each of ``old`` positions counts in each of ``new``, ``[new, old]``."""
    positions = _positions(old, new)
    wanted = np.arange(new, dtype=np.float32) - new // 2
    return np.stack([np.interp(wanted, positions, row) for row in np.eye(old)], 1, dtype=np.float32)


def _positions(old: int, new: int) -> np.ndarray:
    """Returns where ``old`` positions lie on the axis of ``new`` ones, 0 in the middle."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (old // 2)) / (1 - ratio) > new // 2:
            high = ratio
        else:
            low = ratio
    steps = np.cumsum(ratio ** np.arange(old // 2))
    return np.concatenate([-steps[::-1], [0], steps]).astype(np.float32)
