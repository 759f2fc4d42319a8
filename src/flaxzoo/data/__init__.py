"""Data in memory and on disk: datasets, splits, batches and the way to the device.

Everything here yields NumPy arrays in the layout that the models take: images ``[N, H, W, C]``
float32 in ``[0, 1]`` (or as a model's preprocessing makes them), table rows ``[N, features]``
float32, tokens ``[N, T]`` int32, labels ``[N]`` int32.
"""

from __future__ import annotations

from flaxzoo._explain import missing_from
from flaxzoo._finite import check_finite
from flaxzoo.data.arrays import ArrayDataset, pad_batch, train_test_split
from flaxzoo.data.batch import Batch, as_batch
from flaxzoo.data.digits import load_digits
from flaxzoo.data.examples import ExampleDataset
from flaxzoo.data.image_dataset import ImageDataset
from flaxzoo.data.image_folder import ImageCSV, ImageFolder
from flaxzoo.data.mnist import load_mnist, read_idx
from flaxzoo.data.prefetch import prefetch_to_device
from flaxzoo.data.stop_words import stop_words
from flaxzoo.data.table_preparation import TablePreparation
from flaxzoo.data.tables import TableCSV
from flaxzoo.data.text_vectorizer import TextVectorizer

__all__ = [
    "ArrayDataset",
    "Batch",
    "ExampleDataset",
    "ImageCSV",
    "ImageDataset",
    "ImageFolder",
    "TableCSV",
    "TablePreparation",
    "TextVectorizer",
    "as_batch",
    "check_finite",
    "load_digits",
    "load_mnist",
    "pad_batch",
    "prefetch_to_device",
    "read_idx",
    "stop_words",
    "train_test_split",
]

__getattr__ = missing_from(__name__)
