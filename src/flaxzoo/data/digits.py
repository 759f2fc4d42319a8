"""Scikit-learn's handwritten digits: real data that needs no download."""

from __future__ import annotations

import numpy as np

from flaxzoo._explain import explained
from flaxzoo._extras import require
from flaxzoo.data.arrays import train_test_split

Arrays = tuple[np.ndarray, np.ndarray]


@explained
def load_digits(
    test_size: float | int = 0.2, *, seed: int = 0, flat: bool = False
) -> tuple[Arrays, Arrays]:
    """1,797 handwritten digits, 8 by 8 pixels, split into a training and a test part.

    The data are the test set of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
    Digits" (UCI Machine Learning Repository, 1998), which scikit-learn ships. The split has the
    same share of each digit in both parts, and is this package's own: the same arguments give
    the same examples whatever the version of scikit-learn or NumPy.

    Args:
      test_size: the test part, as a fraction or as a number of examples; 0.2 is 359 of them.
      seed: selects the split.
      flat: whether to return images as ``[N, 64]`` rows.

    Returns:
      ``(train_images, train_labels), (test_images, test_labels)``: images float32
      ``[N, 8, 8, 1]`` in ``[0, 1]`` (scikit-learn's 0..16 divided by 16), labels int32 ``[N]``,
      0 to 9.

    Raises:
      MissingExtraError: scikit-learn is not installed (extra ``demo``).
      DataError: ``test_size`` leaves a part empty.
    """
    datasets = require("sklearn.datasets", extra="demo", purpose="load_digits")
    bunch = datasets.load_digits()
    images = (bunch.images / 16.0).astype(np.float32)
    images = images.reshape(len(images), -1) if flat else images[..., None]
    labels = bunch.target.astype(np.int32)
    return train_test_split((images, labels), test_size, seed=seed, stratify=labels)
