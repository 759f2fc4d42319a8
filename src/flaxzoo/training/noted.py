"""What a model keeps of the data that it is trained on, so that it can predict from files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from flaxzoo._warnings import warn
from flaxzoo.losses import Loss
from flaxzoo.preprocess import Preprocess
from flaxzoo.spec import ModelSpec

# What is known of a model that no registry can build again, beside its module.
_FACTS = ("task", "classes", "preprocess")


def with_preprocess(spec: ModelSpec, data: Any, *, fresh: bool) -> ModelSpec:
    """The spec with the preprocessing of a data set of image files.

    Args:
      spec: of the model; it keeps a preprocessing of its own where its weights were given.
      data: what it is trained on; other data than such a set changes nothing.
      fresh: whether the model begins with weights that have seen nothing.

    Warns:
      UserWarning: the model normalises images otherwise than the data set does.
    """
    preprocess = getattr(data, "preprocess", None)
    if not isinstance(preprocess, Preprocess) or preprocess == spec.preprocess:
        return spec
    if spec.preprocess is None or fresh:
        return dataclasses.replace(spec, preprocess=preprocess)
    trained, predicted = preprocess.normalisation, spec.preprocess.normalisation
    if trained != predicted:
        warn(
            f"train_data normalises images by mean {trained[0]} and std {trained[1]}, and model "
            f"{spec.name!r} by {predicted[0]} and {predicted[1]}, which its weights know and "
            "model.predict uses: pass preprocess=model.spec.preprocess to the data set"
        )
    return spec


def with_classes(spec: ModelSpec, data: Any, outputs: Any, loss: Loss) -> ModelSpec:
    """The spec with the data's names of classes, if it has none and there is one for each output.

    A module of one's own that was trained on image files to tell their classes ranks them in
    ``predict`` from then on.

    Args:
      spec: of the model.
      data: what it is trained on; its ``class_names`` are the names, if it has some.
      outputs: the shapes of the model's outputs.
      loss: what it is trained with.
    """
    names: Sequence[Any] = getattr(data, "class_names", None) or ()
    leaves = jax.tree.leaves(outputs)
    one = len(leaves) == 1 and len(leaves[0].shape) == 2
    if spec.classes or not names or not one or leaves[0].shape[-1] != len(names):
        return spec
    spec = dataclasses.replace(spec, classes=tuple(map(str, names)))
    logits = loss.integer_labels and dict(loss.options).get("from_logits", True)
    own = spec.config is None and spec.task == "features"
    if own and logits and isinstance(getattr(data, "preprocess", None), Preprocess):
        spec = dataclasses.replace(spec, task="classification")
    return spec


def facts(spec: ModelSpec) -> dict[str, Any] | None:
    """What a file holds of a spec that has no configuration; None for one that has."""
    if spec.config is not None:
        return None
    written = spec.to_json()
    return {name: written[name] for name in _FACTS}


def with_facts(spec: ModelSpec, written: dict[str, Any] | None) -> ModelSpec:
    """A spec with what ``facts`` gave of the run's, where it does not know better."""
    if not written or spec.config is not None:
        return spec
    noted = ModelSpec.from_json({"name": spec.name, **written})
    task = noted.task if spec.task == "features" else spec.task
    return dataclasses.replace(
        spec,
        task=task,
        classes=spec.classes or noted.classes,
        preprocess=spec.preprocess or noted.preprocess,
    )
