from __future__ import annotations

import pickle
import re
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _events import decode, read, scalars, texts

import flaxzoo as fz
from flaxzoo.callbacks import CallbackError, EventWriter
from flaxzoo.errors import ArgumentError, DataError, ShapeError


def test_everything_a_reader_writes_is_there(tmp_path):
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure(figsize=(2, 1), dpi=50)
    canvas = figure.canvas
    with EventWriter(tmp_path) as writer:
        writer.scalar("mine/gap", jnp.float32(0.5), 3)
        writer.scalar("mine/gap", np.array([0.25]), 4)
        writer.scalar("mine/gap", 0.75, 4, run="validation")
        writer.text("note", "**bold**", 7)
        writer.image("one", np.full((4, 6, 3), 255, np.uint8))
        writer.image("grey", np.zeros((2, 4, 6)))
        writer.figure("figure", figure)
        writer.histogram("values", jnp.arange(10, dtype=jnp.bfloat16), 2)
    events = read(tmp_path / "train")
    assert scalars(events, "mine/gap") == [(3, 0.5), (4, 0.25)]
    assert scalars(read(tmp_path / "validation"), "mine/gap") == [(4, 0.75)]
    assert texts(events, "note") == [(7, "**bold**")]
    assert (decode(events.Images("one")[0]) == 255).all()
    assert decode(events.Images("one")[0]).shape == (4, 6, 3)
    assert events.Images("grey")[0].step == 0
    assert decode(events.Images("figure")[0]).shape == (50, 100, 3)
    # The figure is shown on where it was.
    assert figure.canvas is canvas
    (histogram,) = events.Histograms("values")
    assert (histogram.step, histogram.histogram_value.num) == (2, 10)


def test_the_step_is_the_trainers_during_training_and_stays_its_last(tmp_path):
    writer, trainer = EventWriter(), SimpleNamespace(step=0)
    writer.begin(trainer, tmp_path)
    for trainer.step in (1, 2):
        writer.scalar("a", trainer.step)
    writer.end()
    writer.scalar("b", 1.0)
    assert writer.step == 2
    writer.close()
    assert scalars(read(tmp_path / "train"), "a") == [(1, 1.0), (2, 2.0)]
    assert scalars(read(tmp_path / "train"), "b") == [(2, 1.0)]


@pytest.mark.parametrize(("start", "old"), [(0, []), (5, [(4, 4.0)])])
def test_what_was_written_before_training_outlives_what_it_hides(tmp_path, start, old):
    with EventWriter(tmp_path) as earlier:
        for step in (4, 8):
            earlier.scalar("old", step, step)
        earlier.embedding("old", np.eye(2), 8)
    writer = EventWriter(tmp_path)
    writer.keep_until_begin()
    writer.scalar("note", 3)
    writer.embedding("points", np.eye(3))
    # It is on disk though no training has begun.
    writer.close()
    assert scalars(read(tmp_path / "train"), "note") == [(0, 3.0)]
    writer.begin(SimpleNamespace(step=start), tmp_path)
    writer.scalar("new", 1.0)
    writer.embedding("points", np.eye(3))
    writer.end()
    events = read(tmp_path / "train")
    assert scalars(events, "note") == [(0, 3.0)]
    assert scalars(events, "old") == old
    menu = (tmp_path / "train" / "projector_config.pbtxt").read_text()
    assert re.findall(r'tensor_name: "(.*)"', menu) == ["points:0"] + ["points:5"] * bool(start)


def test_the_graph_of_a_model_and_of_a_function(tmp_path):
    with EventWriter(tmp_path) as writer:
        writer.graph(fz.models.get("mlp", num_classes=2, input_shape=(4,)))
        three = jax.ShapeDtypeStruct((3,), "float32")
        writer.graph(lambda x, y: jnp.tanh(x) * y, three, three, run="f")
    names = {node.name for node in read(tmp_path / "train").Graph().node}
    assert {"inputs", "head/fc/kernel", "outputs"} <= names
    assert [node.op for node in read(tmp_path / "f").Graph().node] == [
        "input",
        "input",
        "tanh",
        "mul",
        "output",
    ]


def test_values_that_are_not_finite_are_left_out_of_histograms_with_a_word(tmp_path):
    with EventWriter(tmp_path) as writer, pytest.warns(UserWarning, match="'h': 1 of 3 values"):
        writer.histogram("h", [1.0, np.nan, 2.0])
    assert read(tmp_path / "train").Histograms("h")[0].histogram_value.num == 2


def test_hyperparameters_take_any_value(tmp_path):
    with EventWriter(tmp_path) as writer:
        writer.hyperparameters({"mesh": (1, 2), "rate": np.float32(0.5)}, {"loss": np.nan, "a": 1})
    session = read(tmp_path / "train" / "hparams")
    assert scalars(session, "a") == [(0, 1.0)]
    assert "loss" not in session.Tags()["scalars"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda w: w.scalar("x", [1.0, 2.0]), ArgumentError, "the value of 'x' must be one number"),
        (lambda w: w.scalar("x", "high"), ArgumentError, "must be one number, got 'high'"),
        (lambda w: w.scalar("", 1.0), ArgumentError, "tag must be a str that is not empty"),
        (lambda w: w.scalar("x", 1.0, -1), ArgumentError, "step must be an int of at least 0"),
        (lambda w: w.scalar("x", 1.0, 0.5), ArgumentError, "step must be an int"),
        (lambda w: w.scalar("x", 1.0, run=""), ArgumentError, "run must be the name of a folder"),
        (lambda w: w.scalar("x", 1.0, run="../y"), ArgumentError, "run must be .* got '../y'"),
        (lambda w: w.text("x", 3), ArgumentError, "text must be a str, got int: 3"),
        (lambda w: w.image("x", np.zeros((2, 4, 4, 5))), ShapeError, r"images must be \[N, H, W\]"),
        (lambda w: w.figure("x", np.zeros(3)), ArgumentError, "must be a matplotlib Figure"),
        (lambda w: w.histogram("x", []), DataError, "the histogram 'x' has no values"),
        (lambda w: w.graph(3), ArgumentError, "model must be a flaxzoo.Model or a function, got"),
        (lambda w: w.graph(fz.Model(nn.Dense(2))), ShapeError, "input shape of 'Dense' is not kn"),
        (lambda w: w.embedding("x", np.zeros(3)), ShapeError, r"vectors must be \[N, D\], got \[3"),
        (lambda w: w.embedding("x", np.zeros((0, 3))), DataError, "vectors is empty"),
        (lambda w: w.embedding("x", [[np.nan]]), DataError, r"vectors holds nan at index \[0, 0\]"),
        (lambda w: w.embedding("a/b", np.eye(2)), ArgumentError, "name of an embedding .* 'a/b'"),
        (
            lambda w: w.embedding("x", np.eye(2), labels=[1]),
            ShapeError,
            "2 vectors have 1 values of 'label'",
        ),
        (
            lambda w: w.embedding("x", np.eye(2), images=np.zeros((3, 4, 4))),
            ShapeError,
            "2 vectors have 3 images",
        ),
    ],
)
def test_errors_name_the_argument_and_leave_nothing(tmp_path, call, error, message):
    with EventWriter(tmp_path / "logs") as writer, pytest.raises(error, match=message):
        call(writer)
    assert not list(tmp_path.glob("logs/**/*.tsv"))


def test_without_a_place_and_where_nothing_can_be_written(tmp_path):
    writer = EventWriter()
    with pytest.raises(CallbackError, match=r"nowhere to write before fit: pass log_dir="):
        writer.scalar("x", 1.0)
    (tmp_path / "file").write_text("")
    with pytest.raises(CallbackError, match=r"TensorBoard cannot write .*file"):
        EventWriter(tmp_path / "file").scalar("x", 1.0)


def test_names_of_other_writers_are_explained(tmp_path):
    with pytest.raises(AttributeError, match=r"writer\.scalar\(tag, value, step\)"):
        EventWriter(tmp_path).add_scalar("x", 1.0, 2)


def test_a_writer_goes_to_another_process_without_its_files(tmp_path):
    board = fz.callbacks.TensorBoard(tmp_path, embeddings=np.ones((2, 3)))
    board.writer.scalar("x", 1.0, 1)
    with pickle.loads(pickle.dumps(board)).writer as copy:
        copy.scalar("x", 2.0, 2)
    board.writer.close()
    assert scalars(read(tmp_path / "train"), "x") == [(1, 1.0), (2, 2.0)]
