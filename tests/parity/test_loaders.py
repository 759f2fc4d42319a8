"""torch's data loaders and data sets, and TensorFlow's where it is installed, go into fit."""

import numpy as np
import pytest
import torch

import flaxzoo as fz
from flaxzoo.training.feed import Feed

X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
Y = (X.sum(axis=1) > 0).astype(np.int64)


class Rows(torch.utils.data.Dataset):
    """A data set with dictionaries for examples."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return {"image": torch.from_numpy(X[index]), "label": int(Y[index])}


def pairs():
    return torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))


def loader(data, **options):
    return torch.utils.data.DataLoader(data, batch_size=8, **options)


FORMS = {
    "loader": lambda: loader(pairs()),
    "loader_of_dictionaries": lambda: loader(Rows()),
    "loader_with_workers": lambda: loader(pairs(), num_workers=1),
    "data_set": pairs,
    "data_set_of_dictionaries": Rows,
    "subset": lambda: torch.utils.data.Subset(Rows(), range(20)),
}


def check(data):
    feed, arrays = Feed(data, batch_size=8), Feed((X, Y), batch_size=8)
    assert feed.steps_per_epoch == 3
    feed.first()
    for epoch in (0, 1):
        for got, want in zip(feed.epoch(epoch), arrays.epoch(epoch), strict=True):
            np.testing.assert_array_equal(got.inputs, want.inputs)
            np.testing.assert_array_equal(got.targets, want.targets)
            np.testing.assert_array_equal(got.weights, want.weights)


@pytest.mark.parametrize("form", FORMS)
def test_torch(form):
    check(FORMS[form]())


def test_a_shuffling_loader_is_asked_once_an_epoch():
    # Looking at its length must not draw from torch's generator.
    orders = []
    for looked in (False, True):
        torch.manual_seed(0)
        feed = Feed(loader(pairs(), shuffle=True))
        if looked:
            assert feed.steps_per_epoch == feed.steps_per_epoch == 3
        orders.append(np.concatenate([batch.inputs for batch in feed.epoch(0)]))
    np.testing.assert_array_equal(*orders)


def test_torch_s_into_fit():
    model = fz.models.get("mlp", num_classes=2, input_shape=(3,), features=(4,)).init(0)
    losses = []
    for data in ((X, Y), loader(pairs()), pairs()):
        trainer = fz.Trainer(model, metrics=["accuracy"])
        history = trainer.fit(
            data, validation_data=data, epochs=2, batch_size=8, shuffle=False, progress=False
        )
        losses.append(history["loss"] + history["val_loss"])
    assert losses[0] == losses[1] == losses[2]


def test_tensors_that_require_gradients():
    features = torch.from_numpy(X).requires_grad_()
    check([(features[i : i + 8], Y[i : i + 8]) for i in range(0, 20, 8)])


def test_tensorflow():
    tf = pytest.importorskip("tensorflow")
    pairs = tf.data.Dataset.from_tensor_slices((X, Y))
    for data in (
        pairs.batch(8),
        tf.data.Dataset.from_tensor_slices({"image": X, "label": Y}).batch(8),
        pairs,
    ):
        check(data)
    with pytest.raises(fz.errors.DataError, match="never ends"):
        Feed(pairs.repeat().batch(8))
    feed = Feed(pairs.repeat().batch(8), steps_per_epoch=2)
    made = [batch.targets for epoch in range(2) for batch in feed.epoch(epoch)]
    np.testing.assert_array_equal(np.concatenate(made), np.resize(Y, 32))
