import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.data import Batch, as_batch
from flaxzoo.data.batch import batch_size, is_host
from flaxzoo.errors import DataError, ShapeError

IMAGES, LABELS = np.ones((3, 2, 2, 1), np.float32), np.array([0, 1, 2])


@pytest.mark.parametrize(
    "form",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        {"image": IMAGES, "label": LABELS},
        {"inputs": IMAGES, "targets": LABELS},
        Batch(IMAGES, LABELS),
    ],
)
def test_forms(form):
    batch = as_batch(form)
    assert batch.inputs is IMAGES
    assert batch.targets is LABELS
    assert batch.weights is None
    assert batch_size(batch) == 3


def test_lists_are_arrays():
    batch = as_batch(([[1.0, 2.0], [3.0, 4.0]], [0, 1]))
    assert batch.inputs.shape == (2, 2)
    assert batch.targets.tolist() == [0, 1]


def test_further_keys_go_to_the_model():
    batch = as_batch({"text": LABELS, "lengths": LABELS, "y": LABELS, "weight": np.ones(3)})
    assert set(batch.inputs) == {"text", "lengths"}
    assert batch.targets is LABELS
    assert batch.weights.tolist() == [1, 1, 1]


def test_what_is_on_the_host():
    assert is_host((IMAGES, {"a": LABELS}))
    assert not is_host((IMAGES, jnp.asarray(LABELS)))


@pytest.mark.parametrize(
    ("batch", "error", "match"),
    [
        ({"label": LABELS}, DataError, "needs one of inputs, image"),
        ((IMAGES,) * 4, DataError, r"\(inputs, targets, weight\), got a tuple of 4"),
        ((IMAGES[:0], LABELS[:0]), DataError, "the batch is empty"),
        ((IMAGES, LABELS[:2]), ShapeError, "inputs 3; targets 2"),
        ((IMAGES, np.float32(1)), ShapeError, "targets has none"),
        ((IMAGES, LABELS, np.ones((3, 1))), ShapeError, r"one number per example, got \[3, 1\]"),
        ((np.array(["a", "b"]), LABELS[:2]), DataError, "holds text"),
    ],
)
def test_errors(batch, error, match):
    with pytest.raises(error, match=match):
        as_batch(batch)
