"""A model predicts from files as it was trained on them."""

import json
import warnings

import flax.linen as nn
import numpy as np
import pytest
from PIL import Image

import flaxzoo as fz
from flaxzoo.errors import DataError

PREPROCESS = fz.Preprocess((6, 6, 3), mean=(0.5,), std=(0.25,), crop=1.0)


class Own(nn.Module):
    """A module of one's own: nothing is known of it."""

    width: int = 2

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x.mean((1, 2)))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    root = tmp_path_factory.mktemp("pets")
    rng = np.random.default_rng(0)
    rows = {"file": [], "label": []}
    for number in range(8):
        pixels = rng.integers(0, 120, (9, 7, 3), np.uint8)
        pixels[..., number % 2] += np.uint8(130)
        Image.fromarray(pixels).save(root / f"{number}.png")
        rows["file"].append(str(root / f"{number}.png"))
        rows["label"].append(("cat", "dog")[number % 2])
    return rows


def images(rows, preprocess=PREPROCESS):
    return fz.data.ImageCSV(rows, preprocess=preprocess, batch_size=4)


def trained(model, data, **options):
    trainer = fz.Trainer(model, optimizer="sgd", learning_rate=0.1, **options)
    trainer.fit(data, batch_size=4, progress=False)
    return trainer


@pytest.mark.parametrize("initialised", [False, True])
def test_a_module_of_ones_own_predicts_from_files(rows, initialised, tmp_path):
    model = fz.Model(Own())
    if initialised:
        model = model.init(0, np.zeros((1, 6, 6, 3), np.float32))
    trainer = trained(model, images(rows), run_dir=tmp_path / "run")
    made = trainer.model
    assert made.spec.preprocess == PREPROCESS
    assert made.spec.classes == ("cat", "dog")
    predictions = made.predict(rows["file"][:3])
    logits = np.asarray(made(PREPROCESS(rows["file"][:3])))
    np.testing.assert_array_equal(predictions.indices[:, 0], logits.argmax(-1))
    assert set(predictions.labels[0]) == {"cat", "dog"}
    # uint8 pictures in memory go the same way.
    np.testing.assert_allclose(
        trainer.predict(np.full((2, 6, 6, 3), 51, np.uint8)),
        np.asarray(made(np.full((2, 6, 6, 3), (0.2 - 0.5) / 0.25, np.float32))),
        rtol=1e-5,
    )
    trainer.save(tmp_path / "run")
    for again in (
        fz.Trainer.load(tmp_path / "run", model=Own()).model,
        save_and_load(made, tmp_path / "model"),
    ):
        loaded = again.predict(rows["file"][0])
        assert loaded.labels[0] == predictions.labels[0]
        np.testing.assert_allclose(loaded.probabilities[0], predictions.probabilities[0], rtol=1e-5)


def save_and_load(model, directory):
    model.save(directory)
    return fz.Model.load(directory, module=Own())


def test_what_is_no_class_is_not_ranked(rows):
    wide = trained(Own(width=3), images(rows)).model
    assert wide.spec.classes is None
    assert wide.predict(rows["file"]).shape == (8, 3)
    head = fz.models.Classifier(backbone=Own(width=4), head=fz.models.Head(2, pooling="none"))
    assert trained(head, images(rows)).model.predict(rows["file"][0])[0][0][0] in ("cat", "dog")
    # Features of a table stay what they were: outputs.
    table = fz.data.TableCSV({"x": range(8), "y": ["a", "b"] * 4}, "y", validation_fraction=0)
    linear = trained(nn.Dense(2), table).model
    assert linear.spec.classes == ("a", "b")
    assert linear.predict(table.train[0]).shape == (8, 2)


def test_fresh_weights_know_the_data_s_preprocessing(rows):
    model = fz.models.get("cnn", input_shape=(6, 6, 3), features=(4,), num_classes=2)
    assert model.spec.preprocess != PREPROCESS
    assert trained(model, images(rows)).model.spec.preprocess == PREPROCESS


def test_weights_that_were_given_keep_theirs_with_a_word(rows):
    model = fz.models.get("cnn", input_shape=(6, 6, 3), features=(4,), num_classes=2).init(0)
    message = r"train_data normalises images by mean \(0.5, .*pass preprocess=model.spec.preprocess"
    with pytest.warns(UserWarning, match=message):
        kept = trained(model, images(rows)).model
    assert kept.spec.preprocess == model.spec.preprocess
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Another crop is a choice, not another normalisation.
        trained(model, images(rows, fz.Preprocess((6, 6, 3), crop=1.0)))
        trained(model, images(rows, model.spec.preprocess))


def test_arrays_bring_no_preprocessing(rows):
    data = images(rows)
    model = trained(Own(), data.load()).model
    with pytest.raises(DataError, match=r"no preprocessing for pictures: .*images\.preprocess\)\)"):
        model.predict(rows["file"][0])


def test_runs_of_before_still_load(rows, tmp_path):
    trained(Own(), images(rows), run_dir=tmp_path).save(tmp_path)
    file = tmp_path / "trainer.json"
    document = json.loads(file.read_text())
    assert document["noted"]["classes"] == ["cat", "dog"]
    del document["noted"]
    document.pop("document_sha256", None)
    file.write_text(json.dumps(document))
    assert fz.Trainer.load(tmp_path, model=Own()).model.spec.classes is None
