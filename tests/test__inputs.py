"""Values that no model takes are found before a step, on the host."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo import _inputs
from flaxzoo._host import as_host, check_numbers, unmasked
from flaxzoo._inputs import check_inputs
from flaxzoo.errors import DataError

IDS = np.array([[1, 2, 3], [4, 0, 0]], np.int32)
LABELS = np.array([0, 1])


class Words(nn.Module):
    """A model of one's own: ids in, logits out."""

    @nn.compact
    def __call__(self, ids):
        words = nn.Embed(5, 3, name="words")(ids)
        places = nn.Embed(3, 3, name="places")(jnp.arange(ids.shape[1]))
        return nn.Dense(2)((words + places).mean(1))


class Wrapped(nn.Module):
    """An LSTM inside a model of one's own."""

    @nn.compact
    def __call__(self, batch):
        features = fz.models.LSTM(hidden_size=2, vocab_size=5)(batch["ids"], lengths=batch["n"])
        return nn.Dense(2)(features)


def lstm(**fields):
    return fz.models.get("lstm", vocab_size=5, hidden_size=2, num_classes=2, **fields)


def state_of(model, inputs=None):
    return fz.create_train_state(model, inputs=inputs, optimizer="sgd", learning_rate=0.1)


@pytest.mark.parametrize("wrong", [5, -1])
def test_ids_outside_the_vocabulary(wrong):
    ids = IDS.copy()
    ids[1, 2] = wrong
    message = rf"inputs holds the id {wrong} at index \[1, 2\] \(1 of 6 are wrong\); .* ids 0 to 4"
    for model in (lstm(input_shape=(3,)).init(0), fz.Model(Words()).init(0, IDS)):
        state = state_of(model)
        for use, *args in (
            (fz.train_step, state, (ids, LABELS)),
            (fz.eval_step, state, (ids, LABELS)),
            (fz.predict_step, state, ids),
            (model.predict, ids),
        ):
            with pytest.raises(DataError, match=message):
                use(*args)
    with pytest.raises(DataError, match="the embedding 'words' of the model has"):
        model.predict(ids)
    # What is on the device is not fetched for it.
    assert np.isfinite(fz.eval_step(state, (jnp.asarray(IDS), LABELS)).compute()["loss"])


def test_a_fit_is_told_before_it_begins():
    ids = np.concatenate([IDS, IDS + 3])
    labels = np.concatenate([LABELS, LABELS])
    with pytest.raises(DataError, match="inputs holds the id [67] at"):
        fz.Trainer(lstm(input_shape=(3,))).fit((ids, labels), batch_size=2, progress=False)


def test_masked_steps_may_hold_anything():
    ids = np.array([[1, 2, 99], [4, 99, -7]])
    lengths, plain = np.array([2, 1]), lstm()
    shapes = plain.shapes(IDS)
    for model, inputs in (
        (plain, {"text": ids, "lengths": lengths}),
        (plain, {"text": ids, "mask": np.arange(3) < lengths[:, None]}),
        (lstm(pad_id=-1), np.where(ids > 5, -1, np.maximum(ids, -1))),
        (plain, {"text": jnp.asarray(ids), "lengths": lengths}),
    ):
        check_inputs(model.module, shapes, inputs)
    with pytest.raises(DataError, match=r"the id 99 at index \[1, 1\] \(1 of 6"):
        check_inputs(plain.module, shapes, {"text": ids, "lengths": np.array([2, 2])})


@pytest.mark.parametrize("lengths", [[3, 4], [-1, 2]])
def test_lengths_beyond_the_steps(lengths):
    lengths = np.array(lengths)
    message = f"lengths must lie between 0 and the 3 steps .*got {min(lengths)} to {max(lengths)}"
    model = lstm(input_shape=(3,)).init(0)
    inputs = {"text": IDS, "lengths": lengths}
    with pytest.raises(DataError, match=message):
        fz.train_step(state_of(model), {**inputs, "label": LABELS})
    with pytest.raises(DataError, match=message):
        model.predict(inputs)
    own = {"ids": IDS, "n": np.array([1, 2])}
    wrapped = fz.Model(Wrapped()).init(0, own)
    fz.eval_step(state_of(wrapped), (own, LABELS))
    with pytest.raises(DataError, match=message):
        fz.eval_step(state_of(wrapped), ({**own, "n": lengths}, LABELS))


def test_a_model_is_traced_once_for_a_shape(monkeypatch):
    traces = []
    trace = _inputs._trace
    monkeypatch.setattr(_inputs, "_trace", lambda *args: traces.append(1) or trace(*args))
    model = fz.Model(nn.Sequential([nn.Embed(7, 2)])).init(0, IDS)
    for _ in range(3):
        check_inputs(model.module, model.variables, IDS)
    check_inputs(model.module, model.variables, np.zeros((2, 3), np.float32))
    assert len(traces) == 1
    with pytest.raises(DataError, match="holds the id 7"):
        check_inputs(model.module, model.variables, IDS + 5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_weights_are_looked_at(bad):
    weights = np.array([1.0, bad], np.float32)
    message = rf"weight holds {bad} at index \[[01]\] \(1 of 2 are wrong\).* 0 leaves it out"
    model = lstm(input_shape=(3,)).init(0)
    state = state_of(model)
    trainer = fz.Trainer(model)
    for use in (
        lambda: fz.train_step(state, (IDS, LABELS, weights)),
        lambda: fz.train_step(state, fz.data.Batch(IDS, LABELS, weights)),
        lambda: fz.eval_step(state, {"text": IDS, "label": LABELS, "weight": weights}),
        lambda: fz.train_steps(state, (IDS[None], LABELS[None], weights[None])),
        lambda: trainer.fit((IDS, LABELS, weights), batch_size=2, progress=False),
        lambda: trainer.evaluate([(IDS, LABELS, weights)]),
        lambda: fz.transfer.extract_features(model, (IDS, LABELS, weights), progress=False),
    ):
        with pytest.raises(DataError, match=message):
            use()


def test_weights_that_leave_all_out():
    trainer = fz.Trainer(lstm(input_shape=(3,)))
    with pytest.raises(DataError, match="train_data has the weight 0 for every example"):
        trainer.fit((IDS, LABELS, np.zeros(2)), batch_size=2, progress=False)
    # A loss over nothing would be a perfect 0.
    nothing = [(IDS, LABELS, np.zeros(2))]
    with pytest.raises(DataError, match="train_data has the weight 0 for every example"):
        trainer.fit(nothing, progress=False)
    with pytest.raises(DataError, match="data has the weight 0 for every example"):
        trainer.evaluate(nothing)
    half = [*nothing, (IDS, LABELS, np.ones(2))]
    assert trainer.evaluate(half) == trainer.evaluate((IDS, LABELS))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b"], "targets holds text .*str 'a'.*np.unique"),
        ([0, None], r"targets holds objects .*NoneType None.*np.unique"),
        ([None, None], r"targets holds objects .*NoneType None"),
        (LABELS.astype(object), r"targets holds objects .*int 0.*astype\(np.int32\)"),
        (LABELS.astype("M8[D]"), "targets holds dates"),
    ],
)
def test_labels_that_are_no_numbers(labels, message):
    model = lstm(input_shape=(3,)).init(0)
    with pytest.raises(DataError, match=message):
        fz.train_step(state_of(model), (IDS, labels))
    with pytest.raises(DataError, match="holds (text|objects|dates) "):
        fz.Trainer(model).fit((IDS, labels), batch_size=2, progress=False)


@pytest.mark.parametrize("kind", ["inputs", "targets"])
def test_masked_arrays_reach_no_step(kind):
    masked = {"inputs": np.ma.masked_equal(IDS, 4), "targets": np.ma.masked_equal(LABELS, 1)}
    batch = {"inputs": IDS, "targets": LABELS, kind: masked[kind]}
    model = lstm(input_shape=(3,)).init(0)
    state = state_of(model)
    for given in (batch, fz.data.Batch(**batch)):
        with pytest.raises(DataError, match=r"is a masked array.*1 of . values"):
            fz.train_step(state, given)
    # Every other way in.
    loss, metric = fz.losses.get("mean_squared_error"), fz.metrics.get("accuracy")
    scores = np.ma.masked_less(np.array([0.5, 1.5]), 1)
    for use in (
        lambda: loss(scores, np.ones(2)),
        lambda: loss(np.ones(2), scores),
        lambda: metric.update(np.eye(2), masked["targets"]),
        lambda: fz.data.check_finite({"a": scores}),
        lambda: loss(np.ones(2), np.ones(2), weights=scores),
        lambda: model(masked["inputs"]),
        lambda: model.features(masked["inputs"]),
        lambda: fz.data.pad_batch(scores, 3),
        lambda: next(fz.data.prefetch_to_device([scores])),
        lambda: fz.data.ExampleDataset([(scores, 0), (scores, 1)], 2).epoch(0).__next__(),
        lambda: fz.Preprocess((8, 8, 1))(np.ma.masked_equal(np.zeros((8, 8), np.uint8), 0)),
        lambda: fz.Preprocess((8, 8, 1))([np.ma.masked_equal(np.zeros((8, 8, 1), np.float32), 0)]),
        lambda: fz.transfer.KNN(np.ma.masked_less(np.ones((2, 2)), 2), LABELS, k=1),
        lambda: model.predict(masked["inputs"]),
    ):
        with pytest.raises(DataError, match="is a masked array"):
            use()


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (np.array([[1e300, 1], [0, 0]]), np.zeros((2, 1)), "inputs holds float64 from 0 to 1e.300"),
        (
            np.array([[1, 2**40], [0, 0]]),
            np.zeros((2, 1)),
            "inputs holds int64 .* beyond the int32",
        ),
        (np.ones((2, 2)), np.array([[1e300], [0]]), "targets holds float64 .* float32 that JAX"),
        (np.ones((2, 2)), np.array([[-(2**40)], [0]]), "targets holds int64 from -1.09951e.12"),
        (np.ones((2, 2)), np.array([[2**40], [0]], np.uint64), "targets holds uint64 .* uint32"),
    ],
)
def test_numbers_beyond_32_bits(inputs, targets, message):
    model = fz.models.get("mlp", input_shape=(2,), features=(2,), num_classes=1)
    state = fz.create_train_state(model, loss="mean_squared_error")
    with pytest.raises(DataError, match=message):
        fz.train_step(state, (inputs, targets))


def test_texts_are_told_the_vectorizer():
    model = lstm(input_shape=(3,)).init(0)
    for texts in (["a text"], "a text", np.array(["a", "b"]), [["a", "text"]]):
        with pytest.raises(
            DataError, match=r"takes token ids, .*vectorizer\.with_lengths\(texts\)"
        ):
            model.predict(texts)
    own = fz.Model(Wrapped()).init(0, {"ids": IDS, "n": np.array([1, 2])})
    with pytest.raises(DataError, match=r"takes arrays, got texts: .*vectorizer\.with_lengths\(te"):
        own.predict(["a text.", "another"])
    with pytest.raises(DataError, match="no preprocessing for pictures"):
        own.predict(["cat.jpg"])
    with pytest.raises(DataError, match=r"inputs holds text .*vectorizer\.with_lengths\(texts\)"):
        model(["a text"])
    with pytest.raises(DataError, match="TextVectorizer"):
        fz.Trainer(model).predict(["a text"])


def test_lists_are_predicted():
    model = lstm(input_shape=(3,)).init(0)
    np.testing.assert_array_equal(model.predict(IDS.tolist()).indices, model.predict(IDS).indices)


def test_plain_arrays_pass():
    array = np.arange(3)
    assert unmasked(array, "x") is array
    assert as_host(array, "x") is array
    check_numbers(jax.random.key(0), "x")
    check_numbers(None, "x")
