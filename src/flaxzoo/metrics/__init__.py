"""Metrics by name: weighted, mergeable and exact over batches of any size.

``get`` chooses one, ``collect`` computes several of a batch inside a jitted step, and the
``MetricCollection`` it returns merges with those of other batches. The value after merging is the
value on all the data at once, because what is merged are sums and never averages.
"""

from __future__ import annotations

from flaxzoo._explain import missing_from

# Importing these registers their metrics.
from flaxzoo.metrics import _classification as _classification
from flaxzoo.metrics import _f_scores as _f_scores
from flaxzoo.metrics import _regression as _regression
from flaxzoo.metrics._collection import MetricCollection, collect
from flaxzoo.metrics._spec import REGISTRY, MetricLike, MetricSpec, as_metric, each_metric

__all__ = [
    "REGISTRY",
    "MetricCollection",
    "MetricLike",
    "MetricSpec",
    "as_metric",
    "collect",
    "each_metric",
    "from_config",
    "get",
    "info",
    "list",
    "register",
]

get = REGISTRY.get
from_config = REGISTRY.from_config
register = REGISTRY.register
info = REGISTRY.info
list = REGISTRY.list
__getattr__ = missing_from(__name__, REGISTRY)
