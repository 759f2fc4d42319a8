"""k-nearest-neighbour evaluation of features, exact and in blocks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from flaxzoo._checks import as_choice, check_size
from flaxzoo._explain import explained
from flaxzoo.errors import DataError
from flaxzoo.transfer._labelled import as_labels, as_matrix, as_precision

_METRICS = ("cosine", "euclidean")
_VOTES = ("softmax", "uniform")
# So many queries are compared with so many examples at a time: 32 MB in float64.
_QUERIES = 1024
_EXAMPLES = 4096


@explained
class KNN:
    """A classifier by the nearest examples: it learns nothing, so it shows what features hold.

    Neighbours are exact, by blocked matrix products: similarities of all queries to all examples
    are never in memory together, and memory-mapped features are read once per call. Of examples
    at the same distance those of the lower index come first; of classes with the same vote the
    lower number wins, as in scikit-learn.

    Args:
      features: ``Features``, an array ``[N, D]``, or maps ``[N, H, W, D]``, which are averaged.
      labels: ints ``[N]``; by default the targets that ``Features`` bring along.
      k: number of neighbours that vote, at most N.
      metric: ``"cosine"``, for which features are brought to length 1, or ``"euclidean"``.
      vote: ``"softmax"``, in which a neighbour counts ``exp(similarity / temperature)``, for the
        cosine only; or ``"uniform"``. By default softmax for the cosine.
      temperature: what the softmax vote divides similarities by; 0.07 is that of the two papers.
      num_classes: the number of classes; by default the largest label and one.
      dtype: what is computed in. ``"float32"`` is twice as fast, but may swap neighbours whose
        distances agree to six digits.

    Raises:
      ShapeError: features or labels of another shape.
      DataError: features that are not finite, labels that are no class numbers, ``k`` above N, a
        temperature that is not above 0, a softmax vote of euclidean distances.
      ValueError: an unknown metric or vote.

    References:
      Z. Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
      CVPR 2018, https://arxiv.org/abs/1805.01978; M. Caron et al., "Emerging Properties in
      Self-Supervised Vision Transformers" (DINO), ICCV 2021, https://arxiv.org/abs/2104.14294,
      section 4.1.
    """

    def __init__(
        self,
        features: Any,
        labels: Any = None,
        *,
        k: int = 20,
        metric: str = "cosine",
        vote: str | None = None,
        temperature: float = 0.07,
        num_classes: int | None = None,
        dtype: Any = "float64",
    ) -> None:
        self._bank = as_matrix(features)
        self._labels = as_labels(labels, features, len(self._bank), num_classes=num_classes)
        self.num_classes = int(self._labels.max()) + 1 if num_classes is None else num_classes
        self.k = _as_k(k, len(self._bank))
        self.metric = str(as_choice("metric", metric, _METRICS))
        default = "softmax" if self.metric == "cosine" else "uniform"
        self.vote = str(as_choice("vote", vote or default, _VOTES))
        if self.vote == "softmax" and self.metric != "cosine":
            raise DataError("the softmax vote takes cosine similarities: use vote='uniform'")
        if not 0 < temperature < np.inf:
            raise DataError(f"temperature must be a number above 0, got {temperature!r}")
        self.temperature = float(temperature)
        self._dtype = as_precision(dtype)

    def __repr__(self) -> str:
        rows, width = self._bank.shape
        vote = f"softmax, temperature={self.temperature:g}" if self.vote == "softmax" else self.vote
        return f"KNN({rows} examples, {width} features, k={self.k}, {self.metric}, {vote})"

    def neighbors(self, queries: Any, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The nearest examples of each query.

        Args:
          queries: ``Features``, an array ``[M, D]`` or maps.
          k: how many; by default the classifier's own.

        Returns:
          Similarities (the cosine) or distances (euclidean) ``[M, k]``, nearest first, and the
          examples' indices, int32 ``[M, k]``.

        Raises:
          ShapeError: the queries are of another width.
          DataError: they are not finite, or ``k`` is above the number of examples.
        """
        matrix = as_matrix(queries, "queries", width=self._bank.shape[1])
        count = self.k if k is None else _as_k(k, len(self._bank))
        distances, indices = self._search(matrix, count)
        if self.metric == "cosine":
            return -distances, indices
        # Of rounding alone a square may be below zero.
        return np.sqrt(np.maximum(distances, 0)), indices

    def predict_proba(self, queries: Any) -> np.ndarray:
        """Each class's share of the votes, float64 ``[M, num_classes]``."""
        return self._votes(*self.neighbors(queries))

    def predict(self, queries: Any) -> np.ndarray:
        """The class with the most votes, int32 ``[M]``; of equal votes the lower number."""
        return self.predict_proba(queries).argmax(-1).astype(np.int32)

    def score(self, queries: Any, labels: Any = None) -> float:
        """Accuracy.

        Args:
          queries: ``Features``, an array ``[M, D]`` or maps.
          labels: ints ``[M]``; by default the targets that ``Features`` bring along. Labels that
            no example has are wrong, not an error.
        """
        predicted = self.predict(queries)
        return float(np.mean(predicted == as_labels(labels, queries, len(predicted))))

    def _votes(self, scores: np.ndarray, indices: np.ndarray) -> np.ndarray:
        if self.vote == "softmax":
            # Relative to the nearest: exp(1 / 0.001) would overflow.
            weights = np.exp((scores - scores[:, :1]).astype(np.float64) / self.temperature)
        else:
            weights = np.ones(scores.shape)
        votes = np.zeros((len(scores), self.num_classes))
        rows = np.broadcast_to(np.arange(len(scores))[:, None], indices.shape)
        np.add.at(votes, (rows, self._labels[indices]), weights)
        return votes / votes.sum(-1, keepdims=True)

    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The ``k`` least of what ``_distances`` gives and their rows of the bank, both sorted."""
        queries = self._prepared(queries)
        best = np.full((len(queries), k), np.inf, self._dtype)
        indices = np.zeros((len(queries), k), np.int32)
        # The bank outside, so that it is read once; the queries are the smaller of the two.
        for start in range(0, len(self._bank), _EXAMPLES):
            block = self._prepared(self._bank[start : start + _EXAMPLES])
            numbers = np.arange(start, start + len(block), dtype=np.int32)
            for first in range(0, len(queries), _QUERIES):
                part = slice(first, first + _QUERIES)
                distances = np.hstack([best[part], self._distances(queries[part], block)])
                # Those of lower indices are on the left, where a stable sort leaves them.
                order = _least(distances, k)
                best[part] = np.take_along_axis(distances, order, 1)
                rows = np.hstack(
                    [indices[part], np.broadcast_to(numbers, (len(order), len(block)))]
                )
                indices[part] = np.take_along_axis(rows, order, 1)
        return best, indices

    def _prepared(self, rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(self._dtype)
        if self.metric == "euclidean":
            # Around a point among them, so that an offset of all features is not squared.
            return rows - self._bank[0].astype(self._dtype)
        norm = np.linalg.norm(rows, axis=1, keepdims=True)
        # A row of zeros stays one: its cosine with everything is 0.
        return rows / np.where(norm > 0, norm, 1)

    def _distances(self, queries: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Cosines below zero, or squared distances, ``[queries, block]``."""
        products = queries @ block.T
        if self.metric == "cosine":
            return -products
        return np.square(queries).sum(1)[:, None] + np.square(block).sum(1) - 2 * products


@explained
def knn_evaluate(
    features: Any,
    labels: Any,
    queries: Any,
    query_labels: Any = None,
    *,
    k: int | Iterable[int] = (10, 20, 100, 200),
    **options: Any,
) -> dict[int, float]:
    """The accuracy of nearest-neighbour classification, for several numbers of neighbours.

    Args:
      features: the examples that vote, as for ``KNN``.
      labels: the classes of these examples; None for the targets that ``Features`` bring along.
      queries: the examples to classify.
      query_labels: the classes of the queries; None for their targets.
      k: one or several; the search is done once, for the largest. Those above the number of
        examples are left out, unless all are.
      **options: ``metric``, ``vote``, ``temperature``, ``num_classes`` and ``dtype`` of ``KNN``.

    Returns:
      ``k`` to accuracy.

    Raises:
      ShapeError: features or labels of another shape.
      DataError: whatever ``KNN`` refuses, or ``k`` is empty.
    """
    wanted = sorted({check_size("k", v) for v in (k if isinstance(k, Iterable) else (k,))})
    if not wanted:
        raise DataError("k is empty: there is nothing to evaluate")
    available = len(as_matrix(features))
    wanted = [value for value in wanted if value <= available] or wanted
    classifier = KNN(features, labels, k=wanted[-1], **options)
    scores, indices = classifier.neighbors(queries)
    truth = as_labels(query_labels, queries, len(scores), name="query_labels")
    return {
        value: float(
            np.mean(classifier._votes(scores[:, :value], indices[:, :value]).argmax(-1) == truth)
        )
        for value in wanted
    }


def _as_k(k: Any, rows: int) -> int:
    number = check_size("k", k)
    if number > rows:
        raise DataError(f"k={number} neighbours of {rows} examples: k must be at most {rows}")
    return number


def _least(values: np.ndarray, k: int) -> np.ndarray:
    """The columns of each row's ``k`` least values, the least first and ties from the left."""
    limits = np.partition(values, k - 1, axis=1)[:, k - 1]
    near = [np.flatnonzero(row <= limit) for row, limit in zip(values, limits, strict=True)]
    return np.stack(
        [
            columns[np.argsort(row[columns], kind="stable")[:k]]
            for row, columns in zip(values, near, strict=True)
        ]
    )
