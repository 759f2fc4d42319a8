"""Matplotlib figures without pyplot, and images in the form that they show."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxzoo._extras import require
from flaxzoo.errors import DataError, ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120


def displayable(images: Any, name: str) -> np.ndarray:
    """Images as floats in ``[0, 1]``, ``[N, H, W]`` for grey and ``[N, H, W, 3]`` for colour.

    Args:
      images: ``[N, H, W]`` or ``[N, H, W, 1 | 3]``; uint8, or floats. Floats that leave
        ``[0, 1]`` are stretched from their smallest and largest value.
      name: of the argument, for the message.

    Raises:
      ShapeError: another shape.
      DataError: no images.
    """
    array = np.asarray(images)
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] not in (1, 3)):
        raise ShapeError(
            f"{name} must be [N, H, W], [N, H, W, 1] or [N, H, W, 3], got {list(array.shape)}"
        )
    if array.size == 0:
        raise DataError(f"{name} is empty, shape {list(array.shape)}")
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    array = np.nan_to_num(array.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(array.min()), float(array.max())
    # A little overshoot is rounding, not another range.
    if low < -1e-3 or high > 1 + 1e-3:
        array = (array - low) / max(high - low, 1e-12)
    return np.clip(array, 0, 1)


def to_array(figure: Figure) -> np.ndarray:
    """A figure's pixels, uint8 ``[H, W, 3]``, at the figure's own resolution."""
    agg = require("matplotlib.backends.backend_agg", extra="plots", purpose="flaxzoo.plots")
    before = figure.canvas
    canvas = agg.FigureCanvasAgg(figure)
    try:
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()
    finally:
        # A figure of pyplot's goes on being shown where it was.
        figure.set_canvas(before)


def new_figure(width: float, height: float, layout: str = "constrained") -> Any:
    """An empty figure of a size in inches, unknown to pyplot; matplotlib lays it out."""
    figure = _figure_class()(figsize=(width, height), dpi=_DPI, layout=layout)
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    return figure


@functools.cache
def _figure_class() -> type:
    base = require("matplotlib.figure", extra="plots", purpose="flaxzoo.plots").Figure

    class NotebookFigure(base):  # type: ignore[misc, valid-type]
        """A figure that a notebook shows although pyplot does not know it."""

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return NotebookFigure
