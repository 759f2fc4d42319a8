"""Data sets that know their epochs go through the feed and the trainer as arrays do."""

import jax
import numpy as np
import pandas
import pytest

import flaxzoo as fz
from flaxzoo.training.feed import EpochData, Feed


class Squares:
    """Batches made on the fly; counts what was read."""

    batch_size = 4

    def __init__(self, num_examples=10, weights=False):
        self.num_examples = num_examples
        self.weights = weights
        self.read = []

    def __len__(self):
        return -(-self.num_examples // self.batch_size)

    def epoch(self, epoch, *, start_batch=0):
        order = fz.data.ArrayDataset(np.arange(self.num_examples), 1, seed=5).order(epoch)
        for i in range(start_batch, len(self)):
            self.read.append((epoch, i))
            rows = order[i * self.batch_size : (i + 1) * self.batch_size]
            batch = {
                "image": np.stack([np.full(3, row, np.float32) for row in rows]) / 10,
                "label": (rows % 2).astype(np.int32),
            }
            if self.weights:
                batch["weight"] = (rows != 3).astype(np.float32)
            yield batch


class Held:
    """What holds its arrays, as extracted features do."""

    def __init__(self, arrays):
        self.arrays = arrays


def test_the_protocol():
    assert isinstance(Squares(), EpochData)
    assert isinstance(fz.data.ArrayDataset(np.zeros((4, 2)), 2), EpochData)
    assert not isinstance([1, 2], EpochData)


@pytest.mark.parametrize("weights", [False, True])
def test_short_batches_are_filled_up_and_starts_cost_nothing(weights):
    data = Squares(weights=weights)
    feed = Feed(data)
    assert feed.steps_per_epoch == 3
    assert feed.arrays is None
    batches = list(feed.epoch(2, 1))
    assert data.read == [(2, 1), (2, 2)]
    assert [b.inputs.shape for b in batches] == [(4, 3)] * 2
    assert batches[-1].weights.tolist()[2:] == [0, 0]
    whole = [b for e in (Feed(Squares(weights=weights)).epoch(2),) for b in e]
    for a, b in zip(whole[1:], batches, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_whole_batches_get_no_weights():
    assert all(b.weights is None for b in Feed(Squares(8)).epoch(0))


def test_steps_per_epoch_runs_on_through_the_epochs():
    data = Squares()
    list(Feed(data, steps_per_epoch=2).epoch(1))
    assert data.read == [(0, 2), (1, 0)]


def test_a_run_resumed_in_mid_epoch_is_the_uninterrupted_one(tmp_path, assert_trees_equal):
    def trainer(directory):
        model = fz.models.get("mlp", input_shape=(3,), features=(5,), num_classes=2)
        return fz.Trainer(model, learning_rate=0.1, run_dir=directory)

    class Stop(fz.callbacks.Callback):
        def on_step_end(self, trainer, step, metrics):
            trainer.stop_training = step == 5

    whole = trainer(tmp_path / "whole")
    whole.fit(Squares(weights=True), epochs=4, progress=False)
    part = trainer(tmp_path / "part")
    part.fit(Squares(weights=True), epochs=4, progress=False, callbacks=[Stop()])
    part.save(tmp_path / "part")
    rest, data = trainer(tmp_path / "part"), Squares(weights=True)
    rest.fit(data, epochs=4, progress=False, resume=True)
    assert (1, 1) not in data.read
    assert_trees_equal(whole.state, rest.state)
    assert whole.history["loss"] == rest.history["loss"]


def test_what_holds_arrays_is_read_as_them(digits, assert_trees_equal):
    train, _ = digits

    def fit(data):
        model = fz.models.get("mlp", input_shape=(8, 8, 1), features=(5,))
        trainer = fz.Trainer(model)
        trainer.fit(data, epochs=1, progress=False)
        return trainer

    held, plain = fit(Held(train)), fit(train)
    assert_trees_equal(held.state, plain.state)
    assert held.evaluate(Held(train)) == plain.evaluate(train)


class Counted:
    """An iterable of batches that counts what is read of it."""

    def __init__(self, batches):
        self.batches, self.read = batches, 0

    def __iter__(self):
        for batch in self.batches:
            self.read += 1
            yield batch


def small():
    return fz.models.get("mlp", input_shape=(8, 8, 1), features=(5,))


def test_a_second_fit_does_not_read_again_what_the_first_has_seen(digits):
    train, _ = digits
    data = Counted([(train[0][i : i + 8], train[1][i : i + 8]) for i in range(0, 80, 8)])
    trainer, read = fz.Trainer(small()), []
    for _ in range(3):
        data.read = 0
        trainer.fit(data, epochs=3, steps_per_epoch=7, progress=False)
        read.append(data.read)
    assert read[0] == read[1] == read[2] < 3 * 7 + 4


def test_names_of_classes_come_from_the_data():
    class Named(Squares):
        class_names = ("even", "odd")

    def trained(**fields):
        model = fz.models.get("mlp", input_shape=(3,), features=(5,), **fields)
        trainer = fz.Trainer(model)
        trainer.fit(Named(), progress=False)
        return trainer.model

    assert trained(num_classes=2).spec.classes == ("even", "odd")
    assert trained(num_classes=3).spec.classes is None
    assert trained(num_classes=2, classes=("a", "b")).spec.classes == ("a", "b")


@pytest.mark.parametrize(
    "data",
    [
        (["so good", "so bad"] * 4, np.arange(8) % 2),
        {"text": np.array(["so good", "so bad"] * 4), "label": np.arange(8) % 2},
        [(np.array(["so good", "so bad"]), np.arange(2))],
    ],
)
def test_text_is_told_to_be_vectorized(data):
    with pytest.raises(fz.errors.DataError, match="TextVectorizer"):
        fz.Trainer(small()).fit(data, progress=False)


def test_files_are_told_to_be_read():
    with pytest.raises(fz.errors.DataError, match=r"trainer\.model\.predict"):
        fz.Trainer(small()).predict(["a.png", "b.png"])


def test_a_table_trains_on_its_training_part(assert_trees_equal, rng):
    columns = {"a": rng.normal(size=40), "b": rng.normal(size=40), "y": ["no", "yes"] * 20}
    table = fz.data.TableCSV(pandas.DataFrame(columns), "y")

    def fit(data):
        model = fz.models.get("mlp", input_shape=(2,), features=(5,), num_classes=2)
        trainer = fz.Trainer(model)
        trainer.fit(data, progress=False)
        return trainer

    whole, part = fit(table), fit(table.train)
    assert_trees_equal(whole.state, part.state)
    assert whole.model.spec.classes == ("no", "yes")
    with pytest.raises(fz.errors.DataError, match=r"two parts: pass its \.validation"):
        whole.evaluate(table)


def test_a_frame_is_not_a_batch():
    frame = pandas.DataFrame({"a": [1.0, 2.0], "y": [0, 1]})
    with pytest.raises(fz.errors.DataError, match="make arrays of its columns"):
        fz.Trainer(small()).fit(frame, progress=False)
