from __future__ import annotations

import flax.linen as nn
import numpy as np
import pytest
from _events import read
from PIL import Image

import flaxzoo as fz
from flaxzoo.callbacks import CallbackError, Embeddings, EventWriter
from flaxzoo.callbacks.embeddings import as_embeddings
from flaxzoo.errors import ArgumentError, DataError, ShapeError

IMAGES = np.random.default_rng(0).random((5, 8, 8, 1), np.float32)
LABELS = np.array([0, 1, 1, 0, 2])


@pytest.fixture(scope="module")
def model():
    model = fz.models.get("cnn", num_classes=3, input_shape=(8, 8, 1), features=(4, 6), hidden=())
    return model.init()


def menu(directory):
    projector = pytest.importorskip("tensorboard.plugins.projector.projector_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    text = (directory / "projector_config.pbtxt").read_text()
    return text_format.Parse(text, projector.ProjectorConfig()).embeddings


def test_vectors_labels_and_thumbnails_are_what_the_tab_reads(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    pictures = np.zeros((5, 4, 6, 3))
    pictures[np.arange(5), :, np.arange(5)] = 1
    with EventWriter(tmp_path) as writer:
        writer.embedding(
            "my points", vectors, 12, labels=["a", "b\tc\nd", "", "é\u2028", 5], images=pictures
        )
    run = tmp_path / "train"
    (entry,) = menu(run)
    assert entry.tensor_name == "my points:12"
    np.testing.assert_allclose(np.loadtxt(run / entry.tensor_path), vectors, rtol=1e-6)
    rows = (run / entry.metadata_path).read_text("utf-8").split("\n")
    # Two columns: of one, the tab would take the header for a label and pass over empty ones.
    assert rows == ["label\texample", "a\t0", "b c d\t1", "\t2", "é \t3", "5\t4", ""]
    assert list(entry.sprite.single_image_dim) == [6, 6]
    sheet = np.asarray(Image.open(run / entry.sprite.image_path))
    assert sheet.shape == (18, 18, 3)
    # The fifth is the second of the second row, in the middle of its square.
    fifth = sheet[6:12, 6:12]
    assert (fifth[[0, 5]] == 255).all()
    assert (fifth[1:5, 4] == 255).all()
    assert (fifth[1:5, [0, 1, 2, 3, 5]] == 0).all()
    # A folder without events would be no run.
    assert read(run).Tags()["scalars"] == []
    assert list(run.glob("events*"))


def test_thumbnails_shrink_to_what_the_tab_loads(tmp_path, monkeypatch):
    monkeypatch.setattr("flaxzoo.callbacks._projector._SHEET", 12)
    with EventWriter(tmp_path) as writer:
        writer.embedding("p", np.eye(5), images=IMAGES)
        (entry,) = menu(tmp_path / "train")
        assert list(entry.sprite.single_image_dim) == [4, 4]
        monkeypatch.setattr("flaxzoo.callbacks._projector._SHEET", 2)
        with pytest.raises(DataError, match="5 thumbnails do not fit 2 pixels: pass images=None"):
            writer.embedding("p", np.eye(5), images=IMAGES)


def test_several_columns_and_steps(tmp_path):
    with EventWriter(tmp_path) as writer:
        for step in (1, 2, 2):
            writer.embedding("p", np.eye(2) * step, step, labels={"class": "ab", "right": [1, 0]})
    first, second = menu(tmp_path / "train")
    assert [first.tensor_name, second.tensor_name] == ["p:1", "p:2"]
    rows = (tmp_path / "train" / second.metadata_path).read_text().splitlines()
    assert rows == ["class\tright\texample", "a\t1\t0", "b\t0\t1"]
    assert not second.HasField("sprite")


def test_features_are_the_backbones(model):
    sample = Embeddings(IMAGES, LABELS)
    sample.check(model)
    vectors = sample.vectors(model)
    expected = np.asarray(model.features(IMAGES))
    expected = expected.mean((1, 2)) if expected.ndim == 4 else expected
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    assert sample.named(["x", "y"]) == {"label": ["x", "y", "y", "x", 2]}
    assert sample.pictures() is IMAGES


@pytest.mark.slow
def test_a_layer_is_averaged_over_its_area():
    fields = {"layers": (1, 1), "widths": (4, 6), "kernel_sizes": (3, 3)}
    model = fz.models.get("convnext_atto", num_classes=2, input_shape=(8, 8, 1), **fields).init()
    name, *_ = model.feature_maps(IMAGES)
    vectors = Embeddings(IMAGES, layer=name).vectors(model)
    expected = np.asarray(model.feature_maps(IMAGES)[name]).mean((1, 2))
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ArgumentError, match=rf"layer must be one of .*'{name}'.*got 'layer9'"):
        Embeddings(IMAGES, layer="layer9").check(model)


def test_bytes_are_preprocessed_as_the_model_says():
    model = fz.models.get("cnn.digits", pretrained=True)
    raw = np.round(IMAGES * 255).astype(np.uint8)
    np.testing.assert_allclose(
        Embeddings(raw).vectors(model),
        Embeddings(np.asarray(model.spec.preprocess(raw))).vectors(model),
        rtol=1e-5,
    )


def test_what_cannot_be_shown_is_refused_before_training(model):
    with pytest.raises(CallbackError, match=r"'Dense' is no Classifier.*writer\.embedding"):
        Embeddings(IMAGES).check(fz.Model(nn.Dense(2)))
    own = fz.Model(fz.models.Classifier(nn.Dense(2), fz.models.Head(2))).init(inputs=IMAGES[:1])
    with pytest.raises(CallbackError, match="layer='a': a Dense has no feature maps"):
        Embeddings(IMAGES, layer="a").check(own)
    with pytest.raises(ShapeError, match="do not fit|channels"):
        Embeddings(np.zeros((2, 8, 8, 3), np.float32)).check(model)
    with pytest.raises(ShapeError, match="5 inputs have 2 labels 'label'"):
        Embeddings(IMAGES, [1, 2])
    with pytest.raises(ShapeError, match="labels must be one value for each example, got"):
        Embeddings(IMAGES, np.eye(5)).named(None)
    with pytest.raises(ArgumentError, match="labels 'label' must be 5 values, got 'cat'"):
        Embeddings(IMAGES, "cat")
    with pytest.raises(DataError, match="the inputs of embeddings are empty"):
        Embeddings(IMAGES[:0])
    with pytest.raises(ShapeError, match=r"thumbnails=True takes inputs .* got \[5, 4\]"):
        Embeddings(np.zeros((5, 4)), thumbnails=True)
    with pytest.raises(ShapeError, match="5 inputs have 3 thumbnails"):
        Embeddings(np.zeros((5, 4)), thumbnails=IMAGES[:3])
    with pytest.raises(ArgumentError, match="every must be an int of at least 0"):
        Embeddings(IMAGES, every=-1)
    with pytest.raises(ArgumentError, match=r"embeddings must be inputs .*, got bool"):
        as_embeddings(True)
    assert Embeddings(np.zeros((5, 4))).pictures() is None
    assert Embeddings(IMAGES, thumbnails=False).pictures() is None
