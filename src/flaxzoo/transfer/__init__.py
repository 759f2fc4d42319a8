"""Transfer learning: taking models apart, choosing what trains and how fast, using features.

What decides which parameters train, and how fast, is part of a training state: its modules are in
``flaxzoo.training``.
"""

from __future__ import annotations

from flaxzoo._explain import missing_from
from flaxzoo.training.freezing import freeze, label_params, matching_paths, zero_grads
from flaxzoo.training.param_groups import group_rates
from flaxzoo.training.rates import layer_decay_rates
from flaxzoo.training.refreezing import refreeze, unfreezing_schedule
from flaxzoo.transfer.features import Features, extract_features
from flaxzoo.transfer.neighbors import KNN, knn_evaluate
from flaxzoo.transfer.probe import LinearProbe, linear_probe
from flaxzoo.transfer.slicing import merge_variables, slice_model

__all__ = [
    "KNN",
    "Features",
    "LinearProbe",
    "extract_features",
    "freeze",
    "group_rates",
    "knn_evaluate",
    "label_params",
    "layer_decay_rates",
    "linear_probe",
    "matching_paths",
    "merge_variables",
    "refreeze",
    "slice_model",
    "unfreezing_schedule",
    "zero_grads",
]

__getattr__ = missing_from(__name__)
