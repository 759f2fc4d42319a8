"""Figures: training curves, predictions, confusion matrices, comparisons, attention.

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
from flaxzoo.errors import (
    ArgumentError,
    DataError,
    ShapeError,
    UnknownNameError,
    did_you_mean,
)
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


@explained
def attention(
    model: Any,
    image: Any,
    *,
    block: int | str = -1,
    token: int | tuple[int, int] | None = None,
    rollout: bool = False,
) -> Figure:
    """Where a vision transformer looks, drawn on the picture: each head, and their mean.

    Args:
      model: a ``Model`` with variables, whose blocks attend to all patches: a ViT, DeiT, BEiT, EVA,
        CaiT and their like.
      image: one picture: what ``model.predict`` takes (a path, a PIL image, uint8 ``[H, W, C]``),
        or a preprocessed one, floating ``[H, W, C]``.
      block: the attention to draw, by number or by its name in ``model.attention_weights``.
      token: which one looks: the number of one before the patches (0 is the class token), or the
        row and column of a patch; None for the class token, or for the mean of all patches where
        there is none.
      rollout: whether to draw one panel of what reaches the token through all blocks up to this
        one: the product of their mean weights with half of each token kept (Abnar and Zuidema 2020,
        https://arxiv.org/abs/2005.00928).

    Returns:
      The figure. Brighter is more; each panel has its own scale, and its largest weight in its
      title. A patch that looks is framed.

    Raises:
      TypeError: the model has no attention weights, or is no ``Model``.
      ShapeError: there is more than one picture, or the attention is not over the whole picture's
        patches (windows, reduced keys).
      UnknownNameError: there is no such block.
      ArgumentError: there is no such token.
    """
    if not hasattr(model, "attention_weights"):
        raise TypeError(f"model must be a flaxzoo.Model, got {type(model).__name__}")
    images = _one_picture(model, image)
    every = {name: np.asarray(w)[0] for name, w in model.attention_weights(images).items()}
    names = list(every)
    name = _chosen(block, names)
    backbone = model.module.backbone
    grid, prefix = _patch_grid(backbone, images.shape[1:3], every[name].shape[-1], name)
    if rollout:
        maps = _rolled_out([every[n] for n in names[: names.index(name) + 1]], name)[None]
        titles = ["rollout"]
    else:
        weights = every[name]
        maps = np.concatenate([weights, weights.mean(0, keepdims=True)])
        titles = [*(f"head {i}" for i in range(len(weights))), "mean"]
    query, who = _query(token, maps.shape[1], grid, prefix)
    panels = maps[:, query].mean(1)[:, prefix:].reshape(-1, *grid)
    figure = _overlays(displayable(images, "image")[0], panels, titles, f"{name}: {who}")
    if isinstance(token, tuple):
        height, width = images.shape[1] / grid[0], images.shape[2] / grid[1]
        corner = (token[1] * width, token[0] * height)
        patches = require("matplotlib.patches", extra="plots", purpose="flaxzoo.plots")
        for axes in figure.axes:
            axes.add_patch(patches.Rectangle(corner, width, height, fill=False, edgecolor="white"))
    return figure


def _one_picture(model: Any, image: Any) -> np.ndarray:
    """A batch of the one picture, as the network takes it."""
    preprocess = model.spec.preprocess
    array = np.asarray(image) if hasattr(image, "shape") else None
    if array is not None and array.dtype.kind == "f" and array.ndim == 3:
        images = array[None].astype(np.float32)
    elif preprocess is not None:
        images = preprocess(image)
    elif array is not None:
        images = array.astype(np.float32)
    else:
        raise TypeError(
            f"model {model.spec.name!r} has no preprocessing for pictures: pass a floating image "
            f"[H, W, C], got {type(image).__name__}"
        )
    if images.ndim != 4 or len(images) != 1:
        raise ShapeError(f"image must be one picture [H, W, C], got {list(np.shape(image))}")
    return images


def _chosen(block: int | str, names: Sequence[str]) -> str:
    if isinstance(block, str):
        matching = [name for name in names if block in (name, name.partition("/")[0])]
        if matching:
            return matching[0]
    elif -len(names) <= block < len(names):
        return names[block]
    raise UnknownNameError(
        f"no attention {block!r}.{did_you_mean(str(block), names)} "
        f"There are {len(names)}: {', '.join(names)}"
    )


def _patch_grid(
    backbone: Any, size: tuple[int, ...], keys: int, name: str
) -> tuple[tuple[int, int], int]:
    """Rows and columns of the patches that are the keys, and the number of tokens before them."""
    prefix, grid_of = getattr(backbone, "prefix", 0), getattr(backbone, "grid_of", None)
    grid = None if grid_of is None else tuple(grid_of(size))
    # A class token that comes in late is a key of some blocks, and not of others.
    prefixes = [] if grid is None else [p for p in (prefix, 1, 0) if p + math.prod(grid) == keys]
    if grid is None or not prefixes:
        raise ShapeError(
            f"attention {name!r} of a {type(backbone).__name__} has {keys} keys, which are not the "
            "patches of the whole picture: model.attention_weights(images) has its numbers"
        )
    return grid, prefixes[0]


def _rolled_out(blocks: Sequence[np.ndarray], name: str) -> np.ndarray:
    """What reaches each token through blocks ``[heads, N, N]``: ``[N, N]``, rows sum to 1."""
    total = np.eye(blocks[-1].shape[-1])
    for weights in blocks:
        if weights.shape[-2:] != total.shape:
            raise ShapeError(
                f"rollout=True takes blocks in which all tokens attend to all, but up to {name!r} "
                f"there is one of {weights.shape[-2]} queries and {weights.shape[-1]} keys"
            )
        total = (0.5 * weights.mean(0) + 0.5 * np.eye(len(total))) @ total
    return total


def _query(
    token: int | tuple[int, int] | None, queries: int, grid: tuple[int, int], prefix: int
) -> tuple[slice, str]:
    """The rows of the weights that are drawn, and what they are in words."""
    if token is None:
        whole = not prefix and queries > 1
        return (slice(None), "mean of all patches") if whole else (slice(0, 1), "class token")
    if isinstance(token, tuple) and len(token) == 2:
        row, column = token
        number = prefix + row * grid[1] + column
        if 0 <= row < grid[0] and 0 <= column < grid[1] and number < queries:
            return slice(number, number + 1), f"patch in row {row}, column {column}"
    elif isinstance(token, int) and 0 <= token < min(prefix, queries):
        return slice(token, token + 1), "class token" if token == 0 else f"token {token}"
    raise ArgumentError(
        f"token must be one of the {prefix} before the patches, or (row, column) of one of "
        f"{grid[0]} x {grid[1]} patches among {queries} queries, got {token!r}"
    )


def _overlays(image: np.ndarray, panels: np.ndarray, titles: Sequence[str], heading: str) -> Figure:
    """The picture, then each map over it."""
    height, width = image.shape[:2]
    grey = image if image.ndim == 2 else image @ np.array([0.299, 0.587, 0.114])
    columns = min(1 + len(panels), 5)
    rows = math.ceil((1 + len(panels)) / columns)
    figure = new_figure(1.9 * columns, 2.1 * rows * height / width + 0.3)
    for index in range(1 + len(panels)):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_axis_off()
        extent = (0, width, height, 0)
        if index == 0:
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=extent)
            axes.set_title("picture", fontsize=9)
            continue
        panel = panels[index - 1]
        axes.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=extent)
        axes.imshow(panel, cmap="inferno", alpha=0.65, extent=extent, interpolation="bilinear")
        axes.set_title(f"{titles[index - 1]}, max {panel.max():.2g}", fontsize=9)
    figure.suptitle(heading, fontsize=10)
    return figure


def _curves(history: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Epochs and values by metric, from a ``History`` or a dictionary of lists."""
    raw = history if isinstance(history, Mapping) else getattr(history, "metrics", None)
    if not isinstance(raw, Mapping):
        raise TypeError(
            "history must be a History, as fit returns it, or a mapping from metrics to lists of "
            f"a value per epoch, got {history!r}"
        )
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
