import jax.numpy as jnp
import numpy as np
import pandas
import pytest

from flaxzoo.data import Batch, as_batch
from flaxzoo.data.batch import batch_size, is_host
from flaxzoo.errors import DataError, ShapeError


class Sparse:
    """Like a matrix of SciPy's, which has a shape but is no array."""

    shape, dtype = (3, 4), np.dtype(float)

    def toarray(self):
        return np.zeros(self.shape)


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


@pytest.mark.parametrize("kind", [int, np.int64, np.float32, jnp.asarray, np.array, bool])
def test_lists_of_every_number_are_arrays(kind):
    batch = as_batch((IMAGES, [kind(i) for i in (0, 1, 1)]))
    assert batch.targets.tolist() == [0, 1, 1]


@pytest.mark.parametrize("targets", [range(3), (0, 1, 2), [0, 1, 2]])
def test_what_counts_is_an_array(targets):
    assert as_batch((IMAGES, targets)).targets.tolist() == [0, 1, 2]
    assert as_batch({"image": IMAGES, "label": targets}).targets.tolist() == [0, 1, 2]


def test_a_masked_array_without_masked_values_is_an_array():
    batch = as_batch((np.ma.masked_less(IMAGES, 0), LABELS))
    assert type(batch.inputs) is np.ndarray
    np.testing.assert_array_equal(batch.inputs, IMAGES)


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
        ((["a", "b"], LABELS[:2]), DataError, "holds text"),
        ((list(IMAGES), LABELS), ShapeError, r"agree, .*np\.stack\(inputs\) makes one array"),
        ((IMAGES, pandas.Series([0, None, 1], dtype="Int64")), DataError, "lack 1 of 3 .*in row 1"),
        ((IMAGES, pandas.DataFrame({"y": [0, None, 1]})), DataError, "lack 1 of 3 .*in row 1"),
        ((IMAGES.astype(object), LABELS), DataError, r"inputs holds objects .*float 1.0"),
        ((IMAGES, LABELS, LABELS.astype(object)), DataError, "weight holds objects"),
        ((IMAGES, [[0], [1, 2], [0]]), DataError, "targets is no array: .*one length"),
        (
            {"x": {"a": np.ma.masked_equal(LABELS, 1)}, "y": LABELS},
            DataError,
            r"inputs\['a'\] is a masked array in which 1 of 3 values are masked, first at .*\[1\]",
        ),
        (
            (Sparse(), LABELS),
            DataError,
            r"inputs is a sparse matrix \(Sparse\): pass inputs.toarray",
        ),
        ((IMAGES, np.ma.masked_equal(LABELS, 2)), DataError, "targets is a masked array"),
        ((IMAGES, LABELS, np.ma.masked_equal(LABELS, 2)), DataError, "weight is a masked array"),
    ],
)
def test_errors(batch, error, match):
    with pytest.raises(error, match=match):
        as_batch(batch)
