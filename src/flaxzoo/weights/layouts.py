"""The layouts in which PyTorch's modules keep what ours keep: shapes and values, both ways."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable

import numpy as np

from flaxzoo.models.reference import Reference


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a leaf of ours lies in a reference checkpoint.

    Attributes:
      shape: from our shape to the reference's.
      ours: from the reference's array to ours, a view where it can be.
      theirs: from our array to the reference's.
    """

    shape: Callable[[tuple[int, ...]], tuple[int, ...]]
    ours: Callable[[np.ndarray], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray]


def _kernel_ours(x: np.ndarray) -> np.ndarray:
    return x.transpose(*range(2, x.ndim), 1, 0) if x.ndim > 1 else x


def _kernel_theirs(x: np.ndarray) -> np.ndarray:
    return x.transpose(x.ndim - 1, x.ndim - 2, *range(x.ndim - 2))


def _map_ours(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1) if x.ndim == 4 else x


def _map_theirs(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1) if x.ndim == 4 else x


def _transposed_ours(x: np.ndarray) -> np.ndarray:
    # PyTorch's transposed convolution turns its kernel round, Flax's does not.
    axes = tuple(range(2, x.ndim))
    return np.flip(x, axes).transpose(*axes, 0, 1)


def _transposed_theirs(x: np.ndarray) -> np.ndarray:
    axes = tuple(range(x.ndim - 2))
    return np.flip(x, axes).transpose(x.ndim - 2, x.ndim - 1, *axes)


LAYOUTS: dict[str, Layout] = {
    # Any leaf that is no kernel, and GPT-2's Conv1D, which keeps [in, out] as we do.
    "same": Layout(lambda shape: shape, lambda x: x, lambda x: x),
    # OI... to ...IO; of a linear layer, the transpose.
    "kernel": Layout(
        lambda shape: (shape[-1], shape[-2], *shape[:-2]), _kernel_ours, _kernel_theirs
    ),
    # A linear layer of ours that the reference has as a convolution of 1 x 1.
    "pointwise": Layout(
        lambda shape: (shape[1], shape[0], 1, 1),
        lambda x: x[:, :, 0, 0].T if x.shape[2:] == (1, 1) else x,
        lambda x: x.T[:, :, None, None],
    ),
    # A map [1, C, H, W]; of another rank, the leaf as it is.
    "map": Layout(
        lambda shape: (shape[0], shape[-1], *shape[1:-1]) if len(shape) == 4 else shape,
        _map_ours,
        _map_theirs,
    ),
    # A map of channels [C, H, W] without an axis of images; of another rank, the leaf as it is.
    "planes": Layout(
        lambda shape: (shape[2], *shape[:2]) if len(shape) == 3 else shape,
        lambda x: np.moveaxis(x, 0, -1) if x.ndim == 3 else x,
        lambda x: np.moveaxis(x, -1, 0) if x.ndim == 3 else x,
    ),
    # A convolution over images, which the reference has as one over volumes, of depth 1.
    "volume": Layout(
        lambda shape: (shape[-1], shape[-2], *shape[:-2], 1),
        lambda x: _kernel_ours(x[..., 0] if x.shape[4:] == (1,) else x),
        lambda x: _kernel_theirs(x)[..., None],
    ),
    # A transposed convolution, IO... to ...IO with its kernel turned round.
    "transposed": Layout(
        lambda shape: (shape[-2], shape[-1], *shape[:-2]), _transposed_ours, _transposed_theirs
    ),
}


def layout_of(path: str, reference: Reference) -> Layout:
    """The layout of the leaf at one of our paths."""
    for pattern, name in reference.layouts:
        if fnmatch.fnmatchcase(path, pattern):
            return LAYOUTS[name]
    return LAYOUTS["kernel" if path.rpartition("/")[2] == "kernel" else "same"]
