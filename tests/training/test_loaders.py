"""Other packages' data goes into fit, evaluate and predict as it is, and trains what arrays do."""

from __future__ import annotations

import grain
import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.data.examples import ExampleDataset
from flaxzoo.errors import DataError
from flaxzoo.training.feed import Feed

N, BATCH = 20, 8
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
Y = (X.sum(axis=1) > 0).astype(np.int32)
ROWS = [{"image": x, "label": y} for x, y in zip(X, Y, strict=True)]


class Tensor:
    """What flaxzoo sees of a TensorFlow tensor."""

    def __init__(self, value):
        self._value = np.asarray(value)
        self.shape = self._value.shape
        self.dtype = self._value.dtype

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._value, dtype)


class TensorFlowDataset:
    """What flaxzoo sees of a ``tf.data.Dataset``."""

    __module__ = "tensorflow.python.data.ops.dataset_ops"

    def __init__(self, batch_size=None, repeat=False):
        self.elements = [(Tensor(x), Tensor(y)) for x, y in zip(X, Y, strict=True)]
        if batch_size is not None:
            starts = range(0, N, batch_size)
            self.elements = [
                (Tensor(X[i : i + batch_size]), Tensor(Y[i : i + batch_size])) for i in starts
            ]
        self.repeat = repeat

    def __iter__(self):
        yield from self.elements
        while self.repeat:
            yield from self.elements

    def __len__(self):
        if self.repeat:
            raise TypeError("The dataset is infinite.")
        return len(self.elements)

    def cardinality(self):
        return -1 if self.repeat else len(self.elements)


def hugging_face(n=N):
    import datasets

    return datasets.Dataset.from_dict({"image": X[:n].tolist(), "label": Y[:n].tolist()})


def sampler(shuffle=False, epochs=1):
    return grain.samplers.IndexSampler(
        N, grain.sharding.NoSharding(), shuffle=shuffle, seed=0, num_epochs=epochs
    )


def batches_of(data):
    for i in range(0, N, BATCH):
        yield data(slice(i, i + BATCH))


FORMS = {
    "hugging_face": hugging_face,
    "hugging_face_numpy": lambda: hugging_face().with_format("numpy"),
    "hugging_face_stream": lambda: hugging_face().to_iterable_dataset(),
    "hugging_face_batches": lambda: hugging_face().to_iterable_dataset().batch(BATCH),
    "grain_examples": lambda: grain.MapDataset.source(ROWS),
    "grain_batches": lambda: grain.MapDataset.source(ROWS).batch(BATCH),
    "grain_stream": lambda: grain.MapDataset.source(ROWS).to_iter_dataset(),
    "grain_stream_batches": lambda: grain.MapDataset.source(ROWS).to_iter_dataset().batch(BATCH),
    "grain_loader": lambda: grain.DataLoader(
        data_source=ROWS, sampler=sampler(), operations=[grain.transforms.Batch(BATCH)]
    ),
    "tf_data": lambda: TensorFlowDataset(BATCH),
    "tf_data_examples": TensorFlowDataset,
    "list_of_batches": lambda: [(X[i : i + BATCH], Y[i : i + BATCH]) for i in range(0, N, BATCH)],
    "list_of_examples": lambda: list(zip(X, Y.tolist(), strict=True)),
    "function": lambda: lambda: batches_of(lambda part: (X[part], Y[part])),
    "function_of_examples": lambda: lambda: iter(ROWS),
    "jax_arrays": lambda: [
        {"image": jax.numpy.asarray(X[i : i + BATCH]), "label": Y[i : i + BATCH].tolist()}
        for i in range(0, N, BATCH)
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_batches_of_the_arrays(form):
    wanted = list(Feed((X, Y), batch_size=BATCH).epoch(0))
    feed = Feed(FORMS[form](), batch_size=BATCH)
    assert feed.steps_per_epoch in (None, 3)
    np.testing.assert_array_equal(feed.first().inputs, wanted[0].inputs)
    for epoch in (0, 1):
        made = list(feed.epoch(epoch))
        assert len(made) == 3
        for got, want in zip(made, wanted, strict=True):
            np.testing.assert_array_equal(got.inputs, want.inputs)
            np.testing.assert_array_equal(got.targets, want.targets)
            np.testing.assert_array_equal(got.weights, want.weights)
    resumed = list(feed.epoch(1, start=2))
    np.testing.assert_array_equal(resumed[0].inputs, wanted[2].inputs)
    assert len(resumed) == 1


@pytest.fixture(scope="module")
def trainer():
    model = fz.models.get("mlp", num_classes=2, input_shape=(3,), features=(4,))
    return fz.Trainer(model.init(0), metrics=["accuracy"], learning_rate=0.05)


@pytest.mark.parametrize("form", ["hugging_face", "grain_loader", "tf_data", "tf_data_examples"])
def test_into_fit_evaluate_and_predict(trainer, form):
    history = trainer.fit(
        FORMS[form](),
        validation_data=FORMS[form](),
        epochs=2,
        batch_size=BATCH,
        shuffle=False,
        progress=False,
    )
    assert len(history["val_loss"]) == len(history["loss"])
    arrays = trainer.evaluate((X, Y), batch_size=BATCH)
    made = trainer.evaluate(FORMS[form](), batch_size=BATCH)
    assert made == arrays
    assert made["loss"] == pytest.approx(history["val_loss"][-1], rel=1e-6)
    outputs = trainer.predict(FORMS[form](), batch_size=BATCH)
    np.testing.assert_array_equal(outputs, trainer.predict(X, batch_size=BATCH))


def test_a_small_validation_set_of_examples_is_one_batch(trainer):
    assert trainer.evaluate(hugging_face(5))["loss"] > 0


def test_numbered_examples_are_shuffled_and_resume_like_arrays():
    for data in (hugging_face(), grain.MapDataset.source(ROWS), ROWS):
        feed = Feed(data, batch_size=BATCH, shuffle=True, seed=7)
        arrays = Feed((X, Y), batch_size=BATCH, shuffle=True, seed=7)
        for epoch in (0, 3):
            for start in (0, 1):
                for got, want in zip(
                    feed.epoch(epoch, start), arrays.epoch(epoch, start), strict=True
                ):
                    np.testing.assert_array_equal(got.inputs, want.inputs)
    assert isinstance(feed._source.data, ExampleDataset)


def test_extra_columns_reach_the_model_as_a_mapping():
    import datasets

    data = datasets.Dataset.from_dict(
        {"text": [[1, 2, 0], [3, 0, 0]], "lengths": [2, 1], "label": [0, 1]}
    )
    batch = Feed(data, batch_size=2).first()
    np.testing.assert_array_equal(batch.inputs["text"], [[1, 2, 0], [3, 0, 0]])
    np.testing.assert_array_equal(batch.inputs["lengths"], [2, 1])


@pytest.mark.parametrize(
    "data",
    [TensorFlowDataset(BATCH, repeat=True), grain.MapDataset.source(ROWS).repeat().batch(BATCH)],
    ids=["tf_data", "grain"],
)
def test_endless_data_needs_a_number_of_steps(data):
    with pytest.raises(DataError, match="train never ends: pass steps_per_epoch"):
        Feed(data, name="train")
    assert len(list(Feed(data, steps_per_epoch=4).epoch(0))) == 4


def test_steps_per_epoch_reads_on_where_the_last_epoch_ended():
    shuffled = grain.MapDataset.source(ROWS).seed(1).shuffle().repeat().batch(BATCH)
    wanted = [shuffled[i]["label"] for i in range(6)]
    feed = Feed(shuffled, steps_per_epoch=2)
    feed.first()
    made = [batch.targets for epoch in range(3) for batch in feed.epoch(epoch)]
    np.testing.assert_array_equal(made, wanted)
    # A resumed run, with a feed of its own, goes on where the first one stood.
    resumed = [batch.targets for batch in Feed(shuffled, steps_per_epoch=2).epoch(1, start=1)]
    np.testing.assert_array_equal(resumed, wanted[3:4])
    # What ends is read afresh.
    feed = Feed(TensorFlowDataset(BATCH), steps_per_epoch=2)
    firsts = [next(iter(feed.epoch(epoch))).inputs for epoch in range(3)]
    np.testing.assert_array_equal(firsts[1][:4], X[16:])
    np.testing.assert_array_equal(firsts[2], X[8:16])


def test_a_data_set_with_set_epoch_is_told():
    class Loader(list):
        told: list

        def set_epoch(self, epoch):
            self.told.append(epoch)

    loader = Loader([(X[:BATCH], Y[:BATCH]), (X[BATCH : 2 * BATCH], Y[BATCH : 2 * BATCH])])
    loader.told = []
    feed = Feed(loader)
    for epoch in range(3):
        list(feed.epoch(epoch))
    assert loader.told == [0, 1, 2]


def test_a_mapping_of_data_sets_is_refused():
    import datasets

    parts = datasets.DatasetDict({"train": hugging_face(), "test": hugging_face(4)})
    with pytest.raises(DataError, match="a mapping of train, test.*pass one of its data sets"):
        Feed(parts, name="train_data")
    with pytest.raises(DataError, match="a mapping of image, label.*make arrays of its columns"):
        Feed({"image": [{"bytes": b""}] * 3, "label": Y.tolist()[:3]})


@pytest.mark.parametrize(
    "data",
    [
        (X, Y.tolist()),
        (X, list(Y)),
        (X, tuple(Y.tolist())),
        (X.tolist(), Y),
        {"image": X, "label": Y.tolist()},
        (X, Y, [1.0] * N),
    ],
    ids=["ints", "NumPy's ints", "tuple", "nested", "mapping", "weights"],
)
def test_lists_of_numbers_are_arrays(data):
    feed = Feed(data, batch_size=BATCH)
    assert feed.num_examples == N
    batch = feed.first()
    np.testing.assert_allclose(batch.inputs, X[:BATCH])
    np.testing.assert_array_equal(batch.targets, Y[:BATCH])


def test_a_nested_list_is_predicted_as_one_array(trainer):
    np.testing.assert_array_equal(trainer.predict(X.tolist()), trainer.predict(X))
