import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ArgumentError, DataError, ShapeError
from flaxzoo.models import Classifier, Head
from flaxzoo.transfer import Features, LinearProbe, linear_probe

linear_model = pytest.importorskip("sklearn.linear_model")
ROWS, WIDTH, CLASSES = 240, 12, 3


@pytest.fixture(scope="module")
def data():
    """Real digits 0 to 2, a few noisy pixels of them, off centre and of unequal scales."""
    (images, labels), _ = fz.data.load_digits(flat=True)
    chosen = np.flatnonzero(labels < CLASSES)[:ROWS]
    pixels = np.argsort(images[chosen].var(0))[-WIDTH:]
    noise = np.random.default_rng(0).normal(0, 0.6, (ROWS, WIDTH))
    features = (images[chosen][:, pixels] + noise) * np.linspace(1, 5, WIDTH) + 3
    return features.astype(np.float32), labels[chosen]


def reference(features, labels, penalty, **options):
    """Scikit-learn's, all the way to the minimum."""
    model = linear_model.LogisticRegression(
        C=1 / penalty, solver="newton-cg", tol=1e-10, max_iter=1000
    )
    return model.fit(features.astype(np.float64), labels, **options)


@pytest.mark.parametrize("penalty", [0.1, 1.0, 100.0])
def test_parity_with_scikit_learn(data, penalty):
    features, labels = data
    probe = linear_probe(features, labels, penalties=penalty, standardize=False, tolerance=1e-9)
    wanted = reference(features, labels, penalty)
    np.testing.assert_allclose(probe.kernel, wanted.coef_.T, atol=1e-4)
    np.testing.assert_allclose(probe.bias - probe.bias.mean(), wanted.intercept_, atol=1e-4)
    np.testing.assert_allclose(
        probe.predict_proba(features), wanted.predict_proba(features), atol=1e-6
    )
    np.testing.assert_array_equal(probe.predict(features), wanted.predict(features))
    assert probe.score(features, labels) == wanted.score(features, labels)
    assert probe.converged
    assert probe.cv_scores is None
    assert probe.penalty == penalty


def test_the_gradient_at_the_minimum_is_zero(data):
    features, labels = data
    probe = linear_probe(features, labels, penalties=2.0, tolerance=1e-9)
    features = features.astype(np.float64)
    scale = features.std(0)
    residual = probe.predict_proba(features) - np.eye(CLASSES)[labels]
    standardised = (features - features.mean(0)) / scale
    gradient = standardised.T @ residual + 2.0 * probe.kernel * scale[:, None]
    assert np.abs(gradient).max() < 1e-6
    assert np.abs(residual.sum(0)).max() < 1e-6


def test_cross_validation_is_scikit_learns(data):
    features, labels = data
    folds = np.arange(ROWS) % 3
    splits = [(np.flatnonzero(folds != i), np.flatnonzero(folds == i)) for i in range(3)]
    penalties = (1e-2, 1e4, 1.0, 1e3)
    probe = linear_probe(features, labels, penalties=penalties, folds=folds, standardize=False)
    with warnings.catch_warnings():
        # Its coming defaults, and a solver that is quick but stops early.
        warnings.simplefilter("ignore")
        wanted = linear_model.LogisticRegressionCV(
            Cs=[1e-4, 1e-3, 1.0, 1e2], cv=splits, solver="newton-cg", tol=1e-6, max_iter=500
        ).fit(features.astype(np.float64), labels)
    assert probe.penalties == (1e4, 1e3, 1.0, 1e-2)
    scores = np.asarray(
        next(iter(wanted.scores_.values())) if isinstance(wanted.scores_, dict) else wanted.scores_
    )
    np.testing.assert_allclose(probe.cv_scores, scores.reshape(3, 4).T, atol=1e-12)
    assert 1 / probe.penalty == pytest.approx(np.ravel(wanted.C_)[0])
    assert f"penalty {probe.penalty:g}, cross-validated accuracy 0." in repr(probe)


def test_standardisation_is_of_the_training_part_alone(data):
    features, labels = data
    # One wild example: its fold is scored with the others' mean and deviation.
    features = np.concatenate([features, np.full((1, WIDTH), 1e3, np.float32)])
    labels = np.append(labels, 0)
    folds = np.append(np.arange(ROWS) % 3, 3)
    probe = linear_probe(features, labels, penalties=(1.0, 10.0), folds=folds)
    for j in range(4):
        part = folds != j
        mean, scale = features[part].astype(float).mean(0), features[part].astype(float).std(0)
        for i, penalty in enumerate(probe.penalties):
            wanted = reference((features[part] - mean) / scale, labels[part], penalty)
            score = wanted.score((features[~part] - mean) / scale, labels[~part])
            assert probe.cv_scores[i, j] == pytest.approx(score, abs=1e-12)


def test_of_equal_scores_the_largest_penalty_wins():
    features = np.repeat(np.eye(2, dtype=np.float32), 6, 0)
    probe = linear_probe(features, np.arange(12) // 6, penalties=(1e-2, 1e-1, 1.0), folds=3)
    assert (probe.cv_scores == 1).all()
    assert probe.penalty == 1.0


def test_folds_are_stratified_and_fixed_by_the_seed(data):
    from flaxzoo.transfer.probe import _as_folds

    labels = np.append(data[1], [0, 1])
    counts = np.bincount(labels)
    ones = np.ones(len(labels))
    folds = _as_folds(4, labels, counts, 0, ones)
    np.testing.assert_array_equal(folds, _as_folds(4, labels, counts, 0, ones))
    assert not np.array_equal(folds, _as_folds(4, labels, counts, 1, ones))
    table = np.array([[np.sum((folds == f) & (labels == c)) for c in range(3)] for f in range(4)])
    assert np.ptp(table, 0).max() <= 1
    assert np.ptp(table.sum(1)) <= 1


def test_folds_have_their_share_of_what_counts(data):
    features, labels = data
    # Of class 1 three examples are left, one for each fold.
    weights = np.ones(ROWS)
    weights[np.flatnonzero(labels == 1)[3:]] = 0
    options = {"penalties": (1.0, 10.0), "weights": weights}
    probe = linear_probe(features, labels, folds=3, **options)
    assert np.isfinite(probe.cv_scores).all()
    with pytest.raises(DataError, match="class 1 has 3 examples of weight above 0, fewer than"):
        linear_probe(features, labels, folds=4, **options)
    folds = np.where(weights == 0, 1, np.arange(ROWS) % 2 * 2)
    folds[np.flatnonzero(labels == 1)[:3]] = [0, 2, 0]
    with pytest.raises(DataError, match="fold 1 has no example of weight above 0"):
        linear_probe(features, labels, folds=folds, **options)
    folds = np.where(weights == 0, 1, np.arange(ROWS) % 2)
    folds[np.flatnonzero(labels == 1)[:3]] = 0
    with pytest.raises(DataError, match="fold 0 holds all examples of class 1"):
        linear_probe(features, labels, folds=folds, **options)


def test_two_classes(data):
    features, labels = data
    features, labels = features[labels < 2], labels[labels < 2]
    probe = linear_probe(features, labels, penalties=1.0, standardize=False, tolerance=1e-9)
    # A column for each class shares the weight between them, and so halves the penalty.
    wanted = reference(features, labels, 0.5)
    np.testing.assert_allclose(probe.kernel[:, 1] - probe.kernel[:, 0], wanted.coef_[0], atol=1e-5)
    np.testing.assert_allclose(
        probe.predict_proba(features), wanted.predict_proba(features), atol=1e-6
    )


def test_weights_count_as_copies(data):
    features, labels = data
    counts = np.random.default_rng(0).integers(0, 3, ROWS)
    copies = np.repeat(np.arange(ROWS), counts)
    weighted = linear_probe(features, labels, penalties=1.0, weights=counts, tolerance=1e-9)
    copied = linear_probe(features[copies], labels[copies], penalties=1.0, tolerance=1e-9)
    np.testing.assert_allclose(weighted.kernel, copied.kernel, atol=1e-6)
    brought = linear_probe(
        Features(features, labels, counts.astype(np.float32)), penalties=1.0, tolerance=1e-9
    )
    np.testing.assert_array_equal(brought.kernel, weighted.kernel)


def test_constant_features_and_small_floats(data):
    features, labels = data
    constant, other = features.copy(), features.copy()
    constant[:, 0], other[:, 0] = 0.1, 7
    probe, plain = (
        linear_probe(x, labels, penalties=1.0, tolerance=1e-9) for x in (constant, other)
    )
    np.testing.assert_array_equal(probe.kernel[0], 0)
    np.testing.assert_allclose(probe.kernel, plain.kernel, atol=1e-12)
    plain = linear_probe(features, labels, penalties=1.0, tolerance=1e-9)
    small = linear_probe(
        jnp.asarray(features, jnp.bfloat16), labels, penalties=1.0, dtype="float32", tolerance=1e-4
    )
    assert small.converged
    np.testing.assert_allclose(
        small.predict_proba(features), plain.predict_proba(features), atol=0.05
    )


def test_maps_are_averaged(data):
    features, labels = data
    maps = np.stack([features - 1, features + 1], 1)[:, :, None]
    probe = linear_probe(Features(maps, labels), penalties=1.0, tolerance=1e-9)
    plain = linear_probe(features, labels, penalties=1.0, tolerance=1e-9)
    np.testing.assert_allclose(probe.kernel, plain.kernel, atol=1e-5)
    assert probe.score(Features(maps, labels)) == plain.score(features, labels)


def test_as_a_head(data):
    features, labels = data
    probe = linear_probe(features, labels, penalties=1.0)
    np.testing.assert_allclose(probe.as_head()(features), probe.logits(features), atol=1e-4)

    backbone = fz.models.get("mlp", features=(WIDTH,), input_shape=(4,), num_classes=5).init(0)
    probe = linear_probe(backbone.features(features[:, :4]), labels, penalties=1.0)
    model = backbone.replace_head(Head(CLASSES))
    params = {**model.variables["params"], **probe.to_head_variables()["params"]}
    model = model.with_variables({**model.variables, "params": params})
    assert isinstance(model.module, Classifier)
    np.testing.assert_allclose(
        model(features[:, :4]), probe.logits(backbone.features(features[:, :4])), atol=1e-4
    )
    assert repr(probe) == "LinearProbe(12 features, 3 classes, penalty 1)"


def test_what_does_not_converge_is_told(data):
    with pytest.warns(UserWarning, match=r"1 of 1 fits did not converge.*at penalty 0\.5"):
        probe = linear_probe(*data, penalties=0.5, max_iterations=3)
    assert not probe.converged
    assert probe.iterations == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert linear_probe(*data, penalties=0.5).converged


def test_errors(data):
    features, labels = data
    broken = features.copy()
    broken[3, 1] = np.nan
    cases = [
        (DataError, "features holds nan at index .3, 1", (broken, labels), {}),
        (ShapeError, r"must have shape \[N, D\]", (features[0], labels), {}),
        (DataError, "features is empty", (features[:0], labels[:0]), {}),
        (DataError, "features must be numbers", (features.astype(str), labels), {}),
        (ShapeError, r"labels must have shape \[240\]", (features, labels[1:]), {}),
        (ShapeError, "one-hot", (features, np.eye(3)[labels]), {}),
        (DataError, "labels must be ints", (features, labels * 1.0), {}),
        (DataError, r"labels holds -1 at index", (features, labels - 1), {}),
        (DataError, "labels are all 0", (features, 0 * labels), {}),
        (DataError, "without gaps; of 6 classes 3 have", (features, labels + 3), {}),
        (DataError, "bring no targets", (Features(features),), {}),
        (DataError, "fewer than the 200 folds", (features, labels), {"folds": 200}),
        (ArgumentError, "folds must be an int of at least 2", (features, labels), {"folds": 1}),
        (DataError, "fold 0 holds all examples of class 0", (features, labels), {"folds": labels}),
        (ShapeError, "folds must be a number", (features, labels), {"folds": [0.5, 1]}),
        (DataError, "penalties must be", (features, labels), {"penalties": (-1, 1)}),
        (DataError, "penalties must be", (features, labels), {"penalties": ()}),
        (DataError, "penalties must be numbers", (features, labels), {"penalties": "ab"}),
        (ShapeError, r"weights must have shape", (features, labels), {"weights": [1, 2]}),
        (DataError, "weights must be finite", (features, labels), {"weights": labels - 1}),
        (DataError, "leave a class", (features, labels), {"weights": labels}),
        (DataError, "dtype must be", (features, labels), {"dtype": "float16"}),
    ]
    for error, match, arguments, options in cases:
        with pytest.raises(error, match=match):
            linear_probe(*arguments, **options)
    probe = LinearProbe(np.zeros((WIDTH, 3)), np.zeros(3), 1.0, (1.0,), None, 1, True)
    with pytest.raises(ShapeError, match="must have 12 columns, got 11"):
        probe.predict(features[:, 1:])
    with pytest.raises(DataError, match="which is no class of 3 classes, 0 to 2"):
        probe.score(features, labels + 1)
