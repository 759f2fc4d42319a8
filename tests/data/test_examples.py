"""Data sets of single examples become batches."""

from __future__ import annotations

from collections import namedtuple

import grain
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.data.epochs import random_order
from flaxzoo.data.examples import (
    ExampleDataset,
    grouped,
    has_random_access,
    holds_examples,
    is_example,
    stack,
)
from flaxzoo.errors import DataError, ShapeError

X = np.arange(30, dtype=np.float32).reshape(10, 3)
PAIRS = [(x, i) for i, x in enumerate(X)]


class Squares:
    """A data set as torch's are: length and random access, no iteration."""

    def __len__(self):
        return 7

    def __getitem__(self, index):
        return {"image": np.full((2, 2), index, np.float32), "label": index * index}


class ByRows(Squares):
    asked: list

    def __init__(self):
        self.asked = []

    def __getitems__(self, rows):
        self.asked.append(rows)
        return [self[row] for row in rows]


def test_an_epoch_is_a_function_of_seed_and_number():
    dataset = ExampleDataset(PAIRS, 4, seed=3)
    assert (len(dataset), dataset.num_examples, dataset.batch_size) == (3, 10, 4)
    for epoch in (0, 1):
        batches = list(dataset.epoch(epoch))
        assert [len(y) for _, y in batches] == [4, 4, 2]
        order = np.concatenate([y for _, y in batches])
        np.testing.assert_array_equal(order, random_order(10, 3, epoch))
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), X[order])
    tail = list(dataset.epoch(1, start_batch=2))
    np.testing.assert_array_equal(tail[0][1], batches[2][1])
    assert list(dataset.epoch(1, start_batch=3)) == []
    np.testing.assert_array_equal(next(iter(dataset))[1], random_order(10, 3, 0)[:4])
    assert [len(y) for _, y in ExampleDataset(PAIRS, 4, drop_last=True)] == [4, 4]
    assert "10 examples, batch_size=4" in repr(dataset)


def test_random_access_without_iteration():
    batches = list(ExampleDataset(Squares(), 3, shuffle=False))
    np.testing.assert_array_equal(np.concatenate([b["label"] for b in batches]), np.arange(7) ** 2)
    assert batches[0]["image"].shape == (3, 2, 2)
    rows = ByRows()
    list(ExampleDataset(rows, 3, shuffle=False))
    assert rows.asked == [[0, 1, 2], [3, 4, 5], [6]]


def test_hugging_face_rows_are_read_by_columns():
    import datasets

    rows = datasets.Dataset.from_dict({"image": X.tolist(), "label": list(range(10))})
    assert holds_examples(rows)
    assert not holds_examples(rows.with_format("numpy").batch(5))
    assert holds_examples(rows.remove_columns("label"))
    for data in (rows, rows.with_format("numpy"), rows.with_format("jax")):
        batches = list(ExampleDataset(data, 4, seed=1))
        order = random_order(10, 1, 0)
        np.testing.assert_array_equal(np.concatenate([b["label"] for b in batches]), order)
        np.testing.assert_array_equal(np.concatenate([b["image"] for b in batches]), X[order])
    doubled = rows.with_transform(lambda batch: {"x": 2 * np.array(batch["image"])})
    np.testing.assert_array_equal(
        next(iter(ExampleDataset(doubled, 10, shuffle=False)))["x"], 2 * X
    )
    texts = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    with pytest.raises(DataError, match=r"batch\['text'\] holds text; turn texts into ids"):
        next(iter(ExampleDataset(texts, 2)))
    ragged = datasets.Dataset.from_dict({"image": [[1], [1, 2]], "label": [0, 1]})
    with pytest.raises(DataError, match=r"batch\['image'\] holds no numbers of one shape"):
        next(iter(ExampleDataset(ragged, 2)))


def test_what_one_example_looks_like():
    example = namedtuple("example", "x y")
    for element in (
        (X[0], 1),
        (X[0], np.int32(1)),
        (X[0], np.array(1)),
        [X[0], 0.5, 1.0],
        {"image": X[0], "label": 3},
        example(X[0], 2),
        (X[0], "cat"),
    ):
        assert is_example(element)
    for element in (
        (X, np.arange(10)),
        (X.tolist(), [0] * 10),
        {"image": X, "label": np.arange(10)},
        {"image": X[0]},
        X,
        (X,),
        None,
    ):
        assert not is_example(element)


def test_what_gives_examples_by_number():
    assert holds_examples(PAIRS)
    assert holds_examples(Squares())
    assert not holds_examples([])
    assert not holds_examples([(X, np.arange(10))])
    assert not holds_examples({"image": X, "label": np.arange(10)})
    assert not holds_examples(iter(PAIRS))
    assert not has_random_access({0: PAIRS[0]})
    assert not has_random_access(X[0, 0])


def test_a_stream_of_examples_is_grouped_and_one_of_batches_is_not():
    sizes = [len(y) for _, y in grouped(iter(PAIRS), 4)]
    assert sizes == [4, 4, 2]
    batches = [(X[:6], np.arange(6)), (X[6:], np.arange(4))]
    for made, given in zip(grouped(batches, 2), batches, strict=True):
        assert made[0] is given[0]
    assert list(grouped([], 4)) == []


def test_stacking_keeps_the_structure():
    point = namedtuple("point", "x y")
    x, more = stack([(X[0], {"a": 1, "b": [1, 2]}), (X[1], {"a": 2, "b": [3, 4]})])
    np.testing.assert_array_equal(x, X[:2])
    np.testing.assert_array_equal(more["a"], [1, 2])
    np.testing.assert_array_equal(more["b"], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(stack([point(1, 2.0), point(3, 4.0)])[1], [2, 4])


@pytest.mark.parametrize(
    ("examples", "error", "message"),
    [
        ([(X[0], 1), (X[0, :2], 1)], ShapeError, r"different shapes, \[2\] and \[3\]"),
        ([{"x": 1}, {"y": 1}], DataError, "differ in structure"),
        ([(X[0], 1), None], DataError, "to_iter_dataset"),
        ([(X[0], "cat")], DataError, "holds text"),
    ],
)
def test_examples_that_do_not_fit(examples, error, message):
    with pytest.raises(error, match=message):
        stack(examples)


def test_data_at_fault():
    with pytest.raises(DataError, match="which list_iterator lacks"):
        ExampleDataset(iter(PAIRS), 2)
    with pytest.raises(DataError, match="the list is empty"):
        ExampleDataset([], 2)
    with pytest.raises(DataError, match="batch_size 11 is larger than the data: 10"):
        ExampleDataset(PAIRS, 11)
    with pytest.raises(DataError, match="start_batch 4 is past"):
        ExampleDataset(PAIRS, 4).epoch(0, start_batch=4)


def test_what_never_ends_is_read_as_a_stream():
    """Its length is the largest int: no order can be drawn of it."""
    source = [(np.full(3, i, np.float32), np.int32(i % 2)) for i in range(10)]
    endless = grain.MapDataset.source(source).repeat()
    assert not holds_examples(endless)
    model = fz.models.get("mlp", input_shape=(3,), features=(4,), num_classes=2)
    trainer = fz.Trainer(model)
    trainer.fit(endless, steps_per_epoch=4, batch_size=5, progress=False)
    assert trainer.step == 4


def test_an_inherited_getitem_is_no_access_by_number():
    class Stream:
        def __len__(self):
            return 4

        def __getitem__(self, row):
            raise NotImplementedError

        def __iter__(self):
            yield from [(np.zeros((2, 3), np.float32), np.zeros(2, np.int32))] * 4

    assert not holds_examples(Stream())
