"""MetricCollection: the metrics of one batch, or of all batches so far."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import flax
import jax
import numpy as np
from clu import metrics as clu_metrics

from flaxzoo._explain import explained
from flaxzoo._programs import Jitted
from flaxzoo.errors import ShapeError, UnknownArgumentError, UnknownNameError, did_you_mean
from flaxzoo.metrics import _spec, _states


@flax.struct.dataclass
class MetricCollection:
    """Named metrics of some data: sums on the device, which merge with those of other data.

    A collection is a pytree and goes in and out of jitted functions.

    Attributes:
      names: keys in the order in which the metrics were asked for.
      states: one clu.metrics.Metric for each name.
      classes: the states' classes. The treedefs of two dataclasses of equal fields compare
        equal in JAX, whatever the classes are, and jit's cache may then take one for the
        other; as static data of ours the classes tell an MSE from an RMSE.
    """

    names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    states: tuple[clu_metrics.Metric, ...] = ()
    classes: tuple[type, ...] = flax.struct.field(pytree_node=False, default=())

    @classmethod
    def empty(cls) -> MetricCollection:
        """The collection of no data: merged with any other, it gives the other."""
        return cls()

    @classmethod
    def create(cls, metrics: Mapping[str, clu_metrics.Metric]) -> MetricCollection:
        """A collection of metrics by name."""
        states = tuple(metrics.values())
        return cls(names=tuple(metrics), states=states, classes=tuple(map(type, states)))

    @property
    def metrics(self) -> dict[str, clu_metrics.Metric]:
        """The metrics by name."""
        return dict(zip(self.names, self.states, strict=True))

    def merge(self, other: MetricCollection) -> MetricCollection:
        """The metrics of both data together, one jitted call that does not wait for the device.

        Args:
          other: a collection of the same metrics, or an empty one.

        Returns:
          A collection whose values are those of the concatenated data.

        Raises:
          UnknownNameError: the two hold different metrics.
        """
        if not self.names or not other.names:
            return self if self.names else other
        if set(self.names) != set(other.names):
            raise UnknownNameError(
                "collections of different metrics can't merge: "
                f"{', '.join(self.names)} and {', '.join(other.names)}"
            )
        return _merge(self, MetricCollection.create({k: other[k] for k in self.names}))

    def compute(self) -> dict[str, float]:
        """The values on the host; waits for the device.

        Returns:
          Python floats by name, in order. An average over no weight at all is 0.

        Raises:
          ShapeError: a user's metric is not a single number.
        """
        # A user's class may look at its values, which a jitted function can't.
        own = {k: x for k, x in self.metrics.items() if type(x) in _states.JITTABLE}
        jitted = iter(_compute(MetricCollection.create(own)))
        values = jax.device_get(
            [next(jitted) if type(x) in _states.JITTABLE else x.compute() for x in self.states]
        )
        for name, value in zip(self.names, values, strict=True):
            if np.ndim(value):
                raise ShapeError(
                    f"metric {name!r} has shape {np.shape(value)}, a metric is a single number"
                )
        return {k: float(v) for k, v in zip(self.names, values, strict=True)}

    def __getitem__(self, name: str) -> clu_metrics.Metric:
        if name not in self.names:
            hint = did_you_mean(str(name), self.names)
            raise UnknownNameError(
                f"no metric {name!r} here.{hint} There are: {', '.join(self.names) or 'none'}"
            )
        return self.states[self.names.index(name)]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        leaves = jax.tree.leaves(self.states)
        if not all(isinstance(x, jax.Array | np.ndarray | int | float) for x in leaves) or any(
            isinstance(x, jax.core.Tracer) for x in leaves
        ):
            # Under a transformation there are no values to show.
            return f"MetricCollection({', '.join(self.names)})"
        return f"MetricCollection({', '.join(f'{k}={v:.4g}' for k, v in self.compute().items())})"


def _merged(a: MetricCollection, b: MetricCollection) -> MetricCollection:
    return MetricCollection.create({name: a[name].merge(b[name]) for name in a.names})


def _computed(collection: MetricCollection) -> tuple[Any, ...]:
    return tuple(state.compute() for state in collection.states)


def _parts(collection: MetricCollection, *_: Any) -> tuple[Any, ...]:
    return collection.names, *map(type, collection.states)


_merge = Jitted(_merged, _parts)
_compute = Jitted(_computed, _parts)


@explained
def collect(
    metrics: Iterable[_spec.MetricLike] | _spec.MetricLike,
    outputs: Any,
    targets: Any,
    *,
    weights: Any = None,
    loss: Any = None,
) -> MetricCollection:
    """Computes several metrics of one batch; safe under ``jax.jit``.

    Args:
      metrics: specs, names or functions, as ``each_metric`` takes them; a name alone is fine.
      outputs: what the model returned.
      targets: what it should have returned.
      weights: [B], or more leading axes of the targets, or None. Weight 0 removes an example.
      loss: loss by example [B], or the batch's mean; if given, ``"loss"`` comes first.

    Returns:
      A collection to merge with those of other batches.

    Raises:
      ShapeError: outputs, targets and weights do not fit a metric.
      UnknownArgumentError: two different metrics have one name.
    """
    specs = [*_spec.each_metric(metrics)]
    if loss is not None:
        specs = [_spec.REGISTRY.get("loss"), *specs]
    chosen: dict[str, _spec.MetricSpec] = {}
    for spec in specs:
        if chosen.setdefault(spec.name, spec) != spec:
            raise UnknownArgumentError(
                f"two different metrics are called {spec.name!r}; give one of them another name: "
                f"flaxzoo.metrics.as_metric(..., name=...)"
            )
    return MetricCollection.create(
        {
            name: spec.update(outputs, targets, weights=weights, loss=loss)
            for name, spec in chosen.items()
        }
    )
