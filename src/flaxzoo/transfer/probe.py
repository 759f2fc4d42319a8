"""Linear probes: logistic regression on features, with the penalty chosen by cross-validation."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo.data.epochs import as_int, random_order
from flaxzoo.errors import DataError, ShapeError
from flaxzoo.model import Model
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head, Identity
from flaxzoo.spec import ModelSpec
from flaxzoo.transfer import _logistic as logistic
from flaxzoo.transfer._labelled import as_labels, as_matrix
from flaxzoo.transfer.features import Features

_PENALTIES = tuple(float(10.0**k) for k in range(-4, 5))
_PREDICT_ROWS = 8192


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LinearProbe:
    """A linear classifier of features; what ``linear_probe`` returns.

    Attributes:
      kernel: float64 ``[D, C]``, for features as they are: standardisation is folded in.
      bias: float64 ``[C]``.
      penalty: the one that was chosen.
      penalties: all that were tried, the largest first.
      cv_scores: float64 ``[penalties, folds]``, the accuracy on each held-out fold; None where
        there was one penalty and nothing to choose.
      iterations: of L-BFGS, for the final fit.
      converged: whether the final fit reached the tolerance.
    """

    kernel: np.ndarray
    bias: np.ndarray
    penalty: float
    penalties: tuple[float, ...]
    cv_scores: np.ndarray | None
    iterations: int
    converged: bool

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.bias)

    def logits(self, features: Any) -> np.ndarray:
        """Logits, float64 ``[N, C]``, of ``Features`` or an array ``[N, D]``."""
        matrix = as_matrix(features, width=len(self.kernel))
        parts = [
            matrix[i : i + _PREDICT_ROWS] @ self.kernel + self.bias
            for i in range(0, len(matrix), _PREDICT_ROWS)
        ]
        return np.concatenate(parts)

    def predict(self, features: Any) -> np.ndarray:
        """Class numbers, int32 ``[N]``; of equal logits the lower class."""
        return self.logits(features).argmax(-1).astype(np.int32)

    def predict_proba(self, features: Any) -> np.ndarray:
        """Probabilities, float64 ``[N, C]``."""
        logits = self.logits(features)
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        return odds / odds.sum(-1, keepdims=True)

    def score(self, features: Any, labels: Any = None) -> float:
        """Accuracy.

        Args:
          features: ``Features`` or an array ``[N, D]``.
          labels: ints ``[N]``; by default the targets that ``Features`` bring along.

        Raises:
          ShapeError: the features are of another width, or the labels are not one per example.
          DataError: features that are not finite, or labels of classes that the probe lacks.
        """
        predicted = self.predict(features)
        labels = as_labels(labels, features, len(predicted), num_classes=self.num_classes)
        return float(np.mean(predicted == labels))

    def to_head_variables(self) -> dict[str, Any]:
        """Variables for a ``Classifier`` whose head is ``flaxzoo.models.Head(num_classes)``."""
        dense = {"kernel": self.kernel.astype(np.float32), "bias": self.bias.astype(np.float32)}
        return {"params": {"head": {"fc": jax.tree.map(jnp.asarray, dense)}}}

    def as_head(self) -> Model:
        """A model from features to logits, whose variables join those of a backbone."""
        module = Classifier(backbone=Identity(), head=Head(self.num_classes))
        spec = ModelSpec(name="linear_probe", input_shape=(len(self.kernel),))
        return Model(module, self.to_head_variables(), spec)

    def __repr__(self) -> str:
        width, classes = self.kernel.shape
        score = ""
        if self.cv_scores is not None:
            mean = self.cv_scores.mean(1)[self.penalties.index(self.penalty)]
            score = f", cross-validated accuracy {mean:.4f}"
        return f"LinearProbe({width} features, {classes} classes, penalty {self.penalty:g}{score})"


def linear_probe(
    features: Any,
    labels: Any = None,
    *,
    penalties: float | Iterable[float] = _PENALTIES,
    folds: Any = 5,
    seed: int = 0,
    standardize: bool = True,
    weights: Any = None,
    max_iterations: int = 1000,
    tolerance: float = 1e-6,
    dtype: Any = "float64",
) -> LinearProbe:
    """Fits a linear classifier to features: how good a representation is, in one number.

    It minimises the sum of the examples' cross-entropies plus ``penalty / 2`` times the squared
    kernel, by L-BFGS: scikit-learn's ``LogisticRegression(C=1 / penalty)``. The bias has no
    penalty. For two classes this is the same function as scikit-learn's binary one at
    ``C=2 / penalty``, since here each class has a column of its own.

    The penalty is the one with the best mean accuracy over stratified folds, of equal ones the
    largest. In each fold features are standardised by the fold's own training part, and each
    penalty starts from the solution of the next larger one. The probe is then fitted to all
    examples.

    Args:
      features: ``Features``, an array ``[N, D]``, or maps ``[N, H, W, D]``, which are averaged.
      labels: ints ``[N]``, from 0 on without gaps; by default the targets of ``Features``.
      penalties: those to choose from; one needs no cross-validation.
      folds: how many; or the number of each example's fold, ints ``[N]``. Each must have an
        example of weight above 0, and leave some of every class to train on.
      seed: which examples go into which fold.
      standardize: whether to bring features to mean 0 and standard deviation 1 first.
      weights: float ``[N]``, how much each example counts in the sum; by default those of
        ``Features``, or 1.
      max_iterations: of L-BFGS, per fit.
      tolerance: a fit ends when no element of the gradient, divided by the number of examples,
        is larger.
      dtype: of the computation; ``"float32"`` for devices that have nothing better, with a
        tolerance of 1e-4 or so.

    Returns:
      A ``LinearProbe``.

    Raises:
      ShapeError: features, labels or weights of another shape.
      DataError: features that are not finite; labels that are no class numbers, leave a class
        out or are all one class; fewer examples of a class than folds, not counting those of
        weight 0; a fold without weight, or with all of a class's; a penalty below 0.

    References:
      G. Alain, Y. Bengio, "Understanding intermediate layers using linear classifier probes",
      2016, https://arxiv.org/abs/1610.01644
    """
    matrix = as_matrix(features)
    if labels is None and weights is None and isinstance(features, Features):
        weights = features.weights
    numbers = as_labels(labels, features, len(matrix))
    counts = _class_counts(numbers)
    values = _as_penalties(penalties)
    given = _as_weights(weights, numbers, len(counts))
    seed, max_iterations = as_int(seed, "seed", 0), as_int(max_iterations, "max_iterations", 1)
    parts = _as_folds(folds, numbers, counts, seed, given) if len(values) > 1 else None
    kind = jnp.dtype(dtype)
    if kind not in (jnp.float32, jnp.float64):
        raise DataError(f"dtype must be float32 or float64, got {kind}")
    # JAX has float64 only by consent; L-BFGS in float32 stops far from the minimum.
    with jax.enable_x64(kind == jnp.float64):
        problem = _Problem(matrix, numbers, given, len(counts), kind)
        problem.standardize, problem.limits = bool(standardize), (float(tolerance), max_iterations)
        scores = None if parts is None else problem.cross_validate(values, parts)
        # argmax takes the first of equals, and the largest penalty comes first.
        best = 0 if scores is None else int(scores.mean(1).argmax())
        found = problem.solve(values[best])
    if problem.failures:
        penalty, gradient = max(problem.failures, key=lambda failure: failure[1])
        warnings.warn(
            f"linear_probe: {len(problem.failures)} of {problem.fits} fits did not converge: "
            f"L-BFGS ended with a gradient of up to {gradient:.1e}, above tolerance={tolerance:g}, "
            f"at penalty {penalty:g}. Raise max_iterations, the tolerance or the smallest penalty",
            stacklevel=2,
        )
    iterations = int(found.iterations)
    converged = float(found.gradient) <= tolerance
    return LinearProbe(
        *problem.unscaled(found), values[best], values, scores, iterations, converged
    )


class _Problem:
    """One data set on the device, fitted again and again: for folds, penalties, and as a whole."""

    def __init__(
        self, matrix: np.ndarray, labels: np.ndarray, weights: np.ndarray, classes: int, dtype: Any
    ) -> None:
        size = logistic.block_size(len(matrix), max(matrix.shape[1], classes))
        self.dtype = dtype
        self.rows = logistic.Rows(
            *(jnp.asarray(logistic.in_blocks(array, size)) for array in (matrix, labels))
        )
        self.weights = jnp.asarray(logistic.in_blocks(weights.astype(dtype), size))
        self.size = size
        self.zeros = (jnp.zeros((matrix.shape[1], classes), dtype), jnp.zeros(classes, dtype))
        self.standardize = True
        self.limits = (1e-6, 1000)
        self.fits = 0
        self.failures: list[tuple[float, float]] = []
        self._scaling: Any = None

    def cross_validate(self, penalties: tuple[float, ...], folds: np.ndarray) -> np.ndarray:
        """The accuracy on each held-out fold, ``[penalties, folds]``."""
        names = np.unique(folds)
        scores = np.zeros((len(penalties), len(names)))
        for j, name in enumerate(names):
            held_out = jnp.asarray(
                logistic.in_blocks((folds == name).astype(self.dtype), self.size)
            )
            training = self.weights * (1 - held_out)
            scaling = self._moments(training)
            start = self.zeros
            for i, penalty in enumerate(penalties):
                found = self._fit(training, scaling, penalty, start)
                start = found.params
                testing = self.weights * held_out
                scores[i, j] = logistic.accuracy(self.rows, testing, scaling, found.params)
        return scores

    def solve(self, penalty: float) -> logistic.Fit:
        """The fit to all examples, which does not depend on the folds."""
        self._scaling = self._moments(self.weights)
        return self._fit(self.weights, self._scaling, penalty, self.zeros)

    def unscaled(self, found: logistic.Fit) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias for features that are not standardised."""
        kernel, bias = (np.asarray(leaf, np.float64) for leaf in found.params)
        mean, scale = (np.asarray(leaf, np.float64) for leaf in self._scaling)
        kernel = kernel / scale[:, None]
        return kernel, bias - mean @ kernel

    def _moments(self, weights: jax.Array) -> Any:
        return logistic.moments(self.rows, weights, jnp.asarray(self.standardize), self.dtype)

    def _fit(self, weights: Any, scaling: Any, penalty: float, start: Any) -> logistic.Fit:
        tolerance, max_iterations = self.limits
        strength = jnp.asarray(penalty, self.dtype)
        found = logistic.fit(
            self.rows, weights, scaling, strength, start, tolerance, max_iterations
        )
        self.fits += 1
        if not float(found.gradient) <= tolerance:
            self.failures.append((penalty, float(found.gradient)))
        return found


def _class_counts(labels: np.ndarray) -> np.ndarray:
    counts = np.bincount(labels)
    if len(np.flatnonzero(counts)) < 2:
        raise DataError(f"labels are all {labels[0]}: there is nothing to tell apart")
    if not counts.all():
        missing = np.flatnonzero(counts == 0)
        raise DataError(
            f"labels must number the classes from 0 on without gaps; of {len(counts)} classes "
            f"{len(missing)} have no example: {', '.join(map(str, missing[:10]))}"
            f"{' ...' if len(missing) > 10 else ''}"
        )
    return counts


def _as_penalties(penalties: Any) -> tuple[float, ...]:
    values = list(penalties) if isinstance(penalties, Iterable) else [penalties]
    try:
        numbers = sorted({float(value) for value in values}, reverse=True)
    except (TypeError, ValueError):
        raise DataError(f"penalties must be numbers, got {penalties!r}") from None
    if not numbers or not all(0 <= number < np.inf for number in numbers):
        raise DataError(f"penalties must be one or more numbers of at least 0, got {penalties!r}")
    return tuple(numbers)


def _as_weights(weights: Any, labels: np.ndarray, classes: int) -> np.ndarray:
    if weights is None:
        return np.ones(len(labels))
    array = np.asarray(weights, np.float64)
    if array.shape != labels.shape:
        raise ShapeError(f"weights must have shape [{len(labels)}], got {list(array.shape)}")
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise DataError("weights must be finite and at least 0")
    if not np.bincount(labels, array, classes).all():
        raise DataError("weights leave a class without any example")
    return array


def _as_folds(
    folds: Any, labels: np.ndarray, counts: np.ndarray, seed: int, weights: np.ndarray
) -> np.ndarray:
    """The fold of each example, ``[N]``."""
    # An example of weight 0 is neither trained nor tested on.
    counted = weights > 0
    counts = np.bincount(labels[counted], minlength=len(counts))
    if np.ndim(folds) == 0:
        number = as_int(folds, "folds", 2)
        if counts.min() < number:
            fewest = int(counts.argmin())
            kind = "examples" if counted.all() else "examples of weight above 0"
            raise DataError(
                f"class {fewest} has {counts[fewest]} {kind}, fewer than the {number} folds: "
                "use fewer folds, or one penalty"
            )
        members = [
            np.flatnonzero(counted & (labels == c))[random_order(int(count), seed, c)]
            for c, count in enumerate(counts)
        ]
        members.append(np.flatnonzero(~counted))
        # Dealt out in turn, class after class: sizes differ by one at most, of each class too.
        result = np.empty(len(labels), np.int64)
        result[np.concatenate(members)] = np.arange(len(labels)) % number
        return result
    array = np.asarray(folds)
    if array.shape != labels.shape or not np.issubdtype(array.dtype, np.integer):
        raise ShapeError(
            f"folds must be a number of folds, or ints of shape [{len(labels)}], got "
            f"{array.dtype}{list(array.shape)}"
        )
    for name in np.unique(array):
        if not counted[array == name].any():
            raise DataError(
                f"fold {name} has no example of weight above 0: there is nothing to score it by"
            )
        rest = labels[counted & (array != name)]
        lacks = np.flatnonzero(np.bincount(rest, minlength=len(counts)) == 0)
        if len(lacks):
            raise DataError(f"fold {name} holds all examples of class {lacks[0]}")
    return array
