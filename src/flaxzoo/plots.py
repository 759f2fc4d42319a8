"""Figures: training curves, predictions, confusion matrices, comparisons.

Every function returns a matplotlib ``Figure`` that belongs to nobody else: nothing goes through
``pyplot``, no window opens and no global state changes. A notebook shows it; ``savefig`` writes
it. Colours are Okabe and Ito's, which people with any colour vision can tell apart, and no
meaning hangs on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flaxzoo._directions import infer_mode
from flaxzoo._explain import explained
from flaxzoo._extras import require
from flaxzoo._figures import displayable, new_figure
from flaxzoo._finite import check_scores
from flaxzoo.errors import DataError, ShapeError, UnknownNameError, did_you_mean
from flaxzoo.preprocess import Predictions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design" (2008), without yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = ("-", "--", ":", "-.")
_RIGHT, _WRONG, _UNKNOWN = "#0072B2", "#D55E00", "#333333"
# Beyond this many classes the numbers in the cells of a confusion matrix are unreadable.
_MAX_ANNOTATED = 20
_MAX_TICKS = 40


@explained
def history(history: Any, *, metrics: Sequence[str] | None = None) -> Figure:
    """Training curves: a panel per metric, training and validation together.

    The best value of a metric (of the validation curve, where there is one) is marked if the
    metric's name tells whether larger or smaller is better.

    Args:
      history: a ``History``, or a dictionary of lists with a value per epoch; ``val_loss`` is
        drawn in the panel of ``loss``. NaN leaves a gap.
      metrics: the panels to draw, without ``val_``; by default all.

    Returns:
      The figure, at most three panels wide.

    Raises:
      DataError: the history is empty, or a list is not of the number of epochs.
      UnknownNameError: a name in ``metrics`` that the history does not have.
    """
    epochs, curves = _curves(history)
    names = list(dict.fromkeys(name.removeprefix("val_") for name in curves))
    for name in metrics or ():
        if name not in names:
            raise UnknownNameError(
                f"no metric {name!r} in the history.{did_you_mean(name, names)} "
                f"It has: {', '.join(names)}"
            )
    names = list(metrics) if metrics else names
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    figure = new_figure(4.4 * columns, 3.2 * rows)
    for index, name in enumerate(names):
        axes = figure.add_subplot(rows, columns, index + 1)
        pair = [("training", name, 0), ("validation", f"val_{name}", 1)]
        present = [(label, curves[key], i) for label, key, i in pair if key in curves]
        for label, values, i in present:
            axes.plot(
                epochs,
                values,
                _STYLES[i],
                color=COLOURS[i],
                label=label if len(present) > 1 else None,
                marker="o" if len(epochs) <= 30 else None,
                markersize=3,
            )
        _mark_best(axes, name, epochs, *present[-1][1:])
        _epoch_axis(axes)
        axes.set_title(_words(name))
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    return figure


# Elegy's name.
plot_history = history


@explained
def compare(histories: Mapping[str, Any], metric: str = "val_loss", *, log: bool = False) -> Figure:
    """One metric of several runs in one panel, such as one curve per optimizer.

    Args:
      histories: a ``History`` or a dictionary of lists per run, by the name to show. The legend
        lists the best run first if the metric's name tells what is better.
      metric: what to compare.
      log: whether the values are drawn on a logarithmic axis.

    Returns:
      The figure.

    Raises:
      DataError: no histories, or an empty one.
      UnknownNameError: a run without that metric.
    """
    if not histories:
        raise DataError("compare needs at least one history")
    runs = []
    for name, run in histories.items():
        epochs, curves = _curves(run)
        if metric not in curves:
            raise UnknownNameError(
                f"no metric {metric!r} in the history of {name!r}."
                f"{did_you_mean(metric, curves)} It has: {', '.join(curves)}"
            )
        runs.append((name, epochs, curves[metric]))
    mode = infer_mode(metric)
    figure = new_figure(7.2, 4.2)
    axes = figure.add_subplot()
    lines = []
    for index, (name, epochs, values) in enumerate(runs):
        best = _best(values, mode)
        label = name if best is None else f"{name}  {_short(values[best])}"
        style = _STYLES[(index // len(COLOURS)) % len(_STYLES)]
        colour = COLOURS[index % len(COLOURS)]
        (line,) = axes.plot(epochs, values, style, color=colour, label=label, linewidth=1.6)
        lines.append((math.inf if best is None else float(values[best]), line))
    if mode is not None:
        lines.sort(key=lambda item: item[0] if mode == "min" else -item[0])
    _epoch_axis(axes)
    axes.set_ylabel(_words(metric))
    if log:
        axes.set_yscale("log")
    axes.legend(
        handles=[line for _, line in lines],
        title="best value" if mode is not None else None,
        frameon=False,
        fontsize="small",
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
    )
    return figure


@explained
def prediction_grid(
    images: Any,
    labels: Any,
    predictions: Any,
    class_names: Sequence[str] | None = None,
    *,
    max_images: int = 25,
) -> Figure:
    """Images with what the model says they are; wrong answers in orange with the right one.

    Args:
      images: ``[N, H, W]``, ``[N, H, W, 1]`` or ``[N, H, W, 3]``: uint8, or floats in
        ``[0, 1]``. Floats in another range, such as standardised ones, are stretched to it.
      labels: true classes ``[N]``, or None if they are not known.
      predictions: class ids ``[N]``, scores ``[N, classes]``, or the ``Predictions`` of
        ``Model.predict``. From those, and where each row is a probability distribution, the
        title gives the answer's probability.
      class_names: a name per class id.
      max_images: how many of the first images to draw.

    Returns:
      The figure.

    Raises:
      ShapeError: shapes that do not go together.
      DataError: no images, or a class id without a name.
    """
    shown = displayable(images, "images")[:max_images]
    total = len(np.asarray(images))
    answers, confidence = _answers(predictions, total)
    truth = None if labels is None else _class_ids(labels, "labels", total)
    if max_images < 1:
        raise DataError(f"max_images must be at least 1, got {max_images}")
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    figure = new_figure(1.55 * columns, 1.75 * rows)
    for index, image in enumerate(shown):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        title = _name(class_names, int(answers[index]))
        if confidence is not None:
            title += f"  {confidence[index]:.0%}"
        colour, weight = _UNKNOWN, "normal"
        if truth is not None:
            right = answers[index] == truth[index]
            colour, weight = (_RIGHT, "normal") if right else (_WRONG, "bold")
            if not right:
                title += f"\ntrue: {_name(class_names, int(truth[index]))}"
        axes.set_title(title, color=colour, fontsize=9, fontweight=weight, pad=3)
        for spine in axes.spines.values():
            spine.set_color(colour)
            spine.set_linewidth(2.5 if weight == "bold" else 1.0)
    return figure


@explained
def confusion_matrix(
    labels: Any,
    predictions: Any,
    class_names: Sequence[str] | None = None,
    *,
    normalize: bool = False,
) -> Figure:
    """How often each class was taken for each other: rows are true, columns predicted.

    Args:
      labels: true classes, ints ``[N]``.
      predictions: class ids ``[N]``, scores ``[N, classes]``, or the ``Predictions`` of
        ``Model.predict``, of which the best class counts.
      class_names: a name per class id; there may be more names than classes that occur.
      normalize: whether each row is given as shares of its class instead of counts.

    Returns:
      The figure; the title gives the accuracy.

    Raises:
      ShapeError: shapes that do not go together.
      DataError: no examples, a negative class id, or one without a name.
    """
    total = len(np.atleast_1d(np.asarray(labels)))
    answers, _ = _answers(predictions, total)
    truth = _class_ids(labels, "labels", total)
    classes = int(max(truth.max(), answers.max())) + 1
    if not isinstance(predictions, Predictions) and np.ndim(predictions) == 2:
        classes = max(classes, np.shape(predictions)[1])
    if class_names is not None:
        _name(class_names, classes - 1)
        classes = len(class_names)
    counts = np.bincount(truth * classes + answers, minlength=classes**2)
    counts = counts.reshape(classes, classes)
    per_class = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shares = counts / per_class

    size = min(max(3.6, 1.6 + 0.5 * classes), 12.0)
    # Square cells leave room at the sides, which this layout closes.
    figure = new_figure(size + 0.9, size, layout="compressed")
    axes = figure.add_subplot()
    cells = shares if normalize else counts
    picture = axes.imshow(cells, cmap="Blues", vmin=0, vmax=1 if normalize else max(cells.max(), 1))
    bar = figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.03)
    bar.set_label("share of the true class" if normalize else "examples")
    step = math.ceil(classes / _MAX_TICKS)
    ticks = np.arange(0, classes, step)
    names = [_name(class_names, int(i)) for i in ticks]
    tilted = max(map(len, names)) > 3
    axes.set_xticks(
        ticks,
        names,
        rotation=45 if tilted else 0,
        ha="right" if tilted else "center",
        rotation_mode="anchor" if tilted else "default",
    )
    axes.set_yticks(ticks, names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"accuracy {np.trace(counts) / total:.1%} of {total:,} examples")
    if classes <= _MAX_ANNOTATED:
        _annotate(axes, cells, normalize)
    return figure


def _curves(history: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Epochs and values by metric, from a ``History`` or a dictionary of lists."""
    raw = history if isinstance(history, Mapping) else history.metrics
    curves = {name: np.asarray(values, np.float64) for name, values in raw.items()}
    if not curves or not any(len(np.atleast_1d(values)) for values in curves.values()):
        raise DataError("the history is empty: train for at least one epoch")
    epochs = getattr(history, "epochs", None)
    if epochs is None:
        epochs = 1 + np.arange(max(len(np.atleast_1d(v)) for v in curves.values()))
    else:
        # Epochs count from 0 inside, from 1 for readers.
        epochs = 1 + np.asarray(epochs)
    for name, values in curves.items():
        if values.shape != epochs.shape:
            raise DataError(
                f"the history has {len(epochs)} epochs, but {name!r} is of shape "
                f"{list(values.shape)}"
            )
    return epochs, curves


def _best(values: np.ndarray, mode: str | None) -> int | None:
    """Index of the best value, or None where that means nothing."""
    if mode is None or not np.isfinite(values).any():
        return None
    finite = np.where(np.isfinite(values), values, np.inf if mode == "min" else -np.inf)
    return int(np.argmin(finite) if mode == "min" else np.argmax(finite))


def _mark_best(axes: Any, name: str, epochs: np.ndarray, values: np.ndarray, index: int) -> None:
    best = _best(values, infer_mode(name))
    if best is None:
        return
    axes.plot(
        epochs[best],
        values[best],
        "*",
        markersize=11,
        color=COLOURS[index],
        markeredgecolor="white",
        label=f"best: {_short(values[best])}, epoch {epochs[best]}",
        zorder=3,
        clip_on=False,
    )


def _epoch_axis(axes: Any) -> None:
    ticker = require("matplotlib.ticker", extra="plots", purpose="flaxzoo.plots")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3, linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _annotate(axes: Any, cells: np.ndarray, normalize: bool) -> None:
    half = (1 if normalize else max(cells.max(), 1)) / 2
    for (row, column), value in np.ndenumerate(cells):
        # Zeros are left out: what remains are the mistakes one looks for.
        if value:
            axes.text(
                column,
                row,
                f"{value:.2f}" if normalize else f"{value}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if value > half else "#222222",
            )


def _answers(predictions: Any, total: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Class ids, and the probability of each where the predictions are probabilities."""
    if isinstance(predictions, Predictions):
        answers = _class_ids(predictions.indices[:, 0], "predictions", total)
        return answers, np.asarray(predictions.probabilities[:, 0], np.float64)
    array = np.asarray(predictions)
    if array.ndim != 2:
        return _class_ids(array, "predictions", total), None
    if len(array) != total or array.shape[1] == 0:
        raise ShapeError(
            f"predictions must be [N] class ids or [N, classes] scores for {total} examples, "
            f"got {list(array.shape)}"
        )
    scores = array.astype(np.float64)
    check_scores(scores, "predictions")
    answers = array.argmax(axis=1)
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1.0, atol=1e-2):
        return answers, scores.max(axis=1)
    return answers, None


def _class_ids(values: Any, name: str, total: int) -> np.ndarray:
    array = np.asarray(values)
    if array.shape != (total,) or not np.issubdtype(array.dtype, np.integer):
        raise ShapeError(
            f"{name} must be int class ids of shape [{total}], got {array.dtype}{list(array.shape)}"
        )
    if total == 0:
        raise DataError(f"{name} is empty")
    if array.min() < 0:
        raise DataError(f"{name} holds the negative class id {array.min()}")
    return array.astype(np.int64)


def _name(class_names: Sequence[str] | None, index: int) -> str:
    if class_names is None:
        return str(index)
    if index >= len(class_names):
        raise DataError(f"class id {index} has no name: there are {len(class_names)} class_names")
    return str(class_names[index])


def _words(name: str) -> str:
    prefix = "validation " if name.startswith("val_") else ""
    return prefix + name.removeprefix("val_").replace("_", " ")


def _short(value: float) -> str:
    return f"{value:.4g}"
