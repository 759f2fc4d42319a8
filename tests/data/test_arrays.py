from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxzoo import data
from flaxzoo.data.epochs import random_order
from flaxzoo.errors import ArgumentError, DataError, ShapeError


def labelled(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n * 2, dtype=np.float32).reshape(n, 2), np.arange(n, dtype=np.int32)


def test_random_order_never_changes():
    # Pinned: shipped checkpoints are evaluated on splits that follow from it.
    np.testing.assert_array_equal(random_order(8, 0), [3, 2, 1, 6, 0, 7, 4, 5])
    np.testing.assert_array_equal(random_order(8, 3, 1), [0, 6, 2, 1, 3, 7, 4, 5])


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40),
    batch=st.integers(1, 40),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
)
def test_an_epoch_holds_every_example_once(n, batch, seed, epoch, drop_last, shuffle):
    batch = min(batch, n)
    dataset = data.ArrayDataset(labelled(n), batch, shuffle=shuffle, seed=seed, drop_last=drop_last)
    batches = list(dataset.epoch(epoch))
    assert len(batches) == len(dataset) == (n // batch if drop_last else -(-n // batch))
    seen = np.concatenate([y for _, y in batches])
    assert len(set(seen.tolist())) == len(seen) == (n - n % batch if drop_last else n)
    np.testing.assert_array_equal(seen, dataset.order(epoch)[: len(seen)])
    for x, y in batches:
        np.testing.assert_array_equal(x[:, 0], 2 * y)
    if not shuffle:
        np.testing.assert_array_equal(seen, np.arange(len(seen)))


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 4), epoch=st.integers(0, 5))
def test_start_batch_is_the_tail_of_the_epoch(start, epoch):
    dataset = data.ArrayDataset(labelled(13), 4, seed=1)
    whole = list(dataset.epoch(epoch))
    tail = list(dataset.epoch(epoch, start_batch=start))
    assert len(tail) == len(whole) - start
    for (_, got), (_, want) in zip(tail, whole[start:], strict=True):
        np.testing.assert_array_equal(got, want)


def test_order_depends_on_seed_and_epoch_alone():
    one, two = (data.ArrayDataset(labelled(50), 5, seed=s) for s in (0, 1))
    list(one.epoch(3))  # Having read an epoch must not matter.
    np.testing.assert_array_equal(one.order(4), data.ArrayDataset(labelled(50), 7, seed=0).order(4))
    assert not np.array_equal(one.order(0), one.order(1))
    assert not np.array_equal(one.order(0), two.order(0))


def test_dicts_memory_maps_and_jax_arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(24.0).reshape(6, 4))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    dataset = data.ArrayDataset({"image": mapped, "label": jnp.arange(6)}, 4, shuffle=True)
    batch = next(dataset.epoch(0))
    assert set(batch) == {"image", "label"}
    assert all(type(leaf) is np.ndarray for leaf in batch.values())
    np.testing.assert_array_equal(batch["image"], np.load(tmp_path / "x.npy")[batch["label"]])
    assert np.shares_memory(dataset.arrays["image"], mapped)


def test_iter_is_epoch_0():
    dataset = data.ArrayDataset(labelled(5), 2, seed=9)
    for (_, got), (_, want) in zip(dataset, dataset.epoch(0), strict=True):
        np.testing.assert_array_equal(got, want)
    assert "5 examples, batch_size=2" in repr(dataset)


@pytest.mark.parametrize(
    ("arrays", "kwargs", "message"),
    [
        ((np.zeros((0, 3)), np.zeros(0)), {}, r"no examples: arrays\[0\] has shape \[0, 3\]"),
        ((), {}, "no arrays"),
        (
            {"image": np.zeros((4, 2)), "label": np.zeros(3)},
            {},
            r"arrays\['image'\] has 4, arrays\['label'\] has 3",
        ),
        (labelled(4), {"batch_size": 5}, "batch_size 5 is larger than the data: 4 examples"),
        (labelled(4), {"batch_size": 0}, "batch_size must be an int of at least 1, got 0"),
        (labelled(4), {"batch_size": 1.5}, "batch_size must be an int of at least 1, got 1.5"),
        (labelled(4), {"seed": -1}, "seed must be an int of at least 0"),
        ((1.0, [0, 1]), {}, r"arrays\[0\] is a single value"),
        ((np.ma.masked_less([1.0, 2.0], 1.5), [0, 1]), {}, r"arrays\[0\] is a masked array"),
        (([[1.0], [1.0, 2.0]], [0, 1]), {}, r"arrays\[0\] is no array"),
        (np.array(["a", None], object), {}, "dtype object"),
    ],
)
def test_bad_datasets(arrays, kwargs, message):
    with pytest.raises((DataError, ArgumentError), match=message):
        data.ArrayDataset(arrays, **{"batch_size": 2, **kwargs})


def test_lists_of_numbers_are_arrays():
    lists = ([[1.0, 2.0], [3.0, 4.0]], [0, 1])
    inputs, targets = next(iter(data.ArrayDataset(lists, 2, shuffle=False)))
    np.testing.assert_array_equal(inputs, lists[0])
    np.testing.assert_array_equal(targets, lists[1])


def test_bad_epochs():
    dataset = data.ArrayDataset(labelled(4), 2)
    with pytest.raises(DataError, match="start_batch 3 is past the epoch's 2 batches"):
        dataset.epoch(0, start_batch=3)
    with pytest.raises(ArgumentError, match="epoch must be an int of at least 0"):
        dataset.epoch(-1)


def test_pad_batch():
    x, y = labelled(3)
    (padded_x, padded_y), weight = data.pad_batch((x, y), 5)
    assert padded_x.shape == (5, 2)
    assert padded_x.dtype == np.float32
    np.testing.assert_array_equal(padded_y, [0, 1, 2, 0, 0])
    np.testing.assert_array_equal(weight, [1, 1, 1, 0, 0])
    assert weight.dtype == np.float32
    whole = (x, y)
    same, weight = data.pad_batch(whole, 3)
    assert same is whole
    np.testing.assert_array_equal(weight, np.ones(3))
    with pytest.raises(ShapeError, match="batch has 3 examples, more than the batch_size 2"):
        data.pad_batch(whole, 2)


def test_check_finite_passes():
    big = np.full(10, 3e38, np.float32)  # The sum overflows, the values do not.
    data.check_finite({"a": big, "b": np.arange(3), "c": jnp.ones(3, jnp.bfloat16)}, "inputs")
    data.check_finite(np.zeros((0, 3)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, jnp.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_check_finite_finds_the_first(dtype, value):
    images = np.zeros((3, 2, 2), dtype)
    images[1, 0, 1] = images[2, 1, 1] = value
    with pytest.raises(
        DataError, match=r"inputs\['x'\] holds -?(nan|inf) at index \[1, 0, 1\] \(2 of 12"
    ):
        data.check_finite({"x": images}, "inputs")


def test_check_finite_sees_cancelling_infinities():
    with pytest.raises(DataError, match=r"\(2 of 2 values"):
        data.check_finite(np.array([np.inf, -np.inf]))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 60), seed=st.integers(0, 99), fraction=st.floats(0.01, 0.99))
def test_split_is_a_partition(n, seed, fraction):
    count = round(n * fraction)
    if not 0 < count < n:
        with pytest.raises(DataError, match="neither part may be empty"):
            data.train_test_split(labelled(n), fraction, seed=seed)
        return
    train, test = data.train_test_split(labelled(n), fraction, seed=seed)
    assert len(test[1]) == count
    assert sorted([*train[1], *test[1]]) == list(range(n))
    again = data.train_test_split(labelled(n), count, seed=seed)[1]
    np.testing.assert_array_equal(again[1], test[1])
    assert (np.diff(test[1]) > 0).all()


def test_stratified_split_keeps_shares():
    labels = np.repeat(["a", "b", "c"], [50, 30, 20])
    train, test = data.train_test_split(np.arange(100), 0.25, seed=2, stratify=labels)
    counts = [int((labels[test] == c).sum()) for c in "abc"]
    assert sum(counts) == 25
    assert all(abs(got - want) < 1 for got, want in zip(counts, (12.5, 7.5, 5), strict=True))
    assert len(train) == 75


def test_lists_and_columns_are_split_as_they_are():
    texts, labels = [f"text {i}" for i in range(10)], np.arange(10)
    frame = pandas.DataFrame({"text": texts, "label": labels}, index=labels + 5)
    tree = {"texts": texts, "column": frame["text"], "frame": frame, "labels": labels.tolist()}
    train, test = data.train_test_split(tree, 0.3, seed=1, stratify=["a", "b"] * 5)
    _, rows = data.train_test_split(labels, 0.3, seed=1, stratify=["a", "b"] * 5)
    for part, chosen in ((test, rows), (train, np.setdiff1d(labels, rows))):
        assert part["texts"] == [texts[i] for i in chosen]
        assert part["labels"] == chosen.tolist()
        assert part["column"].tolist() == part["texts"]
        assert part["frame"].equals(frame.iloc[chosen])
    documents = [["fine", "film"], ["thin"], ["cold", "plot"], ["fine"]]
    train, test = data.train_test_split((documents, labels[:4]), 1)
    assert test[0] == [documents[i] for i in test[1]]
    arrays = [np.arange(4), np.arange(4)]
    assert len(data.train_test_split(arrays, 1)[0]) == 2


def test_splits_of_what_is_ambiguous():
    with pytest.raises(DataError, match=r"a list of 2 lists: pass columns as a tuple"):
        data.train_test_split([["a", "b"], ["c", "d"]], 0.5)
    for labels in ([0, 1], np.arange(2)):
        with pytest.raises(
            DataError, match=r"one argument: .*train_test_split\(\(inputs, targets\)"
        ):
            data.train_test_split(np.zeros(2), labels)
        with pytest.raises(DataError, match=r"one argument: ArrayDataset\(\(inputs, targets\)"):
            data.ArrayDataset(np.zeros(2), labels)
    with pytest.raises(
        TypeError, match=r"'test_size' by its place and by its name: inputs and tar"
    ):
        data.train_test_split(np.zeros(2), np.zeros(2), test_size=0.5)
    with pytest.raises(DataError, match=r"stratify holds labels that cannot be sorted .*missing"):
        data.train_test_split(np.zeros(3), 1, stratify=np.array(["a", None, "a"], object))
    with pytest.raises(DataError, match="stratify is a masked array"):
        data.train_test_split(np.zeros(3), 1, stratify=np.ma.masked_equal([0, 1, 1], 0))


def test_bad_splits():
    for size in (0, 1.0, "half", True, 4):
        with pytest.raises(DataError, match="test_size"):
            data.train_test_split(labelled(4), size)
    with pytest.raises(ShapeError, match=r"shape \[4\], got \[3\]"):
        data.train_test_split(labelled(4), 0.5, stratify=np.zeros(3))
