"""Transfer learning: taking models apart, choosing what trains and how fast, using features.

Each name loads its module when it is first used: the training state needs ``freezing``, and the
rest needs the training state.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxzoo.transfer.features import Features, extract_features
    from flaxzoo.transfer.freezing import freeze, label_params, matching_paths, zero_grads
    from flaxzoo.transfer.neighbors import KNN, knn_evaluate
    from flaxzoo.transfer.probe import LinearProbe, linear_probe
    from flaxzoo.transfer.rates import group_rates, layer_decay_rates
    from flaxzoo.transfer.slicing import merge_variables, slice_model
    from flaxzoo.transfer.unfreezing import refreeze, unfreezing_schedule

_HOMES = {
    "KNN": "neighbors",
    "Features": "features",
    "LinearProbe": "probe",
    "extract_features": "features",
    "freeze": "freezing",
    "group_rates": "rates",
    "knn_evaluate": "neighbors",
    "label_params": "freezing",
    "layer_decay_rates": "rates",
    "linear_probe": "probe",
    "matching_paths": "freezing",
    "merge_variables": "slicing",
    "refreeze": "unfreezing",
    "slice_model": "slicing",
    "unfreezing_schedule": "unfreezing",
    "zero_grads": "freezing",
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
    value = getattr(importlib.import_module(f"flaxzoo.transfer.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
