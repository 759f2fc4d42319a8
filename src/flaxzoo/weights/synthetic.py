"""Weights that are made, not trained: the same on every machine, from names and shapes alone.

Comparisons with a reference implementation need variables in which nothing is special. A freshly
initialised network has BatchNorm scales of one, means of zero and variances of one, which hide most
mistakes in their use.
"""

from __future__ import annotations

import fnmatch
import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def synthetic_tensors(
    shapes: Mapping[str, Sequence[int]],
    seed: int = 0,
    *,
    gain: float = 2.0,
    scales: Sequence[tuple[str, float]] = (),
) -> dict[str, np.ndarray]:
    """A reference checkpoint of uniform random numbers.

    Each tensor is drawn by NumPy's legacy generator, whose stream is frozen, from a seed made of
    its own name: neither the order of the names nor NumPy's version matters.

    ====================================  =======================================
    tensor                                range
    ====================================  =======================================
    ``weight`` of two or more dimensions  the variance is ``gain`` / fan-in
    ``weight`` of a norm                  0.5 ... 1
    ``scale``                             0.75 ... 1.25
    ``running_var``                       0.5 ... 1.5
    ``running_mean``, ``bias``            -0.25 ... 0.25
    ``num_batches_tracked``               0 (int64)
    ====================================  =======================================

    Args:
      shapes: of each tensor in PyTorch's layout, by its reference name.
      seed: another number draws other tensors.
      gain: 2 as of He et al.; less where branches that are added up and not normalised would grow
        until a softmax of them turns a rounding error into another answer.
      scales: pairs of a glob over names and a number that these tensors are multiplied by.

    Returns:
      ``float32`` arrays by name, in the order of ``shapes``.
    """
    tensors = {name: _tensor(name, tuple(shape), seed, gain) for name, shape in shapes.items()}
    for glob, scale in scales:
        for name in fnmatch.filter(tensors, glob):
            tensors[name] *= np.float32(scale)
    return tensors


def synthetic_images(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Images of uniform noise with mean 0 and variance 1, drawn as the tensors are.

    Args:
      shape: ``[B, H, W, C]``.
      seed: another number draws other images.
    """
    return _uniform("images", tuple(shape), seed, -math.sqrt(3), math.sqrt(3))


def _tensor(name: str, shape: tuple[int, ...], seed: int, gain: float) -> np.ndarray:
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return _uniform(name, shape, seed, 0.5, 1.5)
    if len(shape) > 1:
        limit = math.sqrt(3 * gain / math.prod(shape[1:]))
        return _uniform(name, shape, seed, -limit, limit)
    if leaf == "weight":
        return _uniform(name, shape, seed, 0.5, 1.0)
    if leaf == "scale":
        # Around 1, or residuals that are scaled die away and rounding is all that remains.
        return _uniform(name, shape, seed, 0.75, 1.25)
    return _uniform(name, shape, seed, -0.25, 0.25)


def _uniform(name: str, shape: tuple[int, ...], seed: int, low: float, high: float) -> np.ndarray:
    generator = np.random.RandomState(zlib.crc32(f"{seed}/{name}".encode()))
    return (low + (high - low) * generator.random_sample(shape)).astype(np.float32)
