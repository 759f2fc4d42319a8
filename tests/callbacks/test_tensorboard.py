from __future__ import annotations

import functools
import sys
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _events import decode, read, scalars

import flaxzoo as fz
from flaxzoo.callbacks import CallbackError, Embeddings
from flaxzoo.errors import ArgumentError, MissingExtraError, ShapeError

# The graph of a model is another test's; that of the stand-in below cannot be traced.
TensorBoard = functools.partial(fz.callbacks.TensorBoard, graph=False)


class Metrics:
    def __init__(self, **values):
        self.values = values

    def compute(self):
        return self.values


class Model:
    """Says class 1 of images, or gives them back."""

    def __init__(self, reconstructs=False):
        self.reconstructs = reconstructs

    def __call__(self, images):
        return images if self.reconstructs else jnp.tile(jnp.array([0.0, 2.0]), (len(images), 1))

    def summary(self):
        return "layer  parameters\nconv_0        10"


def make_trainer(tmp_path, step=0, **kwargs):
    params = {"backbone": {"conv_0": {"kernel": jnp.arange(100.0)}}}
    model = Model(**kwargs)
    return SimpleNamespace(
        step=step,
        state=SimpleNamespace(params=params, step=jnp.array(step)),
        model=model,
        model_with_state=lambda: model,
        run_dir=tmp_path,
        learning_rate=0.25,
        epochs=2,
        steps_per_epoch=4,
        hyperparameters=lambda: {
            "optimizer": "adam",
            "batch_size": np.int64(8),
            "shuffle": True,
            "nothing": None,
            "mesh": (1, 2),
        },
    )


def run(callback, trainer, epochs=range(2), steps=4):
    callback.on_train_begin(trainer)
    step = int(trainer.state.step)
    for epoch in epochs:
        for _ in range(steps):
            step += 1
            trainer.step = step
            callback.on_step_end(trainer, step, Metrics(loss=float(step)))
        callback.on_epoch_end(trainer, epoch, {"loss": epoch + 0.5, "val_loss": epoch + 0.75})
    callback.on_train_end(trainer)


def test_scalars_text_and_hyper_parameters(tmp_path):
    run(TensorBoard(every_steps=2), make_trainer(tmp_path))
    train = read(tmp_path / "tensorboard" / "train")
    validation = read(tmp_path / "tensorboard" / "validation")
    assert scalars(train, "epoch/loss") == [(4, 0.5), (8, 1.5)]
    assert scalars(validation, "epoch/loss") == [(4, 0.75), (8, 1.75)]
    assert scalars(train, "epoch/learning_rate") == [(4, 0.25), (8, 0.25)]
    assert scalars(train, "step/loss") == [(2, 2.0), (4, 4.0), (6, 6.0), (8, 8.0)]
    (text,) = train.Tensors("model/summary/text_summary")
    assert b"    conv_0        10" in text.tensor_proto.string_val[0]

    from tensorboard.plugins.hparams import plugin_data_pb2

    session = read(tmp_path / "tensorboard" / "train" / "hparams")
    data = plugin_data_pb2.HParamsPluginData.FromString(
        session.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    )
    given = data.session_start_info.hparams
    assert given["optimizer"].string_value == "adam"
    assert given["batch_size"].number_value == 8
    assert given["shuffle"].bool_value is True
    assert given["mesh"].string_value == "(1, 2)"
    assert "nothing" not in given
    assert scalars(session, "hparam/val_loss") == [(8, 1.75)]


def test_histograms_and_images(tmp_path):
    images = np.zeros((4, 8, 8, 1), np.float32)
    images[:, 2] = 1
    callback = TensorBoard(
        tmp_path / "log",
        histogram_every=2,
        sample=(images, np.array([0, 1, 1, 1])),
        class_names=["cat", "dog"],
        images=lambda trainer, epoch: {"mine": np.full((1, 5, 6, 3), 255, np.uint8)},
    )
    run(callback, make_trainer(tmp_path))
    train = read(tmp_path / "log" / "train")
    (histogram,) = train.Histograms("parameters/backbone/conv_0/kernel")
    assert histogram.step == 8
    assert histogram.histogram_value.num == 100
    assert histogram.histogram_value.min == 0
    assert histogram.histogram_value.max == 99
    assert [event.step for event in train.Images("sample/predictions")] == [4, 8]
    grid = decode(train.Images("sample/predictions")[0])
    assert grid.ndim == 3
    assert min(grid.shape[:2]) > 100
    assert (decode(train.Images("images/mine")[0]) == 255).all()
    (inputs,) = train.Images("sample/inputs")
    assert decode(inputs).max() == 255
    assert inputs.step == 0


def test_outputs_of_a_model_that_returns_images(tmp_path):
    images = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    run(TensorBoard(sample=images), make_trainer(tmp_path, reconstructs=True))
    train = read(tmp_path / "tensorboard" / "train")
    np.testing.assert_array_equal(
        decode(train.Images("sample/outputs")[0]), decode(train.Images("sample/inputs")[0])
    )


def test_a_resumed_run_replaces_what_came_after_its_start(tmp_path):
    run(TensorBoard(every_steps=1), make_trainer(tmp_path), range(3))
    # The checkpoint was of step 8: what the first run logged for 9 to 12 is void.
    trainer = make_trainer(tmp_path, step=8)
    run(TensorBoard(every_steps=0), trainer, [2], steps=5)
    train = read(tmp_path / "tensorboard" / "train")
    assert [s for s, _ in scalars(train, "epoch/loss")] == [4, 8, 13]
    assert [s for s, _ in scalars(train, "step/loss")] == list(range(1, 9))
    validation = read(tmp_path / "tensorboard" / "validation")
    assert [s for s, _ in scalars(validation, "epoch/loss")] == [4, 8, 13]


def test_a_new_run_in_an_old_directory_starts_anew(tmp_path):
    run(TensorBoard(), make_trainer(tmp_path), range(3))
    run(TensorBoard(), make_trainer(tmp_path), range(1))
    train = read(tmp_path / "tensorboard" / "train")
    assert scalars(train, "epoch/loss") == [(4, 0.5)]


@pytest.mark.parametrize("window", [(1, 2), (2, 3), (3, 100)])
def test_profile(tmp_path, window):
    run(TensorBoard(profile_steps=window), make_trainer(tmp_path), range(1))
    assert len(list((tmp_path / "tensorboard").glob("plugins/profile/*/*.xplane.pb"))) == 1


def test_no_profile_of_steps_that_a_resumed_run_is_past(tmp_path):
    run(TensorBoard(profile_steps=(2, 3)), make_trainer(tmp_path, step=8), [2])
    assert not (tmp_path / "tensorboard" / "plugins").exists()


def test_a_model_without_an_input_shape(tmp_path):
    trainer = make_trainer(tmp_path)

    class Unknown(Model):
        def summary(self):
            raise ShapeError("not known")

        def __repr__(self):
            return "Unknown()"

    trainer.model_with_state = Unknown
    run(TensorBoard(), trainer)
    (text,) = read(tmp_path / "tensorboard" / "train").Tensors("model/summary/text_summary")
    assert b"Unknown()" in text.tensor_proto.string_val[0]


@pytest.mark.slow
def test_a_training_writes_the_graph_embeddings_and_what_others_want(tmp_path):
    images = np.random.default_rng(0).random((8, 8, 8, 1), np.float32)
    labels = np.arange(8) % 2
    board = fz.callbacks.TensorBoard(
        tmp_path,
        class_names=["cat", "dog"],
        embeddings=Embeddings(images[:5], labels[:5], every=1, name="cats"),
    )
    board.writer.scalar("mine/before", 1.0)

    class Mine(fz.callbacks.Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            board.writer.scalar("mine/epoch", epoch)

    fields = {"input_shape": (8, 8, 1), "features": (4,), "hidden": ()}
    trainer = fz.Trainer(fz.models.get("cnn", num_classes=2, **fields))
    # The other comes first: what it writes stands at the present step all the same.
    trainer.fit((images, labels), epochs=2, batch_size=4, callbacks=[Mine(), board], progress=False)
    board.writer.scalar("mine/after", 1.0)
    board.writer.close()
    events = read(tmp_path / "train")
    assert scalars(events, "mine/before") == [(0, 1.0)]
    assert scalars(events, "mine/epoch") == [(2, 0.0), (4, 1.0)]
    assert scalars(events, "mine/after") == [(4, 1.0)]
    assert {"inputs", "backbone/conv_0/kernel", "head/fc/matmul", "outputs"} <= {
        node.name for node in events.Graph().node
    }
    menu = (tmp_path / "train" / "projector_config.pbtxt").read_text()
    assert [f"cats:{step}" in menu for step in (2, 4)] == [True, True]
    place = tmp_path / "train" / "projector" / "cats" / "000004"
    features = trainer.model.features(images[:5])
    expected = np.asarray(features).reshape(5, -1, features.shape[-1]).mean(1)
    np.testing.assert_allclose(np.loadtxt(place / "tensors.tsv"), expected, rtol=1e-4, atol=1e-6)
    assert (place / "metadata.tsv").read_text().splitlines()[1:3] == ["cat\t0", "dog\t1"]
    assert (place / "sprite.png").exists()


class NeedsKey(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + jax.random.normal(self.make_rng("noise"), x.shape)


def test_a_module_that_cannot_be_drawn_is_trained_all_the_same(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model_with_state = lambda: fz.Model(NeedsKey(), {"params": {}})
    trainer.inputs = np.zeros((2, 3), np.float32)
    board = fz.callbacks.TensorBoard()
    with pytest.warns(UserWarning, match=r"TensorBoard has no graph of Model\(NeedsKey.*noise"):
        run(board, trainer, range(1))
    assert scalars(read(tmp_path / "tensorboard" / "train"), "epoch/loss") == [(4, 0.5)]


def test_embeddings_at_the_end_and_none_where_an_error_ends_training(tmp_path):
    model = fz.models.get("mlp", num_classes=2, input_shape=(3,), features=(4,)).init()
    trainer = make_trainer(tmp_path)
    trainer.model_with_state = lambda: model
    board = TensorBoard(embeddings=np.ones((2, 3), np.float32))
    board.on_train_begin(trainer)
    try:
        raise RuntimeError
    except RuntimeError:
        board.on_train_end(trainer)
    projector = tmp_path / "tensorboard" / "train" / "projector"
    assert not projector.exists()
    run(board, trainer, range(1))
    assert [path.name for path in projector.glob("*/*")] == ["000004"]
    vectors = model.variables["params"]
    model = model.with_variables({"params": jax.tree.map(lambda x: x * np.nan, vectors)})
    trainer.step = 0
    with pytest.warns(UserWarning, match="no embeddings of step 4: the features are not finite"):
        run(board, trainer, range(1))


def test_embeddings_that_do_not_fit_the_model_are_refused_before_training(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.model_with_state = lambda: fz.Model(nn.Dense(2))
    with pytest.raises(CallbackError, match="'Dense' is no Classifier"):
        TensorBoard(embeddings=np.ones((2, 3))).on_train_begin(trainer)
    assert not list(tmp_path.iterdir())


def test_errors(tmp_path, monkeypatch):
    callback = TensorBoard()
    with pytest.raises(CallbackError, match="TensorBoard has nowhere to write"):
        callback.on_train_begin(make_trainer(None))
    # The trainer ends every callback, also one that could not begin.
    monkeypatch.chdir(tmp_path)
    callback.on_train_end(make_trainer(None))
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(CallbackError, match=r"TensorBoard cannot write .*file"):
        TensorBoard(tmp_path / "file" / "log").on_train_begin(make_trainer(None))
    with pytest.raises(CallbackError, match=r"profile_steps must be \(first, last\)"):
        TensorBoard(profile_steps=(0, 3))
    with pytest.raises(ArgumentError, match="sample_every must be an int of at least 1"):
        TensorBoard(sample_every=0)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r'pip install "flaxzoo\[tensorboard\]"'):
        TensorBoard()
