"""Transfer learning: taking models apart, choosing what trains and how fast, using features.

Each name loads its module when it is first used. What decides which parameters train, and how
fast, is part of a training state: its modules are in ``flaxzoo.training``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxzoo.training.freezing import freeze, label_params, matching_paths, zero_grads
    from flaxzoo.training.param_groups import group_rates
    from flaxzoo.training.rates import layer_decay_rates
    from flaxzoo.training.refreezing import refreeze, unfreezing_schedule
    from flaxzoo.transfer.features import Features, extract_features
    from flaxzoo.transfer.neighbors import KNN, knn_evaluate
    from flaxzoo.transfer.probe import LinearProbe, linear_probe
    from flaxzoo.transfer.slicing import merge_variables, slice_model

_HOMES = {
    "KNN": "flaxzoo.transfer.neighbors",
    "Features": "flaxzoo.transfer.features",
    "LinearProbe": "flaxzoo.transfer.probe",
    "extract_features": "flaxzoo.transfer.features",
    "freeze": "flaxzoo.training.freezing",
    "group_rates": "flaxzoo.training.param_groups",
    "knn_evaluate": "flaxzoo.transfer.neighbors",
    "label_params": "flaxzoo.training.freezing",
    "layer_decay_rates": "flaxzoo.training.rates",
    "linear_probe": "flaxzoo.transfer.probe",
    "matching_paths": "flaxzoo.training.freezing",
    "merge_variables": "flaxzoo.transfer.slicing",
    "refreeze": "flaxzoo.training.refreezing",
    "slice_model": "flaxzoo.transfer.slicing",
    "unfreezing_schedule": "flaxzoo.training.refreezing",
    "zero_grads": "flaxzoo.training.freezing",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flaxzoo.transfer' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
