"""Learnt positions of a grid of patches, and their resampling for grids of another size."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_choice
from flaxzoo.errors import ShapeError
from flaxzoo.layers.initializers import Normal

Grid = tuple[int, int]

_INIT = Normal(0.02)


def learnt_positions(
    module: nn.Module,
    grid: Grid,
    features: int,
    *,
    prefix: int = 0,
    old_grid: Grid | None = None,
    name: str = "pos_embed",
    init: Any = _INIT,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """Returns a module's own parameter of positions, for this grid.

    Args:
      module: a bound module; the parameter is its own, as in timm, not a submodule's.
      grid: the rows and columns of patches.
      features: the width of a position.
      prefix: the number of positions at the beginning that belong to no patch.
      old_grid: the grid that the parameter is for. With None a fresh one is for ``grid``; another
        one is, too, if it has as many cells, and else must be of a square grid.
      name: the parameter's name.
      init: the parameter's initialiser.
      dtype: the parameter's dtype.

    Returns:
      ``[1, prefix + rows * columns, features]``.

    Raises:
      ShapeError: the parameter is for another number of patches than ``old_grid`` has.
    """
    positions: Any
    if module.has_variable("params", name):
        # param() would refuse another size than that of this grid.
        positions = module.get_variable("params", name)
    else:
        count = prefix + math.prod(grid if old_grid is None else old_grid)
        positions = module.param(name, init, (1, count, features), dtype)
    if old_grid is None and positions.shape[1] == prefix + math.prod(grid):
        return positions
    return resample_positions(positions, grid, prefix=prefix, old_grid=old_grid)


def resample_positions(
    positions: Any,
    grid: Grid,
    *,
    prefix: int = 0,
    old_grid: Grid | None = None,
    method: str = "bicubic",
) -> Any:
    """Returns the positions of one grid for another grid, as timm resamples them.

    The weights are those of ``torch.nn.functional.interpolate(mode="bicubic", antialias=True)``:
    Keys's kernel with a = -0.5, as wide as the pixels of the smaller grid. NumPy arrays stay on the
    host, JAX's may be traced. ``resample_abs_pos_embed`` of timm is the same.

    Args:
      positions: ``[1, prefix + old rows * old columns, C]``.
      grid: the rows and columns wanted.
      prefix: the number of positions at the beginning that belong to no patch; they stay as they
        are.
      old_grid: the rows and columns that there are; None where the grid is square.
      method: ``"bicubic"``; ``"bilinear"``: between the nearest two, not antialiased, as
        FlexiViT's weights want it; ``"aligned"``: likewise, with the first and the last cells of
        both grids on one another; or ``"cubic"``: through the nearest four, not antialiased, with
        a = -0.75, as PyTorch's ``mode="bicubic"`` without further words.

    Returns:
      ``[1, prefix + rows * columns, C]``, of the same dtype.

    Raises:
      ValueError: there is no such ``method``.
      ShapeError: ``old_grid`` is None and the grid not square, or it has another number of cells.
    """
    weights = resize_weights(method)
    count = positions.shape[1] - prefix
    old = square(count) if old_grid is None else tuple(old_grid)
    if math.prod(old) != count:
        raise ShapeError(
            f"positions of a grid of {old[0]} x {old[1]} must be {math.prod(old)} and {prefix} of "
            f"no patch, got {list(positions.shape)}"
        )
    if old == tuple(grid):
        return positions
    numpy = np if isinstance(positions, np.ndarray) else jnp
    dtype = positions.dtype
    wide = numpy.promote_types(dtype, np.float32)
    width = positions.shape[-1]
    cells = positions[0, prefix:].reshape(*old, width).astype(wide)
    rows, columns = (weights(m, n).astype(wide) for m, n in zip(old, grid, strict=True))
    cells = numpy.einsum("wv,hvc->hwc", columns, cells, **_precise(numpy))
    cells = numpy.einsum("hg,gwc->hwc", rows, cells, **_precise(numpy))
    patches = cells.reshape(1, -1, width).astype(dtype)
    return numpy.concatenate([positions[:, :prefix], patches], axis=1)


def resize_weights(method: str) -> Callable[[int, int], np.ndarray]:
    """Returns a function of two lengths, ``(old, new)``, to the weights of a resize along an axis.

    Args:
      method: ``"bicubic"``, ``"bilinear"``, ``"aligned"`` or ``"cubic"``; see
        ``resample_positions``.

    Returns:
      The function, whose arrays ``[new, old]``, float32, say how much each old cell counts in each
      new one.

    Raises:
      ValueError: there is no such ``method``.
    """
    return _METHODS[check_choice("method", method, _METHODS)]


def resample_map(positions: Any, grid: Grid, *, method: str = "bicubic") -> Any:
    """Returns positions that lie on their grid, for another grid, as ``resample_positions`` does.

    Args:
      positions: ``[1, old rows, old columns, C]``.
      grid: the rows and columns wanted.
      method: as ``resample_positions`` takes it.

    Returns:
      ``[1, rows, columns, C]``, of the same dtype.

    Raises:
      ShapeError: ``positions`` is not of rank 4.
    """
    if positions.ndim != 4:
        raise ShapeError(f"positions must have shape [1, H, W, C], got {list(positions.shape)}")
    _, rows, columns, width = positions.shape
    flat = positions.reshape(1, rows * columns, width)
    flat = resample_positions(flat, grid, old_grid=(rows, columns), method=method)
    return flat.reshape(1, *grid, width)


def square(count: int) -> Grid:
    """Returns the sides of a square grid of so many patches.

    Raises:
      ShapeError: no square has so many.
    """
    side = math.isqrt(count)
    if side * side != count:
        raise ShapeError(f"{count} patches are no square grid; pass old_grid=(rows, columns)")
    return side, side


def _precise(numpy: Any) -> dict[str, Any]:
    # Accelerators would multiply in lower precision.
    return {} if numpy is np else {"precision": jax.lax.Precision.HIGHEST}


def _cubic_weights(old: int, new: int) -> np.ndarray:
    """Returns how much each of ``old`` cells counts in each of ``new`` ones, ``[new, old]``."""
    # In single precision, as torch's: a distance is known to a millionth of the image's size.
    scale = np.float32(old / new)
    centres = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * scale
    offsets = np.arange(old, dtype=np.float32) - centres[:, None] + np.float32(0.5)
    weights = _keys_cubic(np.abs(offsets) / np.maximum(scale, np.float32(1)))
    return weights / weights.sum(1, keepdims=True)


def _keys_cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Returns Keys's kernel ("Cubic convolution interpolation", 1981, eq. 4) at distances ``x``."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _plain_cubic_weights(old: int, new: int) -> np.ndarray:
    """Returns the same for four cells, those beyond the edge being the last one."""
    # In single precision, as torch's, which rounds once behind the product and the difference.
    centres = (np.arange(new) + 0.5) * np.float64(np.float32(old / new))
    places = (centres - 0.5).astype(np.float32)[:, None]
    nearest = np.floor(places).astype(int) + np.arange(-1, 3)
    weights = np.zeros((new, old), np.float32)
    values = _keys_cubic(np.abs(nearest - places), a=-0.75).astype(np.float32)
    np.add.at(weights, (np.arange(new)[:, None], nearest.clip(0, old - 1)), values)
    return weights


def _linear_weights(old: int, new: int) -> np.ndarray:
    """Returns how much each of ``old`` cells counts in each of ``new`` ones, ``[new, old]``."""
    centres = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new)
    return _between(centres - np.float32(0.5), old)


def _aligned_weights(old: int, new: int) -> np.ndarray:
    """Returns the same where the first and the last cells lie on one another."""
    return _between(np.arange(new, dtype=np.float32) * np.float32((old - 1) / max(new - 1, 1)), old)


def _between(places: np.ndarray, old: int) -> np.ndarray:
    """Returns how much each of ``old`` cells counts at these places among them."""
    nearest = np.clip(places, 0, old - 1)
    return np.maximum(0, 1 - np.abs(np.arange(old, dtype=np.float32) - nearest[:, None]))


_METHODS: dict[str, Callable[[int, int], np.ndarray]] = {
    "bicubic": _cubic_weights,
    "bilinear": _linear_weights,
    "aligned": _aligned_weights,
    "cubic": _plain_cubic_weights,
}
