"""Maps cut into windows, which attend or mix by themselves, and put together again."""

from __future__ import annotations

import jax

from flaxzoo.errors import ShapeError


def split_windows(x: jax.Array, size: tuple[int, int]) -> jax.Array:
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


def join_windows(x: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Puts windows together again: the inverse of ``split_windows``.

    Args:
      x: windows ``[B * windows, rows, columns, C]``, in the order of ``split_windows``.
      shape: the height and width of the maps.

    Returns:
      ``[B, H, W, C]``.

    Raises:
      ShapeError: ``x`` is not of rank 4, or its windows do not fill maps of this shape.
    """
    height, width = shape
    rows, columns = x.shape[1:3] if x.ndim == 4 else (0, 0)
    count = 0 if not rows * columns else (height // rows) * (width // columns)
    if not count or height % rows or width % columns or x.shape[0] % count:
        raise ShapeError(
            f"windows must have shape [B * windows, rows, columns, C] and fill maps of {height} x "
            f"{width}, got {list(x.shape)}"
        )
    x = x.reshape(len(x) // count, height // rows, width // columns, rows, columns, x.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(len(x), height, width, x.shape[-1])
