"""uint8 images go through the model's own preprocessing, wherever they go in."""

import warnings

import jax
import numpy as np
import pytest

import flaxzoo as fz

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 6, 6, 3), np.uint8)
LABELS = RNG.integers(0, 3, 12)
PREPROCESS = fz.Preprocess(input_shape=(6, 6, 3), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
FIT = {"batch_size": 4, "progress": False}


@pytest.fixture(scope="module")
def model():
    model = fz.models.get("cnn", num_classes=3, input_shape=(6, 6, 3), features=(4,))
    return with_preprocess(model).init(0)


def with_preprocess(model, preprocess=PREPROCESS):
    spec = fz.ModelSpec(**{**vars(model.spec), "preprocess": preprocess})
    return fz.Model(model.module, model.variables, spec)


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), a, b)


def test_scaling_is_the_preprocessing_itself():
    floats = PREPROCESS(PIXELS)
    np.testing.assert_allclose(PREPROCESS.scaled(PIXELS), floats, atol=1e-6)
    assert PREPROCESS.scaled(floats) is floats
    grey = fz.Preprocess(input_shape=(6, 6, 1), mean=(0.5, 0.4, 0.3), std=(0.2,))
    np.testing.assert_allclose(grey.scaled(PIXELS[..., 0]), grey(PIXELS[..., 0]), atol=1e-6)
    for other in (PIXELS[..., :2], PIXELS[:, 0], PIXELS.astype(np.int32), np.zeros(3, np.uint8)):
        assert PREPROCESS.scaled(other) is other


def test_one_rule_for_every_step(model):
    state = fz.create_train_state(model, optimizer="sgd", learning_rate=0.1)
    floats = PREPROCESS(PIXELS)
    trained, metrics = fz.train_step(state, (PIXELS, LABELS))
    expected, expected_metrics = fz.train_step(state, (floats, LABELS))
    close(trained.params, expected.params)
    close(metrics.compute(), expected_metrics.compute())
    close(
        fz.eval_step(state, (PIXELS, LABELS)).compute(),
        fz.eval_step(state, (floats, LABELS)).compute(),
    )
    close(fz.predict_step(state, PIXELS), fz.predict_step(state, floats))
    close(fz.predict_step(state, PIXELS), model(floats))
    stacked = lambda x: x.reshape(3, 4, *x.shape[1:])  # noqa: E731
    several, _ = fz.train_steps(state, (stacked(PIXELS), stacked(LABELS)))
    close(several.params, fz.train_steps(state, (stacked(floats), stacked(LABELS)))[0].params)


def test_one_rule_for_the_loop_and_for_features(model):
    runs = []
    for images in (PIXELS, PREPROCESS(PIXELS)):
        trainer = fz.Trainer(model, optimizer="sgd", learning_rate=0.1, augment="flip")
        trainer.fit((images, LABELS), validation_data=(images, LABELS), **FIT)
        runs.append((trainer.history.last(), trainer.predict(images)))
        assert trainer.model.spec.input_dtype == "float32"
    close(*runs)
    assert trainer.model.predict(PIXELS).indices[:, 0].tolist() == runs[0][1].argmax(-1).tolist()
    features = [
        fz.transfer.extract_features(model, (images, LABELS), progress=False).inputs
        for images in (PIXELS, PREPROCESS(PIXELS))
    ]
    close(*features)


def test_what_is_reconstructed_is_what_goes_in():
    model = with_preprocess(fz.models.get("autoencoder", input_shape=(6, 6, 3)))
    losses = []
    for images in (PIXELS, (PIXELS, PIXELS), PREPROCESS(PIXELS)):
        trainer = fz.Trainer(model, seed=1)
        losses.append(trainer.fit(images, **FIT)["loss"])
    close(losses[0], losses[2])
    close(losses[1], losses[2])


def test_grey_pictures_need_no_channel_axis():
    grey = PIXELS[..., 0]
    model = fz.models.get("cnn", num_classes=3, input_shape=(6, 6, 1), features=(4,))
    trainer = fz.Trainer(model)
    trainer.fit((grey, LABELS), **FIT)
    assert trainer.model.spec.input_shape == (6, 6, 1)
    close(trainer.predict(grey), trainer.predict(grey[..., None] / np.float32(255)))


def test_initialised_from_pixels():
    model = fz.models.get("cnn", num_classes=3, features=(4,))
    model = with_preprocess(model)
    assert model.init(0, PIXELS).spec.input_dtype == "float32"
    state = fz.create_train_state(model, inputs=PIXELS)
    assert fz.predict_step(state, PIXELS).shape == (12, 3)


@pytest.mark.parametrize("use", ["fit", "evaluate", "predict", "features"])
def test_unscaled_images_are_spoken_of(model, use):
    images = PIXELS.astype(np.float32)
    trainer = fz.Trainer(model)
    uses = {
        "fit": lambda x: trainer.fit((x, LABELS), **FIT),
        "evaluate": lambda x: trainer.evaluate((x, LABELS), batch_size=4),
        "predict": model.predict,
        "features": lambda x: fz.transfer.extract_features(model, x, progress=False),
    }
    with pytest.warns(
        UserWarning, match=r"float32 reach 25\d.*makes 3.5 of white: they look unsc"
    ) as told:
        uses[use](images)
    assert [one.filename for one in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        uses[use](PREPROCESS(PIXELS))


def test_modules_of_ones_own_get_what_was_given():
    model = fz.models.get("cnn", num_classes=3, input_shape=(6, 6, 3), features=(4,))
    state = fz.create_train_state(model.module, inputs=PIXELS)
    assert state.preprocess is None
    close(fz.predict_step(state, PIXELS), fz.predict_step(state, PIXELS.astype(np.float32)))
