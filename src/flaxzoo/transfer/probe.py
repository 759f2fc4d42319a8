"""Linear probes: logistic regression on features, with the penalty chosen by cross-validation."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_size
from flaxzoo._explain import explained
from flaxzoo._extras import require
from flaxzoo._warnings import warn
from flaxzoo.data.epochs import random_order
from flaxzoo.errors import DataError, ShapeError
from flaxzoo.model import Model
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head, Identity
from flaxzoo.spec import ModelSpec
from flaxzoo.transfer._labelled import as_labels, as_matrix, as_precision
from flaxzoo.transfer.features import Features

_PENALTIES = tuple(float(10.0**k) for k in range(-4, 5))
_PREDICT_ROWS = 8192


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LinearProbe:
    """A linear classifier of features; what ``linear_probe`` returns.

    Attributes:
      kernel: float64 ``[D, C]``, for features as they are: standardisation is folded in.
      bias: float64 ``[C]``.
      penalty: the penalty that was chosen.
      penalties: the penalties that were tried, the largest first.
      cv_scores: float64 ``[penalties, folds]``, the accuracy on each held-out fold; None where
        there was one penalty and nothing to choose.
      iterations: how many steps Newton's method took for the final fit.
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


@explained
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
    kernel, by scikit-learn's ``LogisticRegression(C=1 / penalty)``. The bias has no penalty. For
    two classes this is the same function as scikit-learn's binary one at ``C=2 / penalty``, since
    here each class has a column of its own.

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
      max_iterations: the largest number of steps of Newton's method, per fit.
      tolerance: a fit ends when no element of the gradient, divided by the number of examples,
        is larger.
      dtype: what is computed in; ``"float32"`` takes half the memory, and a tolerance of 1e-4 or
        so.

    Returns:
      A ``LinearProbe``.

    Raises:
      ShapeError: features, labels or weights of another shape.
      DataError: features that are not finite; labels that are no class numbers, leave a class
        out or are all one class; fewer examples of a class than folds, not counting those of
        weight 0; a fold without weight, or with all of a class's; a penalty below 0.
      MissingExtraError: scikit-learn is not installed.

    References:
      G. Alain, Y. Bengio, "Understanding intermediate layers using linear classifier probes",
      2016, https://arxiv.org/abs/1610.01644
    """
    matrix = as_matrix(features)
    if labels is None and weights is None and isinstance(features, Features):
        weights = features.weights
    classes = as_labels(labels, features, len(matrix))
    counts = _class_counts(classes)
    values = _as_penalties(penalties)
    importance = _as_weights(weights, classes, len(counts))
    seed = check_size("seed", seed, minimum=0)
    max_iterations = check_size("max_iterations", max_iterations)
    parts = _as_folds(folds, classes, counts, seed, importance) if len(values) > 1 else None
    kind = as_precision(dtype)
    fits = _Fits(bool(standardize), float(tolerance), max_iterations)
    counted = importance > 0
    data = _Examples(matrix.astype(kind, copy=False), classes, importance).where(counted)
    scores = None if parts is None else fits.cross_validate(data, values, parts[counted])
    # argmax takes the first of equals, and the largest penalty comes first.
    best = values[0 if scores is None else int(scores.mean(1).argmax())]
    pipeline = fits.pipeline()
    converged = fits.fit(pipeline, data, best)
    fits.warn()
    scaler, model = pipeline[0], pipeline[1]
    return LinearProbe(
        *_unscaled(scaler, model), best, values, scores, int(model.n_iter_.max()), converged
    )


class _Examples(NamedTuple):
    """Rows that belong together."""

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray

    def where(self, chosen: np.ndarray) -> _Examples:
        """Those of some rows."""
        return _Examples(*(array[chosen] for array in self))


class _Fits:
    """Scikit-learn's regressions with one set of options, and which of them stopped too early."""

    def __init__(self, standardize: bool, tolerance: float, max_iterations: int) -> None:
        self.standardize, self.tolerance = standardize, tolerance
        self.max_iterations = max_iterations
        self.count = 0
        self.failures: list[float] = []

    def pipeline(self) -> Any:
        """A scaler and a regression, whose next fit starts where the one before it ended."""
        purpose = {"extra": "data", "purpose": "linear_probe"}
        linear_model = require("sklearn.linear_model", **purpose)
        preprocessing = require("sklearn.preprocessing", **purpose)
        on = self.standardize
        return require("sklearn.pipeline", **purpose).make_pipeline(
            preprocessing.StandardScaler(with_mean=on, with_std=on),
            # Unlike L-BFGS, this solver ends at the tolerance alone, not where progress is slow.
            linear_model.LogisticRegression(
                solver="newton-cg",
                tol=self.tolerance,
                max_iter=self.max_iterations,
                warm_start=True,
            ),
        )

    def fit(self, pipeline: Any, data: _Examples, penalty: float) -> bool:
        """Fits a pipeline; returns whether it reached the tolerance."""
        # Of two classes scikit-learn has one column, with twice the weight of each of ours.
        share = 2 if data.labels.max() == 1 else 1
        pipeline[1].set_params(C=share / penalty if penalty else np.inf)
        weights = {f"{name}__sample_weight": data.weights for name, _ in pipeline.steps}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pipeline.fit(data.features, data.labels, **weights)
        converged = "ConvergenceWarning" not in {each.category.__name__ for each in caught}
        self.count += 1
        self.failures += [] if converged else [penalty]
        return converged

    def cross_validate(
        self, data: _Examples, penalties: tuple[float, ...], folds: np.ndarray
    ) -> np.ndarray:
        """The accuracy on each held-out fold, ``[penalties, folds]``."""
        names = np.unique(folds)
        scores = np.zeros((len(penalties), len(names)))
        for j, name in enumerate(names):
            training, testing = data.where(folds != name), data.where(folds == name)
            pipeline = self.pipeline()
            for i, penalty in enumerate(penalties):
                self.fit(pipeline, training, penalty)
                scores[i, j] = pipeline.score(*testing)
        return scores

    def warn(self) -> None:
        """Tells of fits that stopped before they reached the tolerance."""
        if self.failures:
            warn(
                f"linear_probe: {len(self.failures)} of {self.count} fits did not converge to "
                f"tolerance={self.tolerance:g}, the last at penalty {self.failures[-1]:g}. Raise "
                "max_iterations, the tolerance or the smallest penalty"
            )


def _unscaled(scaler: Any, model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias for features that are not standardised, a column for each class."""
    kernel, bias = model.coef_.T.astype(np.float64), model.intercept_.astype(np.float64)
    if len(bias) == 1:
        kernel, bias = np.hstack([-kernel, kernel]) / 2, np.hstack([-bias, bias]) / 2
    if scaler.scale_ is not None:
        kernel = kernel / scaler.scale_[:, None]
    if scaler.with_mean:
        bias = bias - scaler.mean_ @ kernel
    return kernel, bias


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
        number = check_size("folds", folds, minimum=2)
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
