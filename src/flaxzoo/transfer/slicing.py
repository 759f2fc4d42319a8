"""Parts of a model, cut at the boundaries of its stages, and their variables joined again."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flaxzoo._calls import apply_module
from flaxzoo._explain import explained
from flaxzoo._trees import flatten, unflatten
from flaxzoo.model import Model
from flaxzoo.models.backbone import Backbone
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head, Identity
from flaxzoo.models.stages import (
    as_staged,
    depths_of,
    groups_of,
    position,
    shared_of,
    stage_paths,
    stages_of,
)
from flaxzoo.spec import ModelSpec
from flaxzoo.weights.export import require_variables


class Slice(nn.Module):
    """Some consecutive stages of a module, under the parameter paths that they have in it.

    ``slice_model`` makes it and cuts the variables to fit.

    Attributes:
      module: has the methods ``stages`` and ``run_stages``.
      start: number of the first stage.
      stop: number of the first stage that is left out.
      feature_maps: whether to return the maps of the stages that end inside the range, for
        backbones that have them; None leaves it to the module.
    """

    module: nn.Module
    start: int
    stop: int
    feature_maps: bool | None = None

    def setup(self) -> None:
        """Takes the module's place among the parameters."""
        nn.share_scope(self, self.module)

    @nn.nowrap
    def stages(self) -> dict[str, tuple[str, ...]]:
        """The stages of the range and their submodules.

        What they read of stages outside of it counts as the first reader's.
        """
        stages = dict(list(stages_of(self.module).items())[self.start : self.stop])
        for name, children in shared_of(self.module).items():
            owned = {child for owner in stages.values() for child in owner}
            missing = tuple(child for child in children if child not in owned)
            if name in stages and missing:
                stages[name] = (*stages[name], *missing)
        return stages

    @nn.nowrap
    def shared(self) -> dict[str, tuple[str, ...]]:
        """The submodules of other stages that stages of the range read."""
        names = list(stages_of(self.module))[self.start : self.stop]
        return {name: paths for name, paths in shared_of(self.module).items() if name in names}

    @nn.nowrap
    def depths(self) -> dict[str, str]:
        """The group of equal depth of each stage of the range."""
        return dict(list(depths_of(self.module).items())[self.start : self.stop])

    def __call__(self, x: Any, *, train: bool = False, **options: Any) -> Any:
        """Computes the stages of the range.

        Args:
          x: what the first of them takes.
          train: whether this is a training step.
          **options: go to the module, such as an LSTM's ``lengths``.

        Returns:
          What the last of them returns, or with ``feature_maps`` the dictionary of maps.

        Raises:
          TypeError: ``feature_maps`` is set for a module that has none.
        """
        return self.run_stages(x, 0, self.stop - self.start, train=train, **options)

    def run_stages(
        self,
        x: Any,
        start: int = 0,
        stop: int | None = None,
        *,
        train: bool = False,
        **options: Any,
    ) -> Any:
        """Computes the stages ``start`` to ``stop``, counted from the slice's own first one."""
        if self.feature_maps is not None:
            if not hasattr(self.module, "feature_maps"):
                kind = type(self.module).__name__
                raise TypeError(f"a {kind} has no stages to give feature maps of")
            options = {"feature_maps": self.feature_maps, **options}
        last = self.stop if stop is None else self.start + stop
        run: Any = self.module
        return run.run_stages(x, self.start + start, last, train=train, **options)


@explained
def slice_model(
    model: Model | nn.Module, start: int | str | None = None, stop: int | str | None = None
) -> Model:
    """The stages ``start`` up to, without, ``stop`` of a model, as a model of its own.

    The parameters keep their paths, so that ``merge_variables`` joins slices again, and running
    one slice on what the one before it returns equals running the whole model, in training too.

    Args:
      model: with or without variables; any backbone of the zoo, a ``Sequential`` (Flax's or
        jax-resnet's), a module with the methods that ``flaxzoo.models.stages`` names, or a
        ``Classifier`` of one of these. A slice can be sliced again.
      start: the first stage: a name, ``"layer3_0"``; the name of a group for its first stage,
        ``"layer3"``; or a number as in Python's slices. None starts with the first of all.
      stop: the first stage that is left out, likewise; None leaves out none. ``stop="head"`` cuts
        off the head of a ``Classifier``, pooling included, and ``start="head"`` is the head alone,
        which takes maps and, where it averages maps, pooled features as well.

    Returns:
      A model whose module is the ``Classifier`` of the sliced backbone and the head, with an
      ``Identity`` in place of what is cut off; for a bare backbone the slice itself. Its
      variables, if there are any, are those of the stages in the range. Its spec has the input
      shape and dtype at that point, as far as they are known; no preprocessing unless the first
      stage is in it, and no classes unless the head is.

    Raises:
      UnknownNameError: (a KeyError) no stage has this name or number; it lists the closest.
      ValueError: the range is empty or reversed, or a variable belongs to no stage.
      TypeError: the module has no stages, or none that can be run by themselves.

    Example:
      >>> trunk = slice_model(model, stop="layer3")
      >>> rest = slice_model(model, start="layer3")
      >>> logits = rest(trunk(images))
    """
    if not isinstance(model, Model):
        model = Model(model)
    groups = groups_of(model.module)
    names = list(groups)
    first = 0 if start is None else position(groups, start)
    last = len(names) if stop is None else position(groups, stop)
    if first >= last:
        relation = "empty" if first == last else "reversed"
        raise ValueError(
            f"the range from {start!r} to {stop!r} is {relation}: it starts at stage {first} and "
            f"stops before stage {last} of {', '.join(names)}"
        )
    if (first, last) == (0, len(names)):
        return model
    variables = model.variables
    if variables is not None:
        variables = _cut(model.module, variables, names[first:last])
    module = _slice_module(model.module, first, last)
    precision = model.precision
    if precision is not None and variables is not None:
        precision = precision.within(variables.get("params", {}))
    return Model(module, variables, _spec(model, first, last == len(names)), precision)


def _slice_module(module: nn.Module, start: int, stop: int) -> nn.Module:
    """The module of the stages from one number to another."""
    if not isinstance(module, Classifier):
        return _slice_backbone(module, start, stop)
    names = list(stages_of(module))
    count = len(names) - (names[-1] == "head")
    if start >= count:
        return Classifier(backbone=Identity(), head=_for_any_features(module))
    backbone = _slice_backbone(module.backbone, start, min(stop, count), count)
    return Classifier(backbone=backbone, head=module.head if stop > count else Identity())


def _for_any_features(module: Classifier) -> nn.Module:
    """A head by itself takes pooled features as well, such as ``extract_features`` makes.

    That of tokens takes tokens alone: they have as many axes as batches of vectors may have. One of
    two classifiers says what both read, and stays as it is.
    """
    head, backbone = module.head, module.backbone
    # That of a slice which was sliced before.
    backbone = backbone.module if isinstance(backbone, Slice) else backbone
    parts = list(backbone.parts()) if isinstance(backbone, Backbone) else []
    tokens = bool(parts) and parts[-1].takes == "tokens"
    averages = isinstance(head, Head) and head.pooling == "avg" and not tokens
    return head.clone(pooling="auto") if averages and head.distilled is None else head


def _slice_backbone(
    module: nn.Module, start: int, stop: int, count: int | None = None
) -> nn.Module:
    if (start, stop) == (0, count):
        return module
    if isinstance(module, Slice):
        return module.clone(start=module.start + start, stop=module.start + stop)
    staged = as_staged(module)
    if staged is None or not hasattr(staged, "run_stages"):
        raise TypeError(
            f"a {type(module).__name__} has stages, but cannot run some of them: give it the "
            "method run_stages(x, start, stop, *, train=False)"
        )
    return Slice(staged, start, stop)


def _cut(module: nn.Module, variables: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The variables of some stages, without the collections that have none there."""
    found: dict[str, Any] = {}
    shared = shared_of(module)
    read = {f"{child}/" for name in names for child in shared.get(name, ())}
    for collection, tree in variables.items():
        paths = stage_paths(module, tree)
        kept = {path for name in names for path in paths[name]}
        kept |= {path for path in flatten(tree) if path.startswith(tuple(read))}
        part = {path: leaf for path, leaf in flatten(tree).items() if path in kept}
        if part or collection == "params":
            found[collection] = unflatten(part)
    return found


def _spec(model: Model, start: int, with_end: bool) -> ModelSpec:
    """What is known about a slice."""
    headed = with_end and isinstance(model.module, Classifier) and model.spec.task != "features"
    spec = dataclasses.replace(
        model.spec,
        # The registry builds whole architectures only.
        config=None,
        head=None,
        task=model.spec.task if headed else "features",
        classes=model.spec.classes if headed else None,
        top1=None,
    )
    if not start:
        return spec
    spec = dataclasses.replace(spec, declared=False, preprocess=None, input_shape=None)
    if model.spec.input_shape is None:
        return spec
    before = Model(_slice_module(model.module, 0, start), None, model.spec)
    if model.variables is not None:
        names = list(stages_of(model.module))
        before = before.with_variables(_cut(model.module, model.variables, names[:start]))
    point = jax.eval_shape(
        functools.partial(apply_module, before.module), before.shapes(), before._sample(None)
    )
    if not isinstance(point, jax.ShapeDtypeStruct):
        # Several arrays, such as a sequence and its mask.
        return spec
    return dataclasses.replace(spec, input_shape=point.shape[1:], input_dtype=str(point.dtype))


@explained
def merge_variables(*parts: Model | Mapping[str, Any]) -> dict[str, Any]:
    """Joins the variables of slices, or of other parts under different paths.

    Args:
      *parts: models with variables, or their variables: collections of nested dictionaries. What
        two parts share must be the same in both, bit for bit.

    Returns:
      One tree: for the slices of a model that cover it, the tree of the whole model, which
      ``model.with_variables`` takes.

    Raises:
      UninitializedError: a model has no variables.
      ValueError: two parts hold different values under one path, or an array where the other has a
        group; or there are no parts.
      TypeError: a part is neither a model nor a mapping.

    Example:
      >>> trained = slice_model(model, start="head")  # ... and trained
      >>> whole = model.with_variables(merge_variables(slice_model(model, stop="head"), trained))
    """
    if not parts:
        raise ValueError("merge_variables takes one or more models or trees of variables, got none")
    merged: dict[str, Any] = {}
    for number, part in enumerate(parts):
        if isinstance(part, Model):
            require_variables(part)
            part = part.variables
        if not isinstance(part, Mapping):
            raise TypeError(
                "merge_variables takes models and trees of variables, got "
                f"{type(part).__name__} as argument {number}"
            )
        _merge(merged, part, ())
    return merged


def _merge(merged: dict[str, Any], part: Mapping[str, Any], groups: tuple[str, ...]) -> None:
    """Adds a tree to another in place; ``groups`` is where they are, for messages."""
    for key, value in part.items():
        path = "/".join((*groups, str(key)))
        if isinstance(value, Mapping) != isinstance(merged.get(key, value), Mapping):
            raise ValueError(f"{path} is a group in one part and an array in another")
        if isinstance(value, Mapping):
            _merge(merged.setdefault(key, {}), value, (*groups, str(key)))
        elif key not in merged:
            merged[key] = value
        elif (difference := _difference(merged[key], value)) is not None:
            raise ValueError(
                f"two parts hold {path} with {difference}: pass only the one that counts, cut by "
                "slice_model where they overlap"
            )


def _difference(a: Any, b: Any) -> str | None:
    """In what two leaves differ, or None."""
    if a is b:
        return None
    types = [(tuple(np.shape(leaf)), str(getattr(leaf, "dtype", type(leaf)))) for leaf in (a, b)]
    if types[0] != types[1]:
        return " and ".join(f"{dtype} {list(shape)}" for shape, dtype in types)
    leaves = (a, b)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return "values that cannot be compared while they are traced"
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return None
    # Bytes, for which NaN equals itself.
    first, second = (np.asarray(leaf).tobytes() for leaf in leaves)
    return None if first == second else "different values"
