"""Maps cut into windows, which attend or mix by themselves, and put together again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_kernel, is_size
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.pos_embed import Grid

# What is added to the logit of a token that is none of the window's; timm's and the authors'.
UNSEEN = -100.0


def split_windows(x: jax.Array, size: Grid) -> jax.Array:
    """Cuts maps into windows that do not overlap.

    Liu et al. 2021 (Swin), https://arxiv.org/abs/2103.14030, section 3.2; ``window_partition`` of
    timm is the same.

    Args:
      x: maps ``[B, H, W, C]``.
      size: the rows and columns of a window.

    Returns:
      ``[B * windows, rows, columns, C]``: the windows of an image row by row, image by image.

    Raises:
      ShapeError: ``x`` is not of rank 4, or not of whole windows.
    """
    rows, columns = size
    if x.ndim != 4 or x.shape[1] % rows or x.shape[2] % columns:
        raise ShapeError(
            f"maps must have shape [B, H, W, C] of whole windows of {rows} x {columns}, got "
            f"{list(x.shape)}"
        )
    batch, height, width, channels = x.shape
    down, across = height // rows, width // columns
    x = x.reshape(batch, down, rows, across, columns, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch * down * across, rows, columns, channels)


def join_windows(x: jax.Array, shape: Grid) -> jax.Array:
    """Puts windows together again: the inverse of ``split_windows``.

    Args:
      x: windows ``[B * windows, rows, columns, C]``, in the order of ``split_windows``.
      shape: the height and width of the maps.

    Returns:
      ``[B, H, W, C]``.

    Raises:
      ShapeError: ``x`` is not of rank 4, or its windows do not fill maps of this shape.
    """
    x = x.reshape(-1, *_counts(x, shape, "windows"), *x.shape[1:])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), *shape, x.shape[-1])


def split_grid(x: jax.Array, size: Grid) -> jax.Array:
    """Cuts maps into grids whose pixels lie as far apart as the map has room for.

    Tu et al. 2022 (MaxViT), https://arxiv.org/abs/2204.01697, section 3.2; ``grid_partition`` of
    timm is the same.

    Args:
      x: maps ``[B, H, W, C]``.
      size: the rows and columns of a grid.

    Returns:
      ``[B * grids, rows, columns, C]``: the grids of an image by the row and column of their first
      pixels, image by image.

    Raises:
      ShapeError: ``x`` is not of rank 4, or its sides are no multiples of the grid's.
    """
    rows, columns = size
    if x.ndim != 4 or x.shape[1] % rows or x.shape[2] % columns:
        raise ShapeError(
            f"maps must have shape [B, H, W, C], multiples of a grid of {rows} x {columns}, got "
            f"{list(x.shape)}"
        )
    batch, height, width, channels = x.shape
    down, across = height // rows, width // columns
    x = x.reshape(batch, rows, down, columns, across, channels)
    return x.transpose(0, 2, 4, 1, 3, 5).reshape(batch * down * across, rows, columns, channels)


def join_grid(x: jax.Array, shape: Grid) -> jax.Array:
    """Puts grids together again: the inverse of ``split_grid``.

    Args:
      x: grids ``[B * grids, rows, columns, C]``, in the order of ``split_grid``.
      shape: the height and width of the maps, multiples of the grid's.

    Returns:
      ``[B, H, W, C]``.

    Raises:
      ShapeError: ``x`` is not of rank 4, or its grids do not fill maps of this shape.
    """
    down, across = _counts(x, shape, "grids")
    x = x.reshape(-1, down, across, *x.shape[1:])
    return x.transpose(0, 3, 1, 4, 2, 5).reshape(x.shape[0], *shape, x.shape[-1])


def _counts(x: jax.Array, shape: Grid, words: str) -> Grid:
    """Returns how many windows or grids fill a map, down and across.

    Raises:
      ShapeError: ``x`` is not of rank 4, or they do not fill maps of this shape.
    """
    height, width = shape
    rows, columns = x.shape[1:3] if x.ndim == 4 else (0, 0)
    count = 0 if not rows * columns else (height // rows) * (width // columns)
    if not count or height % rows or width % columns or x.shape[0] % count:
        raise ShapeError(
            f"{words} must have shape [B * {words}, rows, columns, C] and fill maps of {height} x "
            f"{width}, got {list(x.shape)}"
        )
    return height // rows, width // columns


def over_windows(
    x: jax.Array, window: Grid, shift: Grid, mix: Callable[[jax.Array, Any], jax.Array]
) -> jax.Array:
    """Mixes the tokens of each window, of maps that are rolled by ``shift`` before and back behind.

    Liu et al. 2021 (Swin), https://arxiv.org/abs/2103.14030, section 3.2. Maps that windows do not
    fit are filled up with zeros, below and at the right, which are attended to as timm's.

    Args:
      x: maps ``[B, H, W, C]``.
      window: the rows and columns of a window.
      shift: by how many rows and columns windows are shifted.
      mix: maps windows ``[B * windows, tokens, C]`` to the same shape; it gets what is added to
        attention's logits as well, float32 ``[B * windows, 1, tokens, tokens]`` or None, by
        which tokens that the roll made neighbours do not see each other.

    Returns:
      ``[B, H, W, C]``.
    """
    height, width = x.shape[1:3]
    if any(shift):
        x = jnp.roll(x, (-shift[0], -shift[1]), (1, 2))
    missing = [-length % side for length, side in zip((height, width), window, strict=True)]
    if any(missing):
        x = jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
    size = (height + missing[0], width + missing[1])
    mask = _mask(x.shape[0], size, window, shift) if any(shift) else None
    windows = split_windows(x, window)
    tokens = mix(windows.reshape(len(windows), -1, windows.shape[-1]), mask)
    x = join_windows(tokens.reshape(windows.shape), size)
    if any(missing):
        x = x[:, :height, :width]
    return jnp.roll(x, shift, (1, 2)) if any(shift) else x


def _mask(batch: int, size: Grid, window: Grid, shift: Grid) -> jax.Array:
    """Returns what is added to the logits of shifted windows, ``[B * windows, 1, N, N]``."""
    # Compared on the device: as a constant this would be megabytes of every program.
    regions = jnp.asarray(shift_regions(size, window, shift))
    alike = regions[:, :, None] == regions[:, None, :]
    mask = jnp.where(alike, 0.0, UNSEEN).astype(jnp.float32)
    return jnp.tile(mask[:, None], (batch, 1, 1, 1))


@functools.lru_cache(maxsize=128)
def shift_regions(size: Grid, window: Grid, shift: Grid) -> np.ndarray:
    """Returns the region of each token of each shifted window, int32 ``[windows, tokens]``.

    Tokens of one window that were no neighbours before the roll are of different regions.

    Args:
      size: the height and width of the map, multiples of the window's.
      window: the rows and columns of a window.
      shift: by how many rows and columns it is shifted.
    """
    rows, columns = (
        (np.arange(length) >= length - side).astype(np.int32)
        + (np.arange(length) >= length - by if by else np.ones(length, bool))
        for length, side, by in zip(size, window, shift, strict=True)
    )
    regions = (3 * rows[:, None] + columns).reshape(size[0] // window[0], window[0], -1, window[1])
    regions = np.ascontiguousarray(regions.swapaxes(1, 2).reshape(-1, window[0] * window[1]))
    regions.flags.writeable = False
    return regions


def fit_window(size: Grid, window: Grid, *, always: bool = False) -> tuple[Grid, Grid]:
    """Returns the window of a map, and the shift of every other block, by half a window.

    Along a side where a map is no larger than the window, the window is as large as the map and
    not shifted, as in timm.

    Args:
      size: the height and width of the map.
      window: the rows and columns wanted.
      always: whether small maps are filled up to the window instead.
    """
    half = (window[0] // 2, window[1] // 2)
    if always:
        return window, half
    sides = [min(length, side) for length, side in zip(size, window, strict=True)]
    shift = [
        0 if length <= side else by for length, side, by in zip(size, sides, half, strict=True)
    ]
    return (sides[0], sides[1]), (shift[0], shift[1])


def stage_windows(window_size: int | Sequence[Any], stages: int) -> tuple[Grid, ...]:
    """Returns the rows and columns of the windows of each stage.

    Args:
      window_size: one number or one pair ``(rows, columns)`` for all stages, or one of these for
        each; two numbers are a pair.
      stages: how many there are.

    Raises:
      ArgumentError: it is none of these.
    """
    one = is_size(window_size) or (
        isinstance(window_size, tuple | list) and len(window_size) == 2 and is_size(window_size[0])
    )
    if one:
        return (check_kernel("window_size", window_size),) * stages
    if not isinstance(window_size, tuple | list) or len(window_size) != stages:
        raise ArgumentError(
            "window_size must be an int of at least 1, a pair of them, or one of these for each "
            f"of {stages} stages, got {window_size!r}"
        )
    return tuple(check_kernel("window_size", side) for side in window_size)
