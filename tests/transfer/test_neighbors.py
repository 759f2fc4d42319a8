import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ArgumentError, DataError, ShapeError
from flaxzoo.transfer import KNN, Features, knn_evaluate, neighbors

sklearn = pytest.importorskip("sklearn.neighbors")


@pytest.fixture(scope="module")
def data():
    """Real digits: examples and queries."""
    (images, labels), (test_images, test_labels) = fz.data.load_digits(flat=True)
    return (images[:300], labels[:300]), (test_images[:90], test_labels[:90])


@pytest.fixture(scope="module")
def scattered():
    """Points without ties, far from the origin."""
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(300, 5)) + 1000, rng.normal(size=(70, 5)) + 1000
    return bank, rng.integers(0, 4, 300), queries


@pytest.fixture(params=["whole", "blocks"])
def blocks(request, monkeypatch):
    """In one block, and in blocks that divide neither the examples nor the queries."""
    if request.param == "blocks":
        monkeypatch.setattr(neighbors, "_QUERIES", 32)
        monkeypatch.setattr(neighbors, "_EXAMPLES", 32)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("k", [1, 5])
def test_euclidean_parity_with_scikit_learn(data, scattered, k):
    bank, labels, queries = scattered
    knn = KNN(bank, labels, k=k, metric="euclidean")
    wanted = sklearn.KNeighborsClassifier(k, algorithm="brute").fit(bank, labels)
    distances, indices = knn.neighbors(queries)
    np.testing.assert_array_equal(indices, wanted.kneighbors(queries)[1])
    # Scikit-learn's own distances lose digits to the offset.
    exact = np.linalg.norm(queries[:, None] - bank[indices], axis=-1)
    np.testing.assert_allclose(distances, exact, rtol=1e-12)
    assert indices.dtype == np.int32
    np.testing.assert_array_equal(knn.predict(queries), wanted.predict(queries))
    np.testing.assert_array_equal(knn.predict_proba(queries), wanted.predict_proba(queries))

    (bank, labels), (queries, truth) = data
    knn = KNN(bank, labels, k=k, metric="euclidean")
    wanted = sklearn.KNeighborsClassifier(k, algorithm="brute").fit(bank, labels)
    np.testing.assert_array_equal(knn.predict(queries), wanted.predict(queries))
    assert knn.score(queries, truth) == wanted.score(queries, truth)


@pytest.mark.usefixtures("blocks")
def test_cosine_parity_with_scikit_learn(data):
    (bank, labels), (queries, _) = data
    knn = KNN(bank, labels, k=7, vote="uniform")
    wanted = sklearn.KNeighborsClassifier(7, metric="cosine", algorithm="brute")
    wanted.fit(bank.astype(np.float64), labels)
    similarities, indices = knn.neighbors(queries)
    distances, wanted_indices = wanted.kneighbors(queries.astype(np.float64))
    np.testing.assert_allclose(1 - similarities, distances, atol=1e-12)
    np.testing.assert_array_equal(indices, wanted_indices)
    np.testing.assert_array_equal(knn.predict(queries), wanted.predict(queries))


def test_softmax_vote_by_hand():
    bank = np.array([[1.0, 0], [0, 1], [3, 4]])
    knn = KNN(bank, [0, 1, 1], k=3, temperature=0.5)
    # Cosines with [1, 0]: 1, 0 and 3 / 5.
    votes = np.exp(np.array([1, 0, 0.6]) / 0.5)
    np.testing.assert_allclose(
        knn.predict_proba([[2.0, 0]]), [[votes[0], votes[1] + votes[2]] / votes.sum()]
    )
    # The hundredth part of it leaves the nearest alone, without overflow.
    sharp = KNN(bank, [0, 1, 1], k=3, temperature=1e-4)
    np.testing.assert_allclose(sharp.predict_proba([[2.0, 0]]), [[1, 0]])
    assert repr(sharp) == "KNN(3 examples, 2 features, k=3, cosine, softmax, temperature=0.0001)"


def test_temperature_of_the_papers(data):
    (bank, labels), (queries, truth) = data
    knn = KNN(bank, labels)
    similarities = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        bank / np.linalg.norm(bank, axis=1, keepdims=True)
    ).T
    expected = []
    for row in similarities.astype(np.float64):
        nearest = np.argsort(-row, kind="stable")[:20]
        votes = np.zeros(10)
        np.add.at(votes, labels[nearest], np.exp(row[nearest] / 0.07))
        expected.append(votes.argmax())
    np.testing.assert_array_equal(knn.predict(queries), expected)
    assert knn.score(queries, truth) > 0.85


@pytest.mark.usefixtures("blocks")
def test_ties():
    # Many copies of two points: the lower index comes first, also across blocks.
    bank = np.tile(np.array([[0.0, 0.3], [1.7, 0.1]]), (100, 1))
    knn = KNN(bank, np.arange(200) % 2, k=5, metric="euclidean")
    distances, indices = knn.neighbors(bank[:2])
    np.testing.assert_array_equal(indices, [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]])
    np.testing.assert_array_equal(distances, 0)
    # One vote each: the lower class.
    even = KNN([[1.0], [-1.0]], [1, 0], k=2, metric="euclidean")
    assert even.predict([[0.0]]) == [0]
    np.testing.assert_array_equal(even.predict_proba([[0.0]]), [[0.5, 0.5]])


def test_rows_of_zeros_and_float32(data):
    similarities, _ = KNN(np.eye(2), [0, 1], k=2).neighbors(np.zeros((1, 2)))
    np.testing.assert_array_equal(similarities, 0)
    (bank, labels), (queries, _) = data
    for metric in ("cosine", "euclidean"):
        exact = KNN(bank, labels, metric=metric).neighbors(queries)[0]
        rough = KNN(bank, labels, metric=metric, dtype="float32").neighbors(queries)[0]
        assert rough.dtype == np.float32
        np.testing.assert_allclose(rough, exact, atol=1e-4)


def test_evaluate(data, tmp_path):
    (bank, labels), (queries, truth) = data
    np.save(tmp_path / "bank.npy", bank)
    stored = Features(np.load(tmp_path / "bank.npy", mmap_mode="r"), labels)
    result = knn_evaluate(stored, None, Features(queries, truth), k=(20, 5, 1000))
    assert list(result) == [5, 20]
    for k, accuracy in result.items():
        assert accuracy == KNN(bank, labels, k=k).score(queries, truth)
    euclidean = knn_evaluate(bank, labels, queries, truth, k=3, metric="euclidean")
    assert euclidean == {3: KNN(bank, labels, k=3, metric="euclidean").score(queries, truth)}
    maps = bank.reshape(-1, 1, 1, 64).repeat(2, 1)
    assert knn_evaluate(maps, labels, queries, truth, k=5) == {5: result[5]}


def test_errors(data):
    (bank, labels), (queries, truth) = data
    cases = [
        (DataError, "k=301 neighbours of 300", {"k": 301}),
        (ArgumentError, "k must be an int of at least 1", {"k": 0}),
        (ValueError, "metric", {"metric": "manhattan"}),
        (ValueError, "vote", {"vote": "distance"}),
        (DataError, "takes cosine similarities", {"metric": "euclidean", "vote": "softmax"}),
        (DataError, "temperature must be", {"temperature": 0}),
        (DataError, "no class of 5 classes", {"num_classes": 5}),
        (DataError, "dtype must be", {"dtype": "float16"}),
    ]
    for error, match, options in cases:
        with pytest.raises(error, match=match):
            KNN(bank, labels, **options)
    with pytest.raises(ShapeError, match="labels must have shape"):
        KNN(bank, labels[1:])
    with pytest.raises(DataError, match="features holds inf"):
        KNN(np.full((3, 2), np.inf), [0, 1, 2], k=1)
    knn = KNN(bank, labels)
    with pytest.raises(ShapeError, match="queries must have 64 columns, got 63"):
        knn.predict(queries[:, 1:])
    with pytest.raises(DataError, match="queries holds nan"):
        knn.predict(np.full_like(queries, np.nan))
    with pytest.raises(DataError, match="k=400"):
        knn.neighbors(queries, k=400)
    with pytest.raises(DataError, match="k=1000 neighbours of 300"):
        knn_evaluate(bank, labels, queries, truth, k=1000)
    with pytest.raises(DataError, match="query_labels are missing"):
        knn_evaluate(bank, labels, queries)
    with pytest.raises(DataError, match="k is empty"):
        knn_evaluate(bank, labels, queries, truth, k=())
