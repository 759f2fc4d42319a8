"""Data in memory and on disk: datasets, splits, batches and the way to the device.

Everything here yields NumPy arrays in the layout that the models take: images ``[N, H, W, C]``
float32 in ``[0, 1]``, labels ``[N]`` int32.
"""

from __future__ import annotations

from flaxzoo.data.arrays import ArrayDataset, check_finite, pad_batch, train_test_split
from flaxzoo.data.digits import load_digits
from flaxzoo.data.mnist import load_mnist, read_idx
from flaxzoo.data.prefetch import prefetch_to_device

__all__ = [
    "ArrayDataset",
    "check_finite",
    "load_digits",
    "load_mnist",
    "pad_batch",
    "prefetch_to_device",
    "read_idx",
    "train_test_split",
]
