"""MetricSpec: a metric that has been chosen, and the registry to choose it from."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
import sys
import typing
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from clu import metrics as clu_metrics

from flaxzoo._calls import predictions_first
from flaxzoo._checks import is_number, is_size
from flaxzoo._config import NotJsonableError, hashable, to_json
from flaxzoo._explain import explained, refuse_foreign
from flaxzoo.errors import ArgumentError, ShapeError, UnknownArgumentError
from flaxzoo.metrics import _arrays, _states
from flaxzoo.registry import Registry

_TOP_K = re.compile(r"top_?(\d+)_?acc(uracy)?", re.IGNORECASE)
# Keywords that describe the data, not the question asked of it: names do without them.
_UNNAMED = frozenset({"from_logits", "num_classes"})


@dataclasses.dataclass(frozen=True)
class MetricSpec:
    """A metric with its keywords: what to compute from a batch, under which name.

    It holds no values. It is hashable, and equal to another of the same name and keywords, so that
    it can be a static argument of a jitted step.

    Attributes:
      name: key of the metric in results.
      function: ``f(outputs, targets, **kwargs)``, or a clu.metrics.Metric class.
      kwargs: the fixed keywords, sorted.
      registered: name in the registry, or None for a function of the user's.
    """

    name: str
    function: Callable[..., Any]
    kwargs: tuple[tuple[str, Hashable], ...] = ()
    registered: str | None = None

    @property
    def config(self) -> dict[str, Any] | None:
        """JSON-able dictionary that ``as_metric`` takes back; None for a user's own function."""
        if self.registered is None:
            return None
        try:
            kwargs = to_json(dict(self.kwargs))
        except NotJsonableError:
            return None
        if self.name != REGISTRY.key(self.registered, dict(self.kwargs)):
            kwargs["name"] = self.name
        return {"name": self.registered, "kwargs": kwargs}

    def update(
        self, outputs: Any, targets: Any, *, weights: Any = None, loss: Any = None
    ) -> clu_metrics.Metric:
        """Computes the metric's sums for one batch; safe under ``jax.jit``.

        Args:
          outputs: what the model returned, with the batch on the leading axis.
          targets: what it should have returned.
          weights: [B], or more leading axes of the targets such as [B, T], or None for ones.
            Whatever has weight 0 has no influence, even if it is NaN.
          loss: loss by example [B], or the batch's mean; only metric ``"loss"`` needs it.

        Returns:
          A clu.metrics.Metric: ``a.merge(b)`` of two batches, ``.compute()`` for the value.

        Raises:
          ShapeError: outputs, targets and weights do not fit; it says what would.
          UnknownArgumentError: the metric needs a loss, or takes no weights, and has been given
            none, or some.
        """
        inputs = {"outputs": outputs, "targets": targets, "weights": weights, "loss": loss}
        if _is_metric_class(self.function):
            return _update_class(self.function, inputs)
        extra = {k: inputs[k] for k in _extra_inputs(self.function)}
        result = self.function(outputs, targets, **dict(self.kwargs), **extra)
        if isinstance(result, clu_metrics.Metric):
            return result
        if "weights" in extra and jnp.ndim(result):
            raise UnknownArgumentError(
                f"metric {self.name!r} takes weights, so it must return a clu.metrics.Metric or "
                f"one number, got shape {jnp.shape(result)}; without the parameter 'weights' its "
                "values are averaged with them"
            )
        return _states.average(
            result, weights, examples=batch_size(outputs, targets), metric=self.name
        )

    def __repr__(self) -> str:
        return f"MetricSpec({', '.join([self.name, *(f'{k}={v!r}' for k, v in self.kwargs)])})"


MetricLike: TypeAlias = str | MetricSpec | Mapping[str, Any] | Callable[..., Any]


class _MetricRegistry(Registry[MetricSpec]):
    """Entries are functions of (outputs, targets) and keywords, or Metric classes."""

    def spelling(self, name: object) -> str | None:
        known = super().spelling(name)
        top = _TOP_K.fullmatch(name) if known is None and isinstance(name, str) else None
        return f"top{top[1]}_accuracy" if top else known

    def resolve(self, name: str) -> str:
        spelled = self.spelling(name)
        if spelled is not None and super().spelling(spelled) is None:
            return "top_k_accuracy"
        return super().resolve(name)

    def parameters(self, name: str) -> Mapping[str, inspect.Parameter]:
        if _is_metric_class(self.entry(name)):
            return {}
        # Whatever a user calls them, the first two are outputs and targets.
        parameters = [*super().parameters(name).items()][2:]
        return {k: p for k, p in parameters if k not in ("weights", "loss")}

    @explained
    def get(self, name: str, /, **kwargs: Any) -> MetricSpec:
        """The metric ``name`` with keywords fixed.

        Args:
          name: a metric's name or alias, see ``list()``; ``"top5_accuracy"`` works for any number.
          **kwargs: keywords of that metric, see ``info(name)``, and ``name=`` for another key in
            the results. Without it the key is the metric's name followed by what is not default:
            ``"precision_macro"``, ``"fbeta_beta2"``.

        Returns:
          A hashable MetricSpec.

        Raises:
          UnknownNameError: (a KeyError) no metric has that name.
          UnknownArgumentError: (a TypeError) the metric does not take a keyword, or needs one.
          ValueError: a keyword has an impossible value, such as a beta that is not positive.
        """
        key = kwargs.pop("name", None)
        entry, registered = self.entry(name), self.resolve(name)
        top = _TOP_K.fullmatch(name)
        if top:
            kwargs = {"k": int(top[1]), **kwargs}
        self.check_arguments(name, kwargs)
        if entry.__module__.startswith(f"{__package__}."):
            _check_values(registered, kwargs)
        frozen = {key: hashable(value) for key, value in kwargs.items()}
        ours = entry.__module__.startswith(f"{__package__}.") or _is_metric_class(entry)
        return MetricSpec(
            name=key or self.key(name, frozen),
            function=entry if ours else predictions_first(entry),
            kwargs=tuple(sorted(frozen.items())),
            registered=registered,
        )

    def key(self, name: str, kwargs: Mapping[str, Any]) -> str:
        """Key in the results of the metric ``name`` with ``kwargs``."""
        parameters = self.parameters(name)
        if self.resolve(name) == "top_k_accuracy":
            return f"top{kwargs.get('k', parameters['k'].default)}_accuracy"
        parts = [self.spelling(name) or name]
        for key in parameters:
            value = kwargs.get(key, parameters[key].default)
            if key in _UNNAMED or value == parameters[key].default:
                continue
            if isinstance(value, float):
                value = f"{value:g}"
            parts.append(value if key == "average" else f"{key}{value}")
        return "_".join(parts)


REGISTRY = _MetricRegistry("metric")


@explained
def as_metric(metric: MetricLike, *, name: str | None = None) -> MetricSpec:
    """A MetricSpec from whatever a user may call a metric.

    Args:
      metric: a registered name; a MetricSpec; a dictionary (a spec's ``config``); a
        clu.metrics.Metric class such as metrax's; or a function ``f(outputs, targets)`` whose
        result is averaged with the batch's weights. The result may be by example [B], by element
        [B, ...], or a scalar, in which case rows of weight 0 are the function's own concern. A
        function that has parameters ``weights`` or ``loss`` gets them, and one that returns a
        clu.metrics.Metric decides itself what is accumulated. A ``flaxzoo.losses.Loss`` works too.
        A function whose parameters are called ``(y_true, y_pred)`` is called in that order.
      name: key in the results. Default: the metric's own name.

    Returns:
      A hashable MetricSpec.

    Raises:
      UnknownNameError: no metric has that name.
      UnknownArgumentError: ``metric`` is none of these.
    """
    if isinstance(metric, str):
        spec = REGISTRY.get(metric)
    elif isinstance(metric, MetricSpec):
        spec = metric
    elif isinstance(metric, Mapping):
        spec = REGISTRY.from_config(metric)
    elif _is_collection(metric):
        raise UnknownArgumentError(
            f"{getattr(metric, '__name__', type(metric).__name__)} is a clu.metrics.Collection of "
            "several metrics: pass it as metrics= itself, or flaxzoo.metrics.each_metric of it"
        )
    elif callable(metric):
        refuse_foreign("metrics", metric, REGISTRY)
        spec = _from_callable(metric)
    else:
        raise UnknownArgumentError(
            "a metric is a name, a MetricSpec, a function of (outputs, targets) or a "
            f"clu.metrics.Metric class; got {type(metric).__name__}: {metric!r}"
        )
    return dataclasses.replace(spec, name=name) if name else spec


@dataclasses.dataclass(frozen=True)
class _LossValues:
    """A Loss as a metric: called without weights, which the average applies."""

    loss: Any

    def __call__(self, outputs: Any, targets: Any) -> jax.Array:
        loss = self.loss
        return (loss.values if loss.per_example else loss.mean)(outputs, targets)


def _from_callable(metric: Callable[..., Any]) -> MetricSpec:
    # Only a caller who has made a Loss has that module, which is as large as this one.
    losses = sys.modules.get("flaxzoo.losses")
    if losses is not None and isinstance(metric, losses.Loss):
        return MetricSpec(name=metric.name, function=_LossValues(metric))
    function = metric
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return MetricSpec(name, metric if _is_metric_class(metric) else predictions_first(metric))


@explained
def each_metric(metrics: Any) -> tuple[MetricSpec, ...]:
    """The metrics in what may be one, several, or a clu.metrics.Collection.

    Args:
      metrics: what ``as_metric`` takes, an iterable or a mapping from names to these, or a clu
        Collection: its class, or an instance such as ``Metrics.empty()``. A Collection's metrics
        have the names of its fields. Its ``loss``, if it averages the model output of that name,
        is the loss that every step computes already, and is left out.

    Returns:
      A spec for each.

    Raises:
      As ``as_metric``.
    """
    if _is_collection(metrics):
        classes = _classes_of(metrics)
        return tuple(as_metric(cls, name=name) for name, cls in classes.items())
    if isinstance(metrics, Mapping) and not _is_config(metrics):
        return tuple(as_metric(metric, name=name) for name, metric in metrics.items())
    if isinstance(metrics, str | MetricSpec | Mapping) or callable(metrics):
        return (as_metric(metrics),)
    return tuple(
        spec
        for metric in metrics
        for spec in (each_metric(metric) if _is_collection(metric) else (as_metric(metric),))
    )


def _is_config(metric: Mapping[str, Any]) -> bool:
    return "name" in metric and set(metric) <= {"name", "kwargs"}


def _is_collection(value: Any) -> bool:
    cls = value if isinstance(value, type) else type(value)
    return issubclass(cls, clu_metrics.Collection)


def _classes_of(collection: Any) -> dict[str, type]:
    """The classes of a clu Collection's metrics, by field."""
    if isinstance(collection, type):
        classes = typing.get_type_hints(collection)
    else:
        classes = {
            f.name: type(getattr(collection, f.name)) for f in dataclasses.fields(collection)
        }
    classes.pop("_reduction_counter", None)
    mean_loss = classes.get("loss", object)
    if issubclass(mean_loss, clu_metrics.Average) and "from_output" in mean_loss.__qualname__:
        del classes["loss"]
    return classes


def batch_size(*trees: Any) -> int:
    """Length of the leading axis of the first array in ``trees``; 1 if there is none."""
    for leaf in jax.tree.leaves(trees):
        if jnp.ndim(leaf):
            return jnp.shape(leaf)[0]
    return 1


def _is_metric_class(function: Any) -> bool:
    return isinstance(function, type) and issubclass(function, clu_metrics.Metric)


def _extra_inputs(function: Callable[..., Any]) -> tuple[str, ...]:
    """Which of weights and loss a function asks for by name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some C functions and ufuncs have no signature
        return ()
    return tuple(k for k in ("weights", "loss") if k in parameters)


def _check_values(metric: str, kwargs: Mapping[str, Any]) -> None:
    """Refuses impossible values when a metric is chosen, long before it is computed."""
    for key, (valid, takes) in _VALID.items():
        if key in kwargs and not valid(kwargs[key]):
            raise ArgumentError(f"metric {metric!r}: {key} takes {takes}, got {kwargs[key]!r}")


_AVERAGES = ("binary", "micro", "macro", "weighted")
_VALID: dict[str, tuple[Callable[[Any], bool], str]] = {
    "average": (lambda a: a in _AVERAGES, " or ".join(map(repr, _AVERAGES))),
    "beta": (lambda b: is_number(b) and b > 0, "a positive number"),
    "from_logits": (lambda f: isinstance(f, bool | np.bool_), "True or False"),
    "k": (is_size, "an integer of at least 1"),
    "num_classes": (lambda n: n is None or is_size(n, 2), "an integer of at least 2"),
    "threshold": (lambda t: is_number(t) and 0 <= t <= 1, "a probability between 0 and 1"),
}


def _update_class(cls: Any, inputs: Mapping[str, Any]) -> clu_metrics.Metric:
    """Calls ``from_model_output`` of a clu or metrax class by the argument names it knows."""
    weights = inputs["weights"]
    outputs, targets = (_without_padding(inputs[k], weights) for k in ("outputs", "targets"))
    offered = {
        **dict.fromkeys(("outputs", "predictions", "logits", "y_pred"), outputs),
        **dict.fromkeys(("targets", "labels", "y_true"), targets),
    }
    if inputs["loss"] is not None:
        offered["loss"] = inputs["loss"]
    if weights is not None:
        offered["sample_weights"] = offered["weights"] = weights
        offered["mask"] = jnp.asarray(weights) != 0
    parameters = inspect.signature(cls.from_model_output).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    named = [k for k, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    missing = [k for k in named if parameters[k].default is inspect.Parameter.empty]
    missing = [k for k in missing if k not in offered]
    if missing:
        raise UnknownArgumentError(
            f"metric {cls.__name__}: from_model_output needs {', '.join(missing)}; it can have: "
            f"{', '.join(offered)}. Pass a function that returns {cls.__name__} instead"
        )
    if (
        weights is not None
        and not takes_any
        and not {"sample_weights", "weights", "mask"} & {*named}
    ):
        raise UnknownArgumentError(
            f"metric {cls.__name__}: from_model_output takes no weights, so padding would count; "
            f"use a metric of flaxzoo.metrics.list(), or a function that returns {cls.__name__}"
        )
    try:
        return cls.from_model_output(
            **(offered if takes_any else {k: offered[k] for k in named if k in offered})
        )
    except KeyError as error:
        # Metric.from_output("name") looks its output up.
        if not takes_any or error.args[:1] == () or error.args[0] in offered:
            raise
        raise UnknownArgumentError(
            f"metric {cls.__name__} wants the output {error.args[0]!r}; it can have: "
            f"{', '.join(offered)}"
        ) from error


def _without_padding(tree: Any, weights: Any) -> Any:
    """Zeros where the weight is 0, for metrics that multiply by weights: NaN times 0 is NaN."""
    if weights is None:
        return tree
    keep = jnp.asarray(weights) != 0

    def clear(x: Any) -> jax.Array:
        x = jnp.asarray(x)
        if x.shape[: keep.ndim] != keep.shape:
            raise ShapeError(
                f"weights has shape {keep.shape}, takes the leading axes of outputs and targets, "
                f"{x.shape}"
            )
        return _arrays.masked(x, keep.reshape(keep.shape + (1,) * (x.ndim - keep.ndim)))

    return jax.tree.map(clear, tree)
