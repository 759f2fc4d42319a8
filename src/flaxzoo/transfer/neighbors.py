"""k-nearest-neighbour evaluation of features, exact and in blocks."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import as_choice
from flaxzoo.data.epochs import as_int
from flaxzoo.errors import DataError
from flaxzoo.transfer._labelled import as_labels, as_matrix
from flaxzoo.transfer._logistic import block_size

_METRICS = ("cosine", "euclidean")
_VOTES = ("softmax", "uniform")
# Similarities of this many queries are held at a time, and to no more rows than block_size says.
_QUERIES = 1024
# Candidates beyond k that are compared in full precision.
_SPARE = 16


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
      temperature: of the softmax vote; 0.07 is that of the two papers.
      num_classes: by default the largest label and one.
      dtype: of the computation. ``"float32"`` is twice as fast on CPU, and much faster on a GPU
        without fast float64, but may swap neighbours whose distances agree to six digits.

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
        self._dtype = jnp.dtype(dtype)
        if self._dtype not in (jnp.float32, jnp.float64):
            raise DataError(f"dtype must be float32 or float64, got {self._dtype}")

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
        # JAX has float64 only by consent.
        with jax.enable_x64(self._dtype == jnp.float64):
            scores, indices = self._search(matrix, count)
        if self.metric == "euclidean":
            # Of rounding alone a square may be below zero.
            scores = np.sqrt(np.maximum(-scores, 0))
        return scores, indices

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
        """Scores, the largest first, and indices of the ``k`` best rows of the bank."""
        size = min(_QUERIES, len(queries))
        cosine = self.metric == "cosine"
        starts = range(0, len(queries), size)
        best = [
            (jnp.full((size, k), -jnp.inf, self._dtype), jnp.zeros((size, k), jnp.int32))
            for _ in starts
        ]
        # The bank outside, so that it is read once; the queries are the smaller of the two.
        for start, block, valid in self._blocks(max(size, queries.shape[1])):
            for i, first in enumerate(starts):
                part = _padded(queries[first : first + size], size)
                best[i] = _nearer(
                    *best[i], part, block, valid, start, self._bank[0], cosine, self._dtype
                )
        scores, indices = (np.concatenate([np.asarray(b[i]) for b in best]) for i in range(2))
        return scores[: len(queries)], indices[: len(queries)]

    def _blocks(self, width: int) -> Iterator[tuple[int, Any, int]]:
        size = block_size(len(self._bank), width)
        for start in range(0, len(self._bank), size):
            block = self._bank[start : start + size]
            # To the device once for all queries.
            yield start, jnp.asarray(_padded(block, size)), len(block)


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
      labels: theirs; None for the targets that ``Features`` bring along.
      queries: the examples to classify.
      query_labels: theirs, likewise.
      k: one or several; the search is done once, for the largest. Those above the number of
        examples are left out, unless all are.
      **options: ``metric``, ``vote``, ``temperature``, ``num_classes`` and ``dtype`` of ``KNN``.

    Returns:
      ``k`` to accuracy.

    Raises:
      ShapeError: features or labels of another shape.
      DataError: as for ``KNN``.
    """
    wanted = sorted({as_int(v, "k", 1) for v in (k if isinstance(k, Iterable) else (k,))})
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
    number = as_int(k, "k", 1)
    if number > rows:
        raise DataError(f"k={number} neighbours of {rows} examples: k must be at most {rows}")
    return number


def _padded(block: np.ndarray, size: int) -> np.ndarray:
    if len(block) == size:
        return block
    return np.concatenate([block, np.zeros((size - len(block), *block.shape[1:]), block.dtype)])


@functools.partial(jax.jit, static_argnums=(7, 8))
def _nearer(
    scores: jax.Array,
    indices: jax.Array,
    queries: jax.Array,
    block: jax.Array,
    valid: Any,
    start: Any,
    center: jax.Array,
    cosine: bool,
    dtype: Any,
) -> tuple[jax.Array, jax.Array]:
    """The best of those found before and of a block of the bank, of which ``valid`` rows count."""
    k = scores.shape[1]
    queries, block = queries.astype(dtype), block.astype(dtype)
    with jax.default_matmul_precision("highest"):
        if cosine:
            found = _unit(queries) @ _unit(block).T
        else:
            # Around a point among them, so that an offset of all features is not squared.
            center = center.astype(dtype)
            queries, block = queries - center, block - center
            found = 2 * queries @ block.T
            found = found - jnp.square(block).sum(-1) - jnp.square(queries).sum(-1)[:, None]
    numbers = jnp.arange(len(block), dtype=jnp.int32)
    found = jnp.where(numbers < valid, found, -jnp.inf)
    # top_k takes the first of equals, and the lower indices come first.
    scores = jnp.concatenate([scores, found], 1)
    numbers = jnp.broadcast_to(numbers + start, found.shape).astype(jnp.int32)
    indices = jnp.concatenate([indices, numbers], 1)
    # XLA sorts whole rows for the top of float64, but not of float32. Below the row's best they
    # differ by 6e-8 of the difference; a few candidates more make up for that.
    below = (scores - scores.max(1, keepdims=True)).astype(jnp.float32)
    _, near = jax.lax.top_k(below, min(k + _SPARE, below.shape[1]))
    scores, order = jax.lax.top_k(jnp.take_along_axis(scores, near, 1), k)
    near = jnp.take_along_axis(near, order, 1)
    return scores, jnp.take_along_axis(indices, near, 1)


def _unit(x: jax.Array) -> jax.Array:
    # A row of zeros stays one: its cosine with everything is 0.
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1)
