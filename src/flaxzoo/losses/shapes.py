"""Static checks of shapes and dtypes: they run on tracers and specs, and cost nothing later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flaxzoo.errors import ShapeError

Spec = jax.ShapeDtypeStruct


def is_integer(spec: Spec) -> bool:
    """Whether the dtype is an integer one (bool does not count)."""
    return bool(jnp.issubdtype(spec.dtype, jnp.integer))


def got(spec: Spec) -> str:
    """Shape and dtype in words, for messages."""
    return f"shape {spec.shape} {spec.dtype}"


def one_array(name: str, argument: str, tree: Any) -> Spec:
    """``tree`` itself if it is the spec of one array.

    Raises:
      ShapeError: it is a structure, or None.
    """
    if isinstance(tree, Spec):
        return tree
    leaves = jax.tree.leaves(tree)
    what = "None" if tree is None else f"a {type(tree).__name__} of {len(leaves)} arrays"
    raise ShapeError(f"{argument} of loss {name!r} is {what}; it takes one array")


def _both(name: str, predictions: Any, targets: Any) -> tuple[Spec, Spec]:
    return one_array(name, "predictions", predictions), one_array(name, "targets", targets)


def mismatch(name: str, argument: str, spec: Spec, takes: str, hint: str = "") -> ShapeError:
    """The error for an array of the wrong shape or dtype."""
    text = f"{argument} of loss {name!r} has {got(spec)}; it takes {takes}."
    return ShapeError(f"{text} {hint}" if hint else text)


def _differ_by_ones(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return [n for n in a if n != 1] == [n for n in b if n != 1]


def _same_shape_hint(predictions: Spec, targets: Spec) -> str:
    if _differ_by_ones(predictions.shape, targets.shape):
        return (
            "Reshape one of the two: such shapes would silently broadcast to every pair "
            "of examples."
        )
    if targets.shape == predictions.shape[:-1] and is_integer(targets):
        return (
            "Targets that are class indices go with 'softmax_cross_entropy_with_integer_labels' "
            "or 'crossentropy'."
        )
    if predictions.shape[:1] != targets.shape[:1] and predictions.shape[1:] == targets.shape[1:]:
        return "The batch sizes differ."
    return ""


def elementwise(name: str, predictions: Any, targets: Any, options: Mapping[str, Any]) -> None:
    """Predictions and targets of one shape."""
    p, t = _both(name, predictions, targets)
    if p.shape != t.shape:
        takes = f"shape {p.shape}, the one of the predictions"
        raise mismatch(name, "targets", t, takes, _same_shape_hint(p, t))


def vector(name: str, predictions: Any, targets: Any, options: Mapping[str, Any]) -> None:
    """Predictions and targets of one shape ``[..., dim]``, compared along the last axis."""
    p = one_array(name, "predictions", predictions)
    if not p.shape:
        raise mismatch(name, "predictions", p, "vectors, [..., dim]")
    elementwise(name, predictions, targets, options)


def _class_weights(name: str, options: Mapping[str, Any], size: int, what: str) -> None:
    weights = options.get("class_weights")
    if weights is not None and len(weights) != size:
        raise ShapeError(
            f"class_weights of loss {name!r} has {len(weights)} values; it takes {size}, {what}"
        )


def _several_classes(name: str, predictions: Spec) -> None:
    if not predictions.shape:
        raise mismatch(name, "predictions", predictions, "scores of shape [..., num_classes]")
    if predictions.shape[-1] == 1:
        raise mismatch(
            name,
            "predictions",
            predictions,
            "scores of two classes or more on the last axis",
            "A softmax over one class is always 1: for a single yes-or-no output use "
            "'sigmoid_binary_cross_entropy', to predict a number 'mean_squared_error'.",
        )


def distribution(name: str, predictions: Any, targets: Any, options: Mapping[str, Any]) -> None:
    """Scores ``[..., num_classes]`` and one-hot or soft targets of the same shape."""
    p = one_array(name, "predictions", predictions)
    _several_classes(name, p)
    vector(name, predictions, targets, options)
    _class_weights(name, options, p.shape[-1], "one per class")


def integer(name: str, predictions: Any, targets: Any, options: Mapping[str, Any]) -> None:
    """Scores ``[..., num_classes]`` and integer class indices ``[...]``."""
    p, t = _both(name, predictions, targets)
    _several_classes(name, p)
    takes = (
        f"integer class indices of shape {p.shape[:-1]} for predictions of shape {p.shape} "
        "(classes on the last axis)"
    )
    if t.shape != p.shape[:-1]:
        hint = ""
        if t.shape == p.shape:
            hint = "One-hot or soft targets go with 'softmax_cross_entropy' or 'crossentropy'."
        elif _differ_by_ones(t.shape, p.shape[:-1]):
            hint = f"Reshape the targets to {p.shape[:-1]}."
        elif t.shape[1:] == p.shape[1:-1]:
            hint = "The batch sizes differ."
        raise mismatch(name, "targets", t, takes, hint)
    if not is_integer(t):
        hint = "If they are class indices, convert them first: targets.astype('int32')."
        raise mismatch(name, "targets", t, takes, hint)
    _class_weights(name, options, p.shape[-1], "one per class")


def labels_or_distribution(
    name: str, predictions: Any, targets: Any, options: Mapping[str, Any]
) -> None:
    """Scores ``[..., num_classes]`` with class indices ``[...]`` or one-hot targets."""
    p, t = _both(name, predictions, targets)
    if p.shape and t.shape == p.shape:
        distribution(name, predictions, targets, options)
    else:
        integer(name, predictions, targets, options)


def binary(name: str, predictions: Any, targets: Any, options: Mapping[str, Any]) -> None:
    """One logit per yes-or-no target, of the same shape."""
    elementwise(name, predictions, targets, options)
    _class_weights(name, options, 2, "the weights of the targets 0 and 1")


def nothing(name: str, predictions: Any, targets: Any, options: Mapping[str, Any]) -> None:
    """A user's function decides for itself."""


def embeddings(name: str, predictions: Any, targets: Any, options: Mapping[str, Any]) -> None:
    """Embeddings ``[B, dim]`` and integer group labels ``[B]``."""
    p, t = _both(name, predictions, targets)
    if len(p.shape) != 2:
        raise mismatch(name, "predictions", p, "embeddings of shape [batch, dim]")
    takes = f"integer group labels of shape {p.shape[:1]}, equal within a positive pair"
    if t.shape != p.shape[:1] or not is_integer(t):
        raise mismatch(name, "targets", t, takes)


def triplets(name: str, predictions: Any, targets: Any, options: Mapping[str, Any]) -> None:
    """Three arrays of one shape: anchors, positives, negatives."""
    if isinstance(predictions, Spec):
        if len(predictions.shape) < 2 or predictions.shape[0] != 3:
            raise mismatch(
                name,
                "predictions",
                predictions,
                "a tuple (anchors, positives, negatives) of arrays [batch, dim], "
                "or the three stacked in this order",
            )
        return
    parts = predictions if isinstance(predictions, tuple | list) else ()
    if len(parts) != 3 or not all(isinstance(part, Spec) for part in parts):
        raise ShapeError(
            f"predictions of loss {name!r} is a {type(predictions).__name__} of "
            f"{len(jax.tree.leaves(predictions))} arrays; it takes a tuple "
            "(anchors, positives, negatives) of arrays [batch, dim]"
        )
    for what, part in zip(("positives", "negatives"), parts[1:], strict=True):
        if part.shape != parts[0].shape:
            raise mismatch(name, what, part, f"shape {parts[0].shape}, the one of the anchors")
    if not parts[0].shape:
        raise mismatch(name, "anchors", parts[0], "vectors, [batch, dim]")


def _pair(name: str, argument: str, tree: Any, second: str) -> tuple[Spec, Spec | None]:
    if isinstance(tree, tuple) and len(tree) == 2:
        first, other = tree
        return one_array(name, argument, first), one_array(name, second, other)
    if isinstance(tree, Spec):
        return tree, None
    leaves = jax.tree.leaves(tree)
    raise ShapeError(
        f"{argument} of loss {name!r} is a {type(tree).__name__} of {len(leaves)} arrays; "
        f"it takes one array, or the pair ({argument}, {second})"
    )


def ctc(name: str, predictions: Any, targets: Any, options: Mapping[str, Any]) -> None:
    """Logits ``[B, T, K]`` and labels ``[B, N]``, each alone or with its paddings."""
    logits, logit_paddings = _pair(name, "predictions", predictions, "logit_paddings")
    labels, label_paddings = _pair(name, "targets", targets, "label_paddings")
    if len(logits.shape) != 3:
        raise mismatch(name, "predictions", logits, "logits of shape [batch, time, classes]")
    batch, _, classes = logits.shape
    if len(labels.shape) != 2 or labels.shape[0] != batch or not is_integer(labels):
        raise mismatch(name, "targets", labels, f"integer labels of shape ({batch}, max_length)")
    if logit_paddings is not None and logit_paddings.shape != logits.shape[:2]:
        raise mismatch(name, "logit_paddings", logit_paddings, f"shape {logits.shape[:2]}")
    if label_paddings is not None and label_paddings.shape != labels.shape:
        raise mismatch(name, "label_paddings", label_paddings, f"shape {labels.shape}")
    if not 0 <= options["blank_id"] < classes:
        raise ShapeError(
            f"blank_id of loss {name!r} is {options['blank_id']}; it takes a class in "
            f"[0, {classes}), as the logits have {classes} classes"
        )


def ranking(name: str, predictions: Any, targets: Any, options: Mapping[str, Any]) -> None:
    """Scores ``[..., list_size]`` and relevances of that shape, alone or with a mask."""
    relevance, mask = _pair(name, "targets", targets, "mask")
    vector(name, predictions, relevance, options)
    if mask is not None and mask.shape != relevance.shape:
        raise mismatch(name, "mask", mask, f"shape {relevance.shape}, the one of the targets")


def segmentation(name: str, predictions: Any, targets: Any, options: Mapping[str, Any]) -> None:
    """Logits ``[B, ..., C]`` with one-hot targets, class indices, or a binary mask for C = 1."""
    p, t = _both(name, predictions, targets)
    if len(p.shape) < 2:
        raise mismatch(name, "predictions", p, "scores of shape [batch, ..., num_classes]")
    if t.shape == p.shape[:-1] and p.shape[-1] > 1 and not is_integer(t):
        raise mismatch(
            name,
            "targets",
            t,
            f"one-hot targets of shape {p.shape} or integer class indices of shape {t.shape}",
        )
    if t.shape not in (p.shape, p.shape[:-1]):
        takes = f"shape {p.shape} (one-hot) or {p.shape[:-1]} (integer class indices)"
        raise mismatch(name, "targets", t, takes)
    _class_weights(name, options, p.shape[-1], "one per class")


def binary_segmentation(
    name: str, predictions: Any, targets: Any, options: Mapping[str, Any]
) -> None:
    """Logits ``[B, ...]`` or ``[B, ..., 1]`` and a binary mask with or without that last axis."""
    p, t = _both(name, predictions, targets)
    if not p.shape:
        raise mismatch(name, "predictions", p, "logits of shape [batch, ...]")
    allowed = {p.shape}
    if p.shape[-1] == 1 and len(p.shape) > 1:
        allowed.add(p.shape[:-1])
    if t.shape not in allowed:
        takes = f"a mask of shape {' or '.join(map(str, sorted(allowed, key=len)))}"
        raise mismatch(name, "targets", t, takes)
